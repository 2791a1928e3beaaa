"""Output of `optlab sweep --dry-run`: the runs, the budgets and a time estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from trainer import console
from trainer.cli.commands.sweep_training import PlannedSweep
from trainer.console import Column
from trainer.runs import rundir
from trainer.sweep.estimate import WORKER_START_SECONDS, Cost, measure, wall_seconds
from trainer.sweep.models import FINAL, Sweep, Variant
from trainer.sweep.plan import ExistingRuns, RunSpec, VariantInfo, budget, grid_settings, spec_for
from trainer.sweep.results import DONE
from trainer.sweep.runner import Options
from trainer.sweep.tasks import sweep_slots

DIFFERS = "differs"  # a run of another config is in its directory

INCLUDES = (
    "building, training steps and evaluations, measured on each variant's first setting; "
    f"{WORKER_START_SECONDS:.0f} s until the first run begins"
)
LEAVES_OUT = (
    "writing files, compiling (steps are timed eager), the comparison's figures, and the slowdown of workers "
    "that run at the same time"
)


def print_dry_runs(planned: Sequence[PlannedSweep], *, as_json: bool) -> None:
    """Print the runs of sweeps with their states, the budgets, and time estimates."""
    plans = [dry_run(plan) for plan in planned]
    if as_json:
        console.print_json(plans[0] if len(plans) == 1 else plans)
        return
    for plan, one in zip(planned, plans, strict=True):
        if len(plans) > 1:
            console.print_text(str(plan.root))
        if one["runs"]:
            rows = [[run["run"], run["state"]] for run in one["runs"]]
            console.table([Column("run"), Column("state")], rows)
        differing = sum(run["state"] == DIFFERS for run in one["runs"])
        if differing:
            console.print_note(
                f"{differing} existing runs differ from this sweep: give it another name (name=NAME), or "
                "replace them with --force"
            )
        console.print_pairs("budget per variant", one["budget"])
        at_most = "at most " if plan.sweep.config.prune or _may_stop_early(plan.infos) else ""
        estimate = f"{at_most}{console.format_seconds(one['seconds'])} on {one['workers']} workers"
        pairs = {
            "strategy": plan.sweep.config.strategy,
            "runs to train": one["new_runs"],
            "estimate": estimate,
            "it includes": INCLUDES,
            "it excludes": LEAVES_OUT,
        }
        console.print_pairs("plan", pairs)


def dry_run(plan: PlannedSweep) -> dict[str, Any]:
    """Return the runs of a sweep, the budgets, the number of new runs and their seconds."""
    read, root, options, infos = plan.sweep, plan.root, plan.options, plan.infos
    chosen = [v for v in read.variants.values() if not options.only or v.name in options.only]
    costs = {v.name: measure(read, _first(read, root, v), infos[v.name], plan.shared_data) for v in chosen}
    existing = ExistingRuns(read, root.absolute(), infos, plan.shared_data)
    listed = [
        (spec, DIFFERS if existing.differences(spec) else _state(spec.folder))
        for spec in _grid_runs(read, root, options)
    ]
    rounds = _rounds(read, root, chosen, listed, costs, shard=options.shard is not None)
    workers = len(sweep_slots(read, infos, options.workers))
    total = sum(map(len, rounds))
    budgets = {
        variant.name: f"{budget(read, variant)} settings x {len(read.seeds)} seeds"
        + (f", the best setting on {len(read.final_seeds)} fresh seeds" if read.final_seeds else "")
        for variant in read.variants.values()
    }
    runs = [
        {"run": str(spec.folder), "variant": spec.variant, "seed": spec.seed, "state": state}
        for spec, state in listed
    ]
    seconds = wall_seconds(rounds, workers) + (WORKER_START_SECONDS if total else 0)
    return {"runs": runs, "budget": budgets, "new_runs": total, "workers": workers, "seconds": seconds}


def _first(read: Sweep, root: Path, variant: Variant) -> RunSpec:
    values = {axis.key: axis.probes()[0] for axis in variant.axes}
    return spec_for(root, variant, "search", 0, values, read.seeds[0])


def _state(folder: Path) -> str:
    status = rundir.read_status(folder)
    return str(status["status"]) if status else "new"


def _grid_runs(read: Sweep, root: Path, options: Options) -> list[RunSpec]:
    """Return the runs of the selected variants and shard; none for a search, which has no fixed settings."""
    if read.config.strategy != "grid":
        return []
    specs = [
        spec_for(root, variant, "search", trial, values, seed)
        for variant in read.variants.values()
        for seed in read.seeds
        for trial, values in enumerate(grid_settings(variant))
    ]
    part, parts = options.shard or (1, 1)
    return [spec for spec in specs[part - 1 :: parts] if not options.only or spec.variant in options.only]


def _rounds(
    read: Sweep,
    root: Path,
    chosen: list[Variant],
    listed: list[tuple[RunSpec, str]],
    costs: Mapping[str, Cost],
    *,
    shard: bool,
) -> list[list[float]]:
    """Return the seconds of each run to train, in rounds: one for a grid, one per batch of a search."""
    rounds = []
    if read.config.strategy == "grid":
        new = [[s for s, state in listed if s.variant == v.name and state not in DONE] for v in chosen]
        taken_in_turn = chain.from_iterable(zip_longest(*new))
        rounds.append([costs[spec.variant].search for spec in taken_in_turn if spec])
    else:
        trials, batch = read.config.trials or 0, read.config.batch
        done = {v.name: _finished(root / v.name) for v in chosen}
        for begin in range(0, trials, batch):
            seconds = []
            for name in costs:
                count = min(batch, trials - begin) * len(read.seeds)
                there = min(done[name], count)
                done[name] -= there
                seconds += [costs[name].search] * (count - there)
            rounds.append(seconds)
    if not shard:
        searched = any(rounds)
        finals = []
        for variant in chosen:  # new results can change the winner
            there = 0 if searched else _finished(root / FINAL / variant.name)
            finals += [costs[variant.name].final] * max(len(read.final_seeds) - there, 0)
        rounds.append(finals)
    return rounds


def _finished(folder: Path) -> int:
    return sum(_state(path) in DONE for path in folder.iterdir()) if folder.is_dir() else 0


def _may_stop_early(infos: Mapping[str, VariantInfo]) -> bool:
    return any(info.config["train"]["early_stopping"] is not None for info in infos.values())
