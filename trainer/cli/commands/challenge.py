"""Implementation of `optlab challenge`: tune one optimizer on a suite, compare it with the baselines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainer import catalog, console
from trainer.cli.commands.components import announce_code
from trainer.cli.commands.sweep_plan import dry_run
from trainer.cli.commands.sweep_training import PlannedSweep, plan_sweeps, train_sweep
from trainer.cli.options import ChallengeOptions, OutputOptions, SweepOptions
from trainer.compare import Comparison, compare_runs
from trainer.compare.pairwise_tests import heading
from trainer.config import packaged
from trainer.config.yaml_reader import Tree
from trainer.console import Column
from trainer.errors import ConfigError, FigureError, OptlabError, RunError, unknown_name
from trainer.plots.titles import listed
from trainer.runs import rundir
from trainer.suites import baselines as stored_baselines
from trainer.suites.baselines import Baselines
from trainer.suites.challenge_result import VERDICTS, compare_challenge
from trainer.suites.challenger import BASELINES, FIGURES, Challenger, challenger_of, read_stated
from trainer.suites.pairing import first_final, pairing_digests, unpaired
from trainer.suites.space import LR, Space, parse_search, space_of
from trainer.suites.step_cost import step_milliseconds
from trainer.suites.verdicts import Verdict, paper_table
from trainer.sweep.file import read_sweeps
from trainer.sweep.models import FINAL, Sweep
from trainer.sweep.plan import RunSpec, budget, load_run_config
from trainer.sweep.results import SUMMARY
from trainer.training.building import build_experiment


def challenge(optimizer: str, options: ChallengeOptions, output: OutputOptions) -> int:
    """Run a challenge, or print its plan with `dry_run`. Return the exit code."""
    suite = _suite_file(options.suite)
    problems = read_sweeps(suite)
    if not all("/" in sweep.config.name for sweep in problems):
        raise ConfigError(f"{suite} has no problems", key="--suite", fix="use a suite: optlab init --list")
    names = _chosen(options.problems, [problem_of(sweep) for sweep in problems])
    baselines = stored_baselines.stored(suite)
    if baselines is None and not options.train_baselines:
        raise _none_stored(options.suite, problems)
    known = list(dict.fromkeys(name for sweep in problems for name in sweep.variants))
    stated = read_stated(optimizer)
    announce_code(stated.component)
    challenger = challenger_of(stated, options.name, known)
    space = _space(challenger, options, problems[0])
    out = options.out or Path("runs") / f"{suite.stem}-{challenger.name}"
    seeds = _seeds(options.seeds, problems[0])
    used = {} if baselines is None or options.train_baselines else baselines.problems
    targets = {name: one["target"] for name, one in used.items()}
    sweeps = _sweeps(suite, challenger, space, out, seeds, names, targets)
    training = SweepOptions(workers=options.workers, force=options.force, figures=False)
    planned, missing = plan_sweeps(sweeps, out.parent, training, quiet=output.quiet)
    _print_plan(challenger, space, planned, problems[0], seeds)
    if options.dry_run:
        return 2 if missing else 0
    code = 0
    if options.train_baselines:
        code = _train_baselines(suite, out, planned, training, quiet=output.quiet)
        planned = _with_targets(planned, out) if code in (0, 4) and len(planned) > 1 else planned
    else:
        assert baselines is not None
        _check_pairing(suite, planned, baselines, quiet=output.quiet)
        stored_baselines.unpack(baselines, out / BASELINES)
    summaries: dict[str, Mapping[str, Any]] = {}
    for plan in planned if code in (0, 4) else ():
        one, summaries[problem_of(plan.sweep)] = train_sweep(plan, force=options.force, quiet=output.quiet)
        code = max(code, one)
        if code not in (0, 4):
            break
    if code in (0, 4):
        _report(challenger, planned, summaries, out, output, draw=options.figures)
    else:
        console.print_note("interrupted; finished runs are kept, rerun the command to continue")
    for error in missing:
        console.print_error(error)
    return 2 if missing and code == 0 else code


def problem_of(sweep: Sweep) -> str:
    """Return the name of the problem of a sweep."""
    return sweep.config.name.partition("/")[2]


# What is challenged, and where


def _suite_file(name: str) -> Path:
    suites = packaged.names("suite")
    if name in suites:
        return suites[name]
    path = Path(name)
    if not path.is_file():
        raise unknown_name("suite", name, list(suites), key="--suite")
    return path.absolute()


def _chosen(text: str | None, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text else list(known)
    for name in names:
        if name not in known:
            raise unknown_name("problem", name, known, key="--problems")
    return names


def _none_stored(suite: str, problems: Sequence[Sweep]) -> ConfigError:
    runs = sum(
        budget(sweep, variant) * len(sweep.seeds) + len(sweep.final_seeds)
        for sweep in problems
        for variant in sweep.variants.values()
    )
    return ConfigError(
        f"no baselines are stored for the suite {suite}",
        key="--suite",
        expected="a suite with stored baselines, such as tiny",
        fix=f"add --train-baselines to train them here: {runs:,} runs, see optlab sweep {suite} --dry-run",
    )


def _space(challenger: Challenger, options: ChallengeOptions, first: Sweep) -> Space:
    """Return the search space; by default the learning rates that the baselines try."""
    stated = {str(key): value for key, value in challenger.axes.items()}
    stated |= dict(parse_search(text) for text in options.search or ())
    fixed = challenger.overlay.data["optimizer"]
    axis = next((axis for one in first.variants.values() for axis in one.axes if axis.key == LR), None)
    has_lr = "lr" in challenger.options and "lr" not in fixed
    default = {LR: axis.as_config()} if has_lr and axis is not None else {}
    return space_of(stated, default, budget(first, next(iter(first.variants.values()))), options.trials)


def _seeds(wanted: int | None, sweep: Sweep) -> list[int]:
    seeds = sweep.final_seeds
    if wanted is not None and wanted > len(seeds):
        raise ConfigError(
            f"the baselines have {len(seeds)} seeds", key="--seeds", expected=f"2 to {len(seeds)}"
        )
    return seeds[:wanted]


def _sweeps(
    suite: Path,
    challenger: Challenger,
    space: Space,
    out: Path,
    seeds: Sequence[int],
    names: Sequence[str],
    targets: Mapping[str, str],
) -> list[Sweep]:
    """Return the sweeps of the challenge: those of the suite, with the new optimizer as the only variant."""
    axes = {LR: None} | dict(space.axes)
    overlay = Tree(challenger.overlay.data | {"axes": axes}, challenger.overlay.positions)
    overrides = [f"final_seeds={json.dumps(list(seeds))}", f"strategy={space.strategy}"]
    overrides += [f"trials={space.trials}"] if space.strategy != "grid" else []
    sweeps = []
    for sweep in read_sweeps(suite, overrides, {challenger.name: overlay}):
        problem = problem_of(sweep)
        if problem in names:
            update = {"name": f"{out.name}/{problem}", "target": targets.get(problem), "reference": None}
            config = sweep.config.model_copy(update=update)
            variants = {challenger.name: sweep.variants[challenger.name]}
            sweeps.append(replace(sweep, config=config, variants=variants))
    return sweeps


def _print_plan(
    challenger: Challenger, space: Space, planned: Sequence[PlannedSweep], suite: Sweep, seeds: Sequence[int]
) -> None:
    """Print the search space, the budget and an estimate, on stderr."""
    fixed = challenger.overlay.data["optimizer"]
    pairs: dict[str, Any] = {f"search {key}": _axis_text(axis) for key, axis in space.axes.items()}
    searched = {key.removeprefix("optimizer.") for key in space.axes}
    kept = {key: fixed.get(key, value) for key, value in challenger.options.items() if key not in searched}
    pairs["not searched"] = ", ".join(f"{key}={value}" for key, value in kept.items()) or "nothing"
    own = budget(suite, next(iter(suite.variants.values())))
    as_baselines = "as each baseline" if space.trials == own else f"the baselines have tried {own}"
    pairs["budget"] = (
        f"{space.trials} settings ({as_baselines}), the best one on {len(seeds)} fresh seeds, on each of "
        f"{len(planned)} problems"
    )
    plans = [dry_run(plan) for plan in planned]
    seconds = console.format_seconds(sum(one["seconds"] for one in plans))
    runs = sum(one["new_runs"] for one in plans)
    pairs["estimate"] = f"{runs} runs to train, {seconds} on {plans[0]['workers']} workers"
    console.print_pairs(f"challenge of {challenger.name}", pairs)


def _axis_text(axis: Any) -> str:
    return ", ".join(f"{value}" for value in axis) if isinstance(axis, list) else str(axis)


# The baselines


def _check_pairing(
    suite: Path, planned: Sequence[PlannedSweep], baselines: Baselines, *, quiet: bool
) -> None:
    """Check that the stored runs have the same data, initial weights and batches as new runs would have.

    Raises:
        RunError: they differ, so that results cannot be paired.
    """
    by_problem = {problem_of(sweep): sweep for sweep in read_sweeps(suite)}
    faults = []
    with console.waiting("Checking the pairing with the baselines", quiet=quiet):
        for plan in planned:
            problem = problem_of(plan.sweep)
            info = baselines.problems.get(problem)
            if info is None:
                faults.append(f"{problem}: no stored baselines")
                continue
            sweep = replace(
                by_problem[problem],
                config=by_problem[problem].config.model_copy(update={"final_seeds": plan.sweep.final_seeds}),
            )
            variant = next(iter(sweep.variants.values()))
            digests = pairing_digests(sweep, variant, plan.shared_data)
            if different := unpaired(digests, info["pairing"], sweep.final_seeds):
                faults.append(f"{problem}: {len(different)} of {len(digests)} seeds differ")
    if faults:
        versions = ", ".join(f"{name} {version}" for name, version in baselines.info["versions"].items())
        raise RunError(
            "the stored baselines cannot be paired with new runs, because data, initial weights or batches "
            "differ:\n    " + "\n    ".join(faults),
            expected=f"the versions of the baselines: {versions}",
            fix="add --train-baselines to train the baselines here",
        )
    count = len(planned[0].sweep.final_seeds)
    console.print_note(
        f"paired with the stored baselines: same data, initial weights and batches for {count} seeds on "
        f"{len(planned)} problems"
    )


def _train_baselines(
    suite: Path, out: Path, planned: Sequence[PlannedSweep], training: SweepOptions, *, quiet: bool
) -> int:
    """Train the baselines of the suite whose packages are installed; return the exit code."""
    names = {problem_of(plan.sweep) for plan in planned}
    sweeps = []
    left_out: dict[str, str] = {}
    for sweep in read_sweeps(suite):
        if problem_of(sweep) not in names:
            continue
        variants = dict(sweep.variants)
        for name, variant in sweep.variants.items():
            if reason := _missing_part(variant.tree.data.get("optimizer")):
                left_out[name] = reason
                del variants[name]
        config = sweep.config.model_copy(update={"name": f"{BASELINES}/{problem_of(sweep)}"})
        sweeps.append(replace(sweep, config=config, variants=variants))
    for name, reason in left_out.items():
        console.print_note(f"left out the baseline {name}: {reason}")
    if (out / BASELINES / stored_baselines.INDEX).is_file():
        raise RunError(f"{out / BASELINES} has the stored baselines", fix="use another --out")
    code = 0
    plans, _ = plan_sweeps(sweeps, out, training, quiet=quiet)
    for plan in plans:
        code = max(code, train_sweep(plan, force=training.force, quiet=quiet)[0])
        if code not in (0, 4):
            break
    return code


def _with_targets(planned: Sequence[PlannedSweep], out: Path) -> list[PlannedSweep]:
    """Return the plans with the targets that the trained baselines set, without the new optimizer."""
    folders = [out / BASELINES / problem_of(plan.sweep) / FINAL for plan in planned]
    comparison = compare_runs(folders, draw=False)
    with_targets = []
    for plan in planned:
        target = comparison.targets[0].on(problem_of(plan.sweep))
        config = plan.sweep.config.model_copy(update={"target": str(target)})
        with_targets.append(replace(plan, sweep=replace(plan.sweep, config=config)))
    return with_targets


def _missing_part(optimizer: Any) -> str:
    """Return why an optimizer of a suite cannot be used; empty if it can."""
    try:
        for part in listed(optimizer):
            catalog.find("optimizer", part["name"])
    except OptlabError as error:
        return error.problems[0].what
    return ""


# Results


def _report(
    challenger: Challenger,
    planned: Sequence[PlannedSweep],
    summaries: Mapping[str, Mapping[str, Any]],
    out: Path,
    output: OutputOptions,
    *,
    draw: bool,
) -> None:
    """Compare the final runs with those of the baselines; print the verdicts and write the files."""
    with console.waiting("Comparing the runs", quiet=output.quiet):
        problems = [problem_of(plan.sweep) for plan in planned]
        result = compare_challenge(out, challenger.name, problems, draw=draw)
    comparison, verdicts, lines = result.comparison, result.verdicts, result.lines
    tuned = _tuned(out, planned, summaries)
    costs = _costs(comparison, challenger, planned, summaries, out)
    rundir.make_folder(out / FIGURES)
    try:
        comparison.save(out / FIGURES)
    except FigureError as error:
        console.print_note(f"warning: {error}")
    document = {
        "format": 1,
        "optimizer": challenger.name,
        "verdicts": [asdict(one) for one in verdicts],
        "tuned": {problem: values.get(challenger.name) for problem, values in tuned.items()},
        "costs": costs,
        "summary": lines,
        "notes": list(comparison.notes),
    }
    rundir.write_json(out / VERDICTS, document)
    rundir.write_atomically(out / "verdicts.csv", _csv_text(verdicts))
    for ending, kind in (("md", "markdown"), ("tex", "latex")):
        rundir.write_atomically(out / f"paper_table.{ending}", paper_table(comparison, tuned, kind))
    for note in comparison.notes:
        console.print_note(f"note: {note}")
    if output.as_json:
        console.print_json(document)
        return
    if len(comparison.differences):
        console.print_sentence(heading(comparison.differences))
    for line in lines:
        console.print_sentence(line)
    console.print_text("")
    columns = [Column("problem"), Column("tuned"), Column("ms per step", "right")]
    columns += [Column("SGD, ms per step", "right"), Column("optimizer state, bytes", "right")]
    rows = [
        [
            one["problem"],
            ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in (one["tuned"] or {}).items()),
            f"{one['ms_per_step']:.3g}",
            f"{one['sgd_ms_per_step']:.3g}",
            f"{one['optimizer_state_bytes']:,}",
        ]
        for one in costs
    ]
    console.table(columns, rows)
    written = "verdicts, a table for a paper and figures" if draw else "verdicts and a table for a paper"
    console.print_note(f"{written} are in {out}")


def _tuned(
    out: Path, planned: Sequence[PlannedSweep], summaries: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the best setting by problem and optimizer."""
    tuned = {}
    for plan in planned:
        problem = problem_of(plan.sweep)
        stored = json.loads((out / BASELINES / problem / SUMMARY).read_text(encoding="utf-8"))
        parts = {**stored["variants"], **summaries[problem]["variants"]}
        tuned[problem] = {name: part["best"]["values"] for name, part in parts.items() if part["best"]}
    return tuned


def _costs(
    comparison: Comparison,
    challenger: Challenger,
    planned: Sequence[PlannedSweep],
    summaries: Mapping[str, Mapping[str, Any]],
    out: Path,
) -> list[dict[str, Any]]:
    """Return time per step and state memory by problem, with the time of SGD measured alternately."""
    costs = []
    state = {
        row["problem"]: int(row["state_bytes"])
        for row in comparison.groups.to_dict("records")
        if row["group"] == challenger.name
    }
    for plan in planned:
        problem = problem_of(plan.sweep)
        best = summaries[problem]["variants"][challenger.name]["best"]
        if best is None:
            continue
        spec = first_final(plan.sweep, plan.sweep.variants[challenger.name], plan.sweep.final_seeds[0])
        spec = replace(spec, values=best["values"])
        plain = _built(plan, replace(spec, values={}), ["optimizer={name: SGD, lr: 0.001}", "scheduler=null"])
        own, sgd = step_milliseconds([_built(plan, spec, []), plain])
        costs.append(
            {
                "problem": problem,
                "tuned": best["values"],
                "ms_per_step": own,
                "sgd_ms_per_step": sgd,
                "optimizer_state_bytes": state.get(problem if len(planned) > 1 else "", 0),
            }
        )
    return costs


def _built(plan: PlannedSweep, spec: RunSpec, more: Sequence[str]) -> Any:
    loaded = load_run_config(plan.sweep, spec, more)
    return build_experiment(loaded, loaded_data=plan.shared_data.loaded_data(loaded))


def _csv_text(verdicts: Sequence[Verdict]) -> str:
    text = io.StringIO()
    rows = [asdict(one) for one in verdicts]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["problem"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
