"""What some runs have logged beside their curves: weights, gradients of single parameters, samples.

One run of each group is shown, the one with the first seed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from trainer.compare.groups import Group
from trainer.errors import OptlabError
from trainer.plots import examples as example_figures
from trainer.plots.style import render, settings
from trainer.report.downsampling import kept_rows
from trainer.report.numbers import Number, number, numbers
from trainer.runs import rundir

MAX_RUNS = 12
MAX_PARAMETERS = 24
MAX_SNAPSHOTS = 8
MAX_ROWS = 200

Item = TypeVar("Item")


def details_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return weight histograms and gradient norms by parameter, for each shown run that logged some."""
    found = []
    for group, place in _shown(groups):
        entry = group.entries[0]
        norms, histograms = _gradient_norms(entry.run), _histograms(entry.run)
        if norms or histograms:
            found.append({"run": place, "norms": norms, "histograms": histograms})
            if len(found) == MAX_RUNS:
                break
    return found


def samples_of(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Return images and texts of the models' outputs, for each shown run that stored some."""
    found: list[dict[str, str]] = []
    runs = 0
    for group, _ in _shown(groups):
        try:
            examples = rundir.read_examples(group.entries[0].run.path)
        except OptlabError:  # a damaged file has no samples
            continue
        if examples and runs < MAX_RUNS:
            runs += 1
            found += _samples(examples, f"{group.label}, seed {group.entries[0].seed}")
    return found


def _shown(groups: Sequence[Group]) -> Iterator[tuple[Group, int]]:
    """Yield the groups, each with the index of its first run among all runs."""
    place = 0
    for group in groups:
        yield group, place
        place += len(group.entries)


def _samples(examples: dict[str, Any], title: str) -> Iterator[dict[str, str]]:
    if text := examples.get("text"):
        yield {"title": f"sample: {title}", "text": text}
    for name, draw in example_figures.drawings(examples, ""):
        try:
            with settings():
                content = render(draw(), "png")
        except Exception:  # the examples of a damaged file cannot be drawn
            continue
        name = name.replace("_", " ")
        yield {"title": f"{name}: {title}", "image": base64.b64encode(content).decode()}


def _gradient_norms(run: rundir.Run) -> dict[str, list[Number]]:
    """Return the drawn rows of the gradient norms by parameter, with their steps."""
    columns = [name for name in run.steps if name.startswith("grad_norm.")]
    if not columns:
        return {}
    names = ("step", *_evenly(columns, MAX_PARAMETERS))
    cells = {name: np.array(run.steps[name], dtype=np.float64) for name in names}
    kept = kept_rows([cells[name] for name in cells if name != "step"], MAX_ROWS)
    return {name.removeprefix("grad_norm."): numbers(values[kept]) for name, values in cells.items()}


def _histograms(run: rundir.Run) -> list[dict[str, Any]]:
    """Return snapshots of the weights: of each layer the centres of the bins and the density there."""
    try:
        snapshots = rundir.read_histograms(run.path)
    except OptlabError:
        return []
    names = _evenly(list(snapshots[0]["layers"]), MAX_PARAMETERS) if snapshots else []
    return [
        {
            "epoch": number(snapshot["epoch"]),
            "layers": {
                name: _density(snapshot["layers"][name]) for name in names if name in snapshot["layers"]
            },
        }
        for snapshot in _evenly(snapshots, MAX_SNAPSHOTS)
    ]


def _density(layer: dict[str, Any]) -> list[list[Number]]:
    edges, counts = np.array(layer["edges"]), np.array(layer["counts"], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = counts / counts.sum() / np.diff(edges)
    return [numbers((edges[:-1] + edges[1:]) / 2), numbers(density)]


def _evenly(items: Sequence[Item], limit: int) -> list[Item]:
    if len(items) <= limit:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, limit)]
