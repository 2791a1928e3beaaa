"""A complete comparison of runs: frames, verdicts, notes, figures, and the files written from them."""

from __future__ import annotations

import base64
import copy
import html
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from trainer.compare import tuning
from trainer.compare.curves import Axis, Scale
from trainer.compare.entries import Entry
from trainer.compare.figure_style import find_style
from trainer.compare.figures import CurveOptions, draw_all
from trainer.compare.groups import Grouping, group_runs
from trainer.compare.lines import Lines, assign_lines
from trainer.compare.load import find, is_final, sweep_of
from trainer.compare.measures import (
    AnyTarget,
    columns_of,
    group_frame,
    parse_target,
    primary_metric,
    results_of,
    run_frame,
    timed_on,
)
from trainer.compare.objective import Selection, selection_of
from trainer.compare.pairwise_tests import (
    ALL_PAIRS,
    check_confidence,
    heading,
    pairwise_differences,
    summary_lines,
)
from trainer.compare.table import caption, plain_records, render_table, sections
from trainer.compare.targets import problem_targets
from trainer.errors import FigureError, Problem, unknown_name
from trainer.metrics import Metric
from trainer.plots.style import render
from trainer.plots.titles import listed
from trainer.runs import rundir
from trainer.runs.rundir import Run
from trainer.statistics import ExpectedBest
from trainer.statistics.curves import BandKind


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Args:
        grouping: the groups and the keys in which they differ.
        runs: one row per run.
        groups: one row per group: counts, means with intervals, median times to targets, cost.
        differences: one row per pair of groups within a problem: difference, interval, tests, minimum
            detectable difference, all at the level of the whole family of pairs.
        sensitivity: one row per family of groups along a swept key; empty if nothing was swept.
        metrics: the result of which differences are computed on each problem, for example `test_accuracy`.
        confidence: confidence level of each group's interval, and of all intervals of differences together.
        targets: the targets to which times were measured.
        search: the runs at several settings, and the rule by which the settings are compared.
        budgets: expected best of k random trials, by problem and family of settings.
        lines: the lines of groups and families in all figures.
        tuning_lines: the sensitivity as text.
        notes: runs left out, unintended differences between groups, and figures that could not be drawn.
        figures: figures by name, for example `val_loss`; empty if none were requested.
    """

    grouping: Grouping
    runs: pd.DataFrame
    groups: pd.DataFrame
    differences: pd.DataFrame
    sensitivity: pd.DataFrame
    metrics: Mapping[str, str]
    confidence: float
    targets: tuple[AnyTarget, ...]
    search: tuning.Search
    budgets: Mapping[tuple[str, str], ExpectedBest]
    lines: Lines
    tuning_lines: tuple[str, ...]
    notes: tuple[str, ...]
    figures: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The result of which differences are computed, on the first problem if there are several."""
        return next(iter(self.metrics.values()))

    @property
    def selection(self) -> Selection:
        """How the settings of a swept key are compared, on the first problem if there are several."""
        return next(iter(self.selections.values()))

    @property
    def selections(self) -> Mapping[str, Selection]:
        """How the settings of a swept key are compared on each problem, and where the rules come from."""
        return self.search.selections

    def verdict_lines(self) -> list[str]:
        """Return the differences as text, below a heading with their metric and confidence level."""
        lines = summary_lines(self.differences, self.grouping.metrics)
        return [heading(self.differences), *lines] if lines else []

    def _repr_html_(self) -> str:
        """Return the table, the differences, the notes and the figures for a notebook."""
        names, parts = sections(self.groups, self.targets, self.grouping.metrics)
        cells = {heading: column for part in (names, *parts) for heading, column in part.items()}
        lines = [*self.verdict_lines(), *(f"note: {note}" for note in self.notes)]
        text = html.escape("\n".join([caption(self.confidence), *lines]))
        images = [
            f'<img alt="{html.escape(name)}" width="600" src="data:image/png;base64,{content}">'
            for name, figure in self.figures.items()
            for content in [base64.b64encode(render(figure, "png")).decode()]
        ]
        return f"{pd.DataFrame(cells).to_html(index=False)}<pre>{text}</pre>{''.join(images)}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything except the figures as JSON-serializable values."""
        selections = [
            asdict(one.rule) | {"source": one.source} | ({"problem": problem} if problem else {})
            for problem, one in self.selections.items()
        ]
        return {
            "format": 1,
            "metric": self.metric,
            "confidence": self.confidence,
            "compared": list(self.grouping.keys),
            "groups": plain_records(self.groups),
            "differences": plain_records(self.differences),
            "selection": selections[0] if len(selections) == 1 else selections,
            "sensitivity": plain_records(self.sensitivity),
            "runs": plain_records(self.runs),
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path, formats: Sequence[str] = ("png",)) -> list[Path]:
        """Write the figures and the table (table.csv, .md, .tex), differences.csv and runs.csv.

        Args:
            folder: created if it does not exist; files of the same name are replaced.
            formats: png, svg or pdf, one file of each per figure.

        Returns:
            All paths, in the order of writing.

        Raises:
            FigureError: some figures could not be drawn; everything else is written.
        """
        target = Path(folder)
        problems: list[Problem] = []
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, figure in self.figures.items():
            for file_format in formats:
                path = target / f"{name}.{file_format}"
                try:
                    rundir.write_atomically(path, render(figure, file_format))
                    paths.append(path)
                except FigureError as error:
                    problems.append(Problem(f"cannot draw {path}: {error}"))
        texts = {
            f"table.{ending}": render_table(self.groups, self.targets, file_format, self.grouping.metrics)
            for ending, file_format in (("csv", "csv"), ("md", "markdown"), ("tex", "latex"))
        }
        texts["differences.csv"] = self.differences.to_csv(index=False, lineterminator="\n")
        texts["runs.csv"] = self.runs.to_csv(index=False, lineterminator="\n")
        for name, text in texts.items():
            paths.append(target / name)
            rundir.write_atomically(paths[-1], text)
        if problems:
            raise FigureError.of(problems)
        return paths


def load_runs(*paths: str | Path) -> list[Run]:
    """Read every finished run at or below the given directories or globs; warn about runs left out.

    Raises:
        RunError: a path does not exist, or no run is left.
    """
    loaded = find(paths)
    for note in loaded.notes:
        warnings.warn(note, stacklevel=2)
    return [replace(run, steps=dict(run.steps), config=copy.deepcopy(run.config)) for run in loaded.runs]


def compare_runs(
    runs: str | Path | Iterable[Run | str | Path],
    *,
    by: Sequence[str] = (),
    targets: Sequence[str] = (),
    metric: str | None = None,
    against: str | None = None,
    bootstrap: bool = False,
    confidence: float = 0.95,
    within: float = 0.05,
    random_search: bool = False,
    draw: bool = True,
    x: Axis = "step",
    scale: Scale | None = None,
    centre: Literal["mean", "median"] = "mean",
    band: BandKind | None = "min_max",
    smooth: bool = True,
    multiples: bool | None = None,
    style: str = "screen",
    size: tuple[float, float] | None = None,
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare groups of runs that are equal except for the seed.

    Args:
        runs: runs as returned by `load_runs`, or directories and globs.
        by: dotted keys that define the groups, such as `optimizer.name`; empty = every key that differs.
        targets: targets such as `val_accuracy=0.95`, to which times are measured.
        metric: the result that is tested, such as `test_accuracy` or `val_loss`; None = the test result at
            the selected checkpoint if all runs have one, else the validation result. A given result that is
            not a test result also replaces the objective by which settings of a swept key are compared.
        against: name of the group that the others are compared with; None = all pairs of up to five groups.
        bootstrap: use the percentile bootstrap instead of Student's t for paired differences.
        confidence: confidence level of each group's interval, and of all intervals of differences together,
            in (0, 1).
        within: tolerated loss as a share of the best result along a swept key, >= 0.
        random_search: treat the runs as a random search even if no sweep.yaml says so.
        draw: draw the figures.
        x, scale, centre, band, smooth, multiples: options of the curves; see `curves.draw_curves`.
        style: screen, slides, paper or print (greyscale).
        size: width and height of the figures in inches; None = those of the style.
        title: title of the figures; empty = none; None = what the runs have in common.
        labels: labels of groups, or of families of settings, in the figures, by their names.

    Raises:
        RunError: no run is left to compare.
        ConfigError: an option is invalid.
    """
    figure_style = find_style(style, size, title, labels)
    check_confidence(confidence)
    all_runs, notes = _runs(runs)
    finals, searched, reasons = _stages(all_runs)
    notes += reasons
    grouping = group_runs(finals, by)
    entries = [entry for group in grouping.groups for entry in group.entries]
    goals: tuple[AnyTarget, ...] = tuple(dict.fromkeys(parse_target(text, entries) for text in targets))
    frame = run_frame(grouping, goals)
    frames = {problem: frame[frame["problem"] == problem] for problem in grouping.problems}
    judged = {
        problem: _metric(metric, frame) if metric else primary_metric(one) for problem, one in frames.items()
    }
    trials = group_runs(searched, by) if len(searched) < len(all_runs) else grouping
    selections = _selections(trials, next(iter(judged.values())) if metric else None)
    search = tuning.search_of(trials, selections, within=within, confidence=confidence)
    if not goals:
        derived, reasons = problem_targets(grouping, selections)
        notes += reasons
        if derived is not None:
            goals = (derived,)
            frame = run_frame(grouping, goals)
    notes += [
        *grouping.notes,
        *(note for one in frames.values() for note in _missing_notes(one, grouping.metrics)),
        *_machine_notes(entries),
        *_test_notes(grouping),
        *_single_seed_notes(grouping),
        *_untuned_notes(trials),
    ]
    if against is None and max(Counter(group.problem for group in grouping.groups).values()) > ALL_PAIRS:
        notes.append(
            f"more than {ALL_PAIRS} groups: each is compared with the group of the best mean. The same seeds "
            "selected that group, so its mean is optimistic; train the best groups again on fresh seeds"
        )
    if not any(note.endswith("pruned") for note in notes):  # pruned trials are missing here
        notes += search.unequal()
    _check_labels(labels or {}, grouping, search)
    at_random = tuning.random_families(trials, selections, assume_random=random_search)
    budgets = tuning.budget_curves(search, at_random)
    if random_search and not budgets:
        notes.append("no budget curve: it needs at least two settings that differ only in numbers")
    lines = assign_lines(grouping, search, at_random)
    figures: dict[str, Figure] = {}
    if draw:
        curves = CurveOptions(x, scale, centre, band, smooth, multiples)
        figures, reasons = draw_all(grouping, frame, goals, search, budgets, lines, curves, figure_style)
        notes += reasons
    return Comparison(
        grouping=grouping,
        runs=frame,
        groups=group_frame(grouping, frame, goals, confidence=confidence),
        differences=pairwise_differences(
            grouping, frame, judged, against=against,
            method="bootstrap" if bootstrap else "t", confidence=confidence,
        ),
        sensitivity=search.table(),
        metrics=judged,
        confidence=confidence,
        targets=goals,
        search=search,
        budgets=budgets,
        lines=lines,
        tuning_lines=tuple(search.lines()),
        notes=tuple(dict.fromkeys(notes)),
        figures=figures,
    )  # fmt: skip


def _untuned_notes(trials: Grouping) -> list[str]:
    """Return a note if several optimizers are compared at one setting each."""
    settings: dict[str, Counter[tuple[str, ...]]] = {}
    for group in trials.groups:
        optimizers = listed(group.entries[0].run.config["optimizer"])
        settings.setdefault(group.problem, Counter())[tuple(part["name"] for part in optimizers)] += 1
    if not any(len(counts) > 1 and set(counts.values()) == {1} for counts in settings.values()):
        return []
    return [
        "each optimizer has one setting, so this compares settings and not tuned optimizers; `optlab sweep` "
        "tunes each with the same budget: optimizer.lr=0.1,0.01,0.001 final_seeds=5"
    ]


def _check_labels(labels: Mapping[str, str], grouping: Grouping, search: tuning.Search) -> None:
    """Raise ConfigError if a label is for a group that does not exist."""
    names = [group.name for group in grouping.groups]
    for problem in search.grouping.problems:
        names += [one.name for one in tuning.families(search.grouping, search.swept, problem) if one.name]
    for name in labels:
        if name not in names:
            raise unknown_name("group", name, list(dict.fromkeys(names)), key="--label")


def _selections(trials: Grouping, metric: str | None) -> dict[str, Selection]:
    """Return how settings are compared on each problem; on all problems alike if the rules are the same."""
    entries = {
        problem: [entry for group in trials.groups if group.problem == problem for entry in group.entries]
        for problem in trials.problems
    }
    return {problem: selection_of(each, metric) for problem, each in entries.items()}


def _stages(runs: Sequence[Run]) -> tuple[list[Run], list[Run], list[str]]:
    """Return the runs to compare, the runs that show tuning, and a note if the two differ.

    If a sweep trained its best settings again on fresh seeds, only those final runs are compared: the best
    runs of the search were selected by their results, which are therefore biased.
    """
    final = [is_final(run) for run in runs]
    sweeps = {sweep_of(run) for run, chosen in zip(runs, final, strict=True) if chosen}
    trial = [not chosen and sweep_of(run) in sweeps for run, chosen in zip(runs, final, strict=True)]
    if not any(final) or not any(trial):
        return list(runs), list(runs), []
    compared = [run for run, tried in zip(runs, trial, strict=True) if not tried]
    searched = [run for run, chosen in zip(runs, final, strict=True) if not chosen]
    note = (
        f"the table and the tests use the {sum(final)} final runs on fresh seeds; "
        f"the {sum(trial)} runs of the search are used for sensitivity only"
    )
    return compared, searched, [note]


def _runs(runs: str | Path | Iterable[Run | str | Path]) -> tuple[list[Run], list[str]]:
    items = [runs] if isinstance(runs, str | Path) else list(runs)
    read = [one for one in items if isinstance(one, Run)]
    paths = [one for one in items if not isinstance(one, Run)]
    if not paths and read:
        return read, []
    loaded = find(paths)
    return [*read, *loaded.runs], list(loaded.notes)


def _metric(name: str, frame: pd.DataFrame) -> str:
    known = results_of(frame)
    for candidate in (name, f"final_{name}"):
        if candidate in known:
            return candidate
    raise unknown_name("result", name, known, key="--metric")


def _missing_notes(frame: pd.DataFrame, metrics: Sequence[Metric]) -> list[str]:
    ended = frame[frame["status"] != "diverged"]
    notes = []
    for name in columns_of(metrics):
        without = ended[ended[f"final_{name}"].isna()]
        if 0 < len(without) < len(ended):
            others = f" and {len(without) - 1} more" if len(without) > 1 else ""
            notes.append(f"no {name} in {without['run'].iloc[0]}{others}: left out where it is shown")
    return notes


def _machine_notes(entries: Sequence[Entry]) -> list[str]:
    machines = sorted({timed_on(one) for one in entries})
    if len(machines) < 2:
        return []
    return [f"the runs were timed on {'; on '.join(machines)}: seconds and milliseconds are not comparable"]


def _test_notes(grouping: Grouping) -> list[str]:
    """Return a note if runs used the test split for validation."""
    seen = [
        group.label
        for group in grouping.groups
        if any(entry.run.config["data"].get("val_from") == "test" for entry in group.entries)
    ]
    if not seen:
        return []
    which = "all runs" if len(seen) == len(grouping.groups) else f"runs of {', '.join(seen)}"
    return [
        f"{which} used the test split for validation (data.val_from=test): settings and checkpoints may be "
        "selected on it, so results on the test split are not unbiased"
    ]


def _single_seed_notes(grouping: Grouping) -> list[str]:
    single = [group.label for group in grouping.groups if len({entry.seed for entry in group.entries}) == 1]
    if not single:
        return []
    subject = f"{', '.join(single)} {'has' if len(single) == 1 else 'have'}"
    if len(single) == len(grouping.groups):
        subject = "every group has"
    return [f"{subject} only one seed, so there is no interval and no test; a difference may be chance"]
