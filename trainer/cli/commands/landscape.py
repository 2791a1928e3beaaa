"""Implementation of `optlab landscape`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from trainer import console
from trainer.cli.options import DescentOptions, LandscapeFiles
from trainer.compare.figure_style import find_style
from trainer.console import Column
from trainer.errors import ConfigError
from trainer.landscape.figures import animate_landscape, draw_landscape, one_per_step, render_landscape
from trainer.landscape.paths import (
    Descent,
    compare_optimizers,
    find_surface,
    learning_rates,
    parse_optimizers,
)
from trainer.problems import Surface
from trainer.runs import rundir

LOWEST, HIGHEST = 1e-4, 10.0
FORMATS = (".png", ".svg", ".pdf")


def landscape(problem: str, descent: DescentOptions, files: LandscapeFiles, *, as_json: bool) -> None:
    """Run the optimizers on a surface, write the figures, print the final distances to a minimum."""
    name, surface = find_surface(problem)
    choices = parse_optimizers(descent.optimizers)
    figure_style = find_style(files.style)
    where = surface.start if descent.start is None else _point(descent.start)
    steps, lr = descent.steps, descent.lr
    _check_lr(lr)
    figure_path, gif_path = _paths(files.output or files.runs / "landscapes", name)
    rates = learning_rates(LOWEST, HIGHEST, descent.trials) if descent.tune and lr is None else []
    with console.waiting("Running the optimizers"):
        descents = compare_optimizers(surface, choices, steps=steps, start=where, lr=lr, rates=rates)
    label = name.replace("_", " ")
    unit = "steps" if one_per_step(descents) else "gradients"
    heading = f"{label}: {surface.difficulty} · {steps:,} {unit} each from ({where[0]:g}, {where[1]:g})"
    heading += f"\n{budget(descents, lr)}"
    rundir.prepare_root(figure_path.parent)
    with console.waiting("Drawing the figure"):
        figure = draw_landscape(surface, descents, heading, figure_style)
        rundir.write_atomically(figure_path, render_landscape(figure, figure_path.suffix.removeprefix(".")))
    written = [figure_path]
    if files.animate:
        with console.waiting("Drawing the animation"):
            rundir.write_atomically(gif_path, animate_landscape(surface, descents, heading))
        written.append(gif_path)
    rows = [_row(one, surface) for one in descents]
    if as_json:
        console.print_json(
            {
                "problem": name,
                "start": where,
                "steps": steps,
                "budget": budget(descents, lr),
                "descents": rows,
                "figures": [str(path) for path in written],
            }
        )
        return
    console.print_text(budget(descents, lr))
    columns = [
        Column("optimizer"),
        *(Column(title, "right", ".4g") for title in ("lr", "last f", "lowest f", "distance")),
        Column("remark"),
    ]
    console.table(
        columns,
        [
            [row["optimizer"], row["lr"], row["last"], row["lowest"], row["distance"], row["remark"]]
            for row in rows
        ],
    )
    for path in written:
        console.print_text(str(path))


def budget(descents: list[Descent], lr: float | None) -> str:
    """Return one line for the figure's title that says how the learning rates were chosen."""
    if lr is not None:
        return f"lr not tuned: {lr:g} for all"
    tuned = [one for one in descents if one.trials]
    if not tuned:
        return "lr not tuned: each optimizer's default, unless stated"
    count, rates = len(tuned[0].trials), tuned[0].trials
    text = f"lr tuned: best final value of {count} rates from {rates[0].lr:g} to {rates[-1].lr:g}"
    others = [one.choice.text for one in descents if not one.trials]
    return text + (f"; not tuned: {', '.join(others)}" if others else "")


def _row(one: Descent, surface: Surface) -> dict[str, Any]:
    x, y = one.points[-1]
    distance = min(math.dist((x, y), minimum) for minimum in surface.minima)
    remarks = ["diverged"] * one.diverged + ["lr at the grid's edge"] * one.at_edge
    return {
        "optimizer": one.choice.text,
        "lr": one.lr,
        "tuned": bool(one.trials),
        "last": float(one.values[-1]),
        "lowest": float(min(value for value in one.values if not math.isnan(value))),
        "distance": distance,
        "x": float(x),
        "y": float(y),
        "steps": len(one.points) - 1,
        "gradients": int(one.evaluations[-1]),
        "diverged": one.diverged,
        "at_edge": one.at_edge,
        "remark": ", ".join(remarks),
        "trials": [{"lr": trial.lr, "last": trial.value} for trial in one.trials],
    }


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.strip("()[] ").split(","))
    except ValueError:
        x = y = math.nan
    if not (abs(x) < 1e3 and abs(y) < 1e3):
        raise ConfigError(
            f"got {text!r}", key="--start", expected="two numbers below 1000, e.g. --start=-1.5,2"
        )
    return x, y


def _check_lr(lr: float | None) -> None:
    if lr is not None and not (lr > 0 and math.isfinite(lr)):
        raise ConfigError(f"got {lr}", key="--lr", expected="a number above 0")


def _paths(output: Path, name: str) -> tuple[Path, Path]:
    """Return the paths of the figure and the animation, named after the surface if `output` is a folder."""
    if output.suffix in FORMATS:
        return output, output.with_suffix(".gif")
    if output.suffix:
        raise ConfigError(
            f"cannot write {output.suffix} files",
            key="--output",
            expected=f"a folder, or {', '.join(FORMATS)}",
        )
    return output / f"{name}.png", output / f"{name}.gif"
