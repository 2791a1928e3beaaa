"""The figures of a run: what they show, what they leave out, and that they are reproducible."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

from trainer.metrics import BUILT_IN
from trainer.plots.histograms import plot_histograms
from trainer.plots.run import (
    Curves,
    _schedule_line,
    draw_gradients,
    draw_loss,
    draw_loss_logx,
    draw_lr,
    draw_metric,
    plot_run,
)
from trainer.plots.style import COLOURS, LINES, format_number, limits, render, smooth
from trainer.plots.titles import title

ACCURACY = BUILT_IN["accuracy"]
Row = dict[str, list[float | None]]

CONFIG: dict[str, Any] = {
    "seed": {"init": 0, "batches": 0, "augmentation": 0, "dropout": 0},
    "data": {"name": "mnist", "batch_size": 64},
    "model": {"name": "mlp", "hidden": [200], "activation": "relu"},
    "loss": {"name": "cross_entropy", "l1": 0.0, "l2": 0.0},
    "optimizer": [
        {"name": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False, "fused": True}
    ],
    "scheduler": [],
}


def steps_table(loss: list[float | None], **columns: list[float | None]) -> Row:
    steps: list[float | None] = [float(1 + 10 * i) for i in range(len(loss))]
    return {"step": steps, "epoch": [(s or 0) / 100 for s in steps], "loss": loss, **columns}


def epochs_table(**columns: list[float | None]) -> Row:
    count = len(next(iter(columns.values())))
    return {
        "step": [100.0 * i for i in range(count)],
        "epoch": [float(i) for i in range(count)],
        **columns,
    }


def falling(count: int) -> list[float | None]:
    return [2.3 * math.exp(-i / 10) + 0.1 for i in range(count)]


def curves(steps: Row | None = None, epochs: Row | None = None, **others: Any) -> Curves:
    none: Row = {"step": [], "epoch": []}
    return Curves(CONFIG, none if steps is None else steps, none if epochs is None else epochs, **others)


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def texts(figure: Figure) -> str:
    axes = figure.axes[0]
    return " | ".join([*axes.get_legend_handles_labels()[1], *(text.get_text() for text in axes.texts)])


RUN = curves(
    steps_table(falling(31), lr=[0.01] * 31, grad_norm=falling(31), **{"grad_norm.1.weight": falling(31)}),
    epochs_table(
        train_loss=[None, 0.5, 0.3, 0.2],
        train_accuracy=[None, 0.9, 0.95, 0.97],
        val_loss=[2.3, 0.6, 0.4, 0.3],
        val_accuracy=[0.1, 0.88, 0.93, 0.95],
    ),
    summary={
        "status": "completed",
        "steps": 300,
        "best": {"step": 200, "epoch": 2.0},
        "final": {"step": 300, "epoch": 3.0},
        "test": {"loss": 0.35, "accuracy": 0.94, "checkpoint": "best"},
    },
)


def test_draws_a_figure_of_everything_the_run_has(tmp_path: Path) -> None:
    paths = plot_run(RUN, tmp_path / "plots", formats=["png", "svg", "pdf"])
    assert [path.name for path in paths[::3]] == [
        "loss.png",
        "loss_logx.png",
        "accuracy.png",
        "lr.png",
        "gradients.png",
    ]
    beginnings = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(beginnings[path.suffix]) for path in paths)


def test_figures_without_data_are_left_out(tmp_path: Path) -> None:
    run = curves(steps_table(falling(5)), epochs_table(train_loss=[None, 0.4], val_loss=[None, None]))
    assert [path.stem for path in plot_run(run, tmp_path)] == ["loss", "loss_logx"]
    assert plot_run(curves(), tmp_path) == []


@pytest.mark.parametrize("file_format", ["png", "svg", "pdf"])
def test_the_same_run_gives_the_same_bytes(file_format: str) -> None:
    first, second = draw_loss(RUN), draw_loss(RUN)
    assert first
    assert second
    assert render(first, file_format) == render(second, file_format)


def test_the_caller_can_pass_the_function_that_saves_figures(tmp_path: Path) -> None:
    saved: list[tuple[Figure, Path]] = []
    paths = plot_run(RUN, tmp_path, save=lambda figure, path: saved.append((figure, path)))
    assert [path for _, path in saved] == paths
    assert list(tmp_path.iterdir()) == []


def test_the_callers_matplotlib_settings_are_restored(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot_run(RUN, tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_needs_neither_torch_nor_pyplot() -> None:
    code = "import sys, trainer.plots.histograms, trainer.plots.run\n"
    code += "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What the figures show


def test_the_loss_figure_is_semilogy_with_an_epoch_axis_and_units() -> None:
    figure = draw_loss(RUN)
    assert figure
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert axes.get_ylabel() == "loss (cross entropy)"
    assert axes.get_xlabel() == "training step (updates)"
    (upper,) = axes.child_axes
    figure.canvas.draw()
    assert upper.get_xlabel() == "epoch"
    assert upper.get_xlim()[1] == pytest.approx(axes.get_xlim()[1] / 100)
    assert "validation" in texts(figure)
    assert "test 0.35" in texts(figure)


def test_every_logged_loss_is_drawn_as_a_point() -> None:
    figure = draw_loss(RUN)
    assert figure
    raw = next(line for line in figure.axes[0].lines if len(points(line)[0]) == 31)
    assert points(raw)[1] == RUN.steps["loss"]


def test_the_logarithmic_step_axis_begins_at_the_first_step() -> None:
    figure = draw_loss_logx(RUN)
    assert figure
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert 0.5 < axes.get_xlim()[0] < 1
    # A log axis has no step 0: it is drawn as a hollow marker on the left edge, without a line.
    assert "before the first" in axes.get_xlabel()
    assert [2.3] in [points(line)[1] for line in axes.lines]


def test_negative_losses_get_a_linear_axis() -> None:
    figure = draw_loss(curves(steps_table([1.0, -0.5, -2.0])))
    assert figure
    assert figure.axes[0].get_yscale() == "linear"


def test_a_loss_of_zero_is_shown_at_the_edge_of_the_log_axis() -> None:
    figure = draw_loss(curves(steps_table([*falling(20), 0.0, 0.0])))
    assert figure
    assert "exactly 0" in texts(figure)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_is_marked_as_diverged(bad: float) -> None:
    figure = draw_loss(curves(steps_table([*falling(20), 1e30, bad, bad]), summary={"status": "diverged"}))
    assert figure
    axes = figure.axes[0]
    assert "diverged" in texts(figure)
    cross = next(line for line in axes.lines if line.get_marker() == "X")
    assert points(cross)[0] == [211.0]
    render(figure, "png")


def test_a_loss_above_the_limit_is_marked_where_the_run_stopped() -> None:
    figure = draw_loss(curves(steps_table([1.0, 10.0, 1000.0]), summary={"status": "diverged"}))
    assert figure
    cross = next(line for line in figure.axes[0].lines if line.get_marker() == "X")
    assert points(cross)[0] == [21.0]
    healthy = draw_loss(RUN)
    assert healthy
    assert "diverged" not in texts(healthy)


def test_accuracy_is_in_percent_and_the_test_result_is_at_its_step() -> None:
    figure = draw_metric(RUN, ACCURACY)
    assert figure
    axes = figure.axes[0]
    assert axes.get_ylabel() == "accuracy (%)"
    star = next(line for line in axes.lines if line.get_marker() == "*")
    assert points(star) == ([200.0], [94.0])
    # The untrained network's 10 % is close enough to be included in the limits.
    assert 80 < axes.get_ylim()[0] < 90 < 97 < axes.get_ylim()[1] < 101


def test_accuracy_limits_include_the_untrained_value_if_it_is_close() -> None:
    figure = draw_metric(curves(epochs=epochs_table(val_accuracy=[0.1, 0.3, 0.5])), ACCURACY)
    assert figure
    assert figure.axes[0].get_ylim()[0] < 10


@pytest.mark.parametrize(
    ("rates", "scale"),
    [({"lr": [0.1, 0.1, 0.02]}, "linear"), ({"lr.a": [0.1] * 3, "lr.b": [0.1, 0.001, 0.0]}, "log")],
)
def test_lr_shows_every_group_on_a_log_axis_for_a_wide_range(
    rates: dict[str, list[float | None]], scale: str
) -> None:
    figure = draw_lr(curves(steps_table([1.0, 1.0, 1.0], **rates)))
    assert figure
    axes = figure.axes[0]
    assert axes.get_yscale() == scale
    assert len(axes.lines) == len(rates)


def test_a_jump_of_the_lr_is_vertical_and_gradual_changes_are_connected() -> None:
    x, y = _schedule_line(np.arange(6.0), np.array([1.0, 1.0, 0.1, 0.1, 0.1, 0.1]))
    assert (x.tolist(), y.tolist()) == ([0, 1, 2, 2, 3, 4, 5], [1, 1, 1, 0.1, 0.1, 0.1, 0.1])
    steady = np.linspace(1, 0, 6)
    assert _schedule_line(np.arange(6.0), steady)[1].tolist() == steady.tolist()


@pytest.mark.parametrize("count", [1, 4, 40])
def test_gradients_of_many_parameters_have_a_short_legend(count: int) -> None:
    norms = {f"grad_norm.layer{i}": falling(20) for i in range(count)}
    figure = draw_gradients(curves(steps_table(falling(20), grad_norm=falling(20), **norms)))
    assert figure
    named = [label for label in figure.axes[0].get_legend_handles_labels()[1] if label.startswith("layer")]
    assert len(named) == min(count, 3 if count > 6 else count)


cells = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=6, deadline=None)
@given(st.lists(cells, max_size=40), st.lists(cells, min_size=1, max_size=4))
def test_any_table_can_be_drawn(loss: list[float | None], val: list[float | None]) -> None:
    run = curves(
        steps_table(loss, lr=loss, grad_norm=loss),
        epochs_table(val_loss=val, val_accuracy=val),
        summary={"status": "diverged", "test": {"loss": math.nan, "accuracy": None}},
    )
    draws = (draw_loss, draw_loss_logx, partial(draw_metric, metric=ACCURACY), draw_lr, draw_gradients)
    for draw in draws:
        if figure := draw(run):
            figure.canvas.draw()


# Smoothing


@given(st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_smoothing_stays_within_the_data_and_begins_with_the_first_point(values: list[float]) -> None:
    result = smooth(np.array(values))
    assert len(result) == len(values)
    shown = result[np.isfinite(result)]
    if values:
        assert result[0] == values[0]
        assert shown.min() >= min(values) - 1e-6
        assert shown.max() <= max(values) + 1e-6


def test_smoothing_a_straight_line_changes_nothing_up_to_its_end() -> None:
    line = np.linspace(3, 1, 300)
    result = smooth(line)
    shown = np.isfinite(result)
    np.testing.assert_allclose(result[shown], line[shown])
    assert shown[:295].all()


@pytest.mark.parametrize("count", [13, 47, 59, 60, 200])
def test_smoothing_does_not_end_in_the_noise_of_the_last_point(count: int) -> None:
    values = np.ones(count)
    values[-1] = 100
    assert np.isnan(smooth(values)[-1])


def test_smoothing_is_the_centred_mean_in_the_middle() -> None:
    values = np.random.default_rng(0).normal(size=300)
    assert smooth(values)[150] == pytest.approx(values[140:161].mean())


def test_a_huge_value_affects_smoothing_only_within_its_window() -> None:
    values = np.ones(300)
    values[100] = 1e30
    np.testing.assert_allclose(smooth(values)[130:290], 1)


def test_smoothing_keeps_gaps_at_non_finite_values() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan, np.inf, 5.0])
    result = smooth(values)
    assert np.isfinite(result).tolist() == [True, True, False, False, False, True]


# Titles and ticks


def test_the_title_contains_model_data_optimizer_batch_and_seed() -> None:
    text = title(CONFIG, inputs=784, outputs=10, width=200)
    assert text == (
        "MLP 784-200-10 on mnist · SGD lr=0.01 momentum=0.9 weight_decay=0.0005 · batch 64 · seed 0"
    )


def test_the_title_omits_default_values() -> None:
    defaults = {"SGD": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False, "fused": None}}
    text = title(CONFIG, defaults=defaults, width=200)
    assert "SGD lr=0.01 weight_decay=0.0005 ·" in text
    adam = {"name": "AdamW", "lr": 1e-8, "betas": [0.9, 0.95], "eps": 1e-8, "label": "rest"}
    known = {"AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}}
    assert "AdamW lr=1e-8 betas=(0.9, 0.95) ·" in title(
        CONFIG | {"optimizer": [adam]}, defaults=known, width=200
    )


def test_the_title_names_several_optimizers_schedules_seeds_and_users_parts() -> None:
    config = CONFIG | {
        "optimizer": [{"name": "Muon", "lr": 0.02}, {"name": "/home/me/lion.py:Lion", "lr": 1e-4}],
        "scheduler": [{"name": "LinearLR"}, {"name": "StepLR"}],
        "seed": {"init": 0, "batches": 1},
        "data": {"name": "npz", "batch_size": "full"},
        "model": "cnn",
    }
    assert title(config, width=200) == (
        "cnn on npz · Muon lr=0.02 + lion.py:Lion lr=0.0001 · LinearLR, then StepLR · full batch · "
        "seeds init 0, batches 1"
    )


def test_a_long_title_breaks_between_its_parts() -> None:
    lines = title(CONFIG, inputs=784, outputs=10, width=60).split("\n")
    assert lines == [
        "MLP 784-200-10 on mnist",
        "SGD lr=0.01 momentum=0.9 weight_decay=0.0005 · batch 64",
        "seed 0",
    ]


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (0.001, "0.001"), (2.5, "2.5"), (300000, "300,000"), (1e-7, "$10^{-7}$"), (1e6, "$10^{6}$")],
)
def test_ticks_are_plain_numbers(value: float, label: str) -> None:
    assert format_number(value) == label


@given(st.lists(st.floats(1e-30, 1e30), min_size=1))
def test_limits_show_every_positive_value(values: list[float]) -> None:
    shown = limits([np.array(values)], log=True)
    assert shown
    assert 0 < shown[0] < min(values) <= max(values) < shown[1]


def test_lines_are_distinguishable_without_colours() -> None:
    assert {line.colour for line in LINES} <= set(COLOURS.values())
    for look in ("colour", "dashes", "marker"):
        assert len({getattr(line, look) for line in LINES}) == len(LINES)


# Histograms


def snapshot(step: int, spread: float, layers: int = 2) -> dict[str, Any]:
    edges = np.linspace(-spread, spread, 11).tolist()
    each = {f"{i}.weight": {"edges": edges, "counts": [10] * 10} for i in range(layers)}
    return {"step": step, "epoch": step / 10, "layers": each}


@pytest.mark.parametrize("count", [1, 3, 30])
def test_histograms_show_every_layer_up_to_a_limit(tmp_path: Path, count: int) -> None:
    drawn: list[Figure] = []
    snapshots = [snapshot(10 * i, 0.1 + i, count) for i in range(3)]
    plot_histograms("Weights", snapshots, tmp_path / "h.png", save=lambda figure, _: drawn.append(figure))
    panels = [axes for axes in drawn[0].axes if axes.get_visible() and axes.get_title()]
    assert len(panels) == min(count, 24)
    assert panels[0].get_title() == "0.weight"
    assert panels[-1].get_title() == f"{count - 1}.weight"
    assert len(panels[0].patches) == 3


def test_histograms_have_area_one_for_any_bins(tmp_path: Path) -> None:
    drawn: list[Figure] = []
    plot_histograms(
        "Initial", [snapshot(0, 0.5)], tmp_path / "h.svg", save=lambda figure, _: drawn.append(figure)
    )
    (patch,) = drawn[0].axes[0].patches
    assert isinstance(patch, StepPatch)
    densities, edges, _ = patch.get_data()
    assert np.sum(densities * np.diff(edges)) == pytest.approx(1)


def test_histograms_of_equal_or_absent_weights_are_drawn(tmp_path: Path) -> None:
    odd = {"zeros": {"edges": [0.0, 0.0], "counts": [5]}, "none": {"edges": [0.0, 1.0], "counts": [0]}}
    path = plot_histograms("Odd", [{"step": 0, "epoch": 0.0, "layers": odd}], tmp_path / "odd.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_title_names_the_file_of_the_users_own_data() -> None:
    config = {"data": {"name": "npz", "path": "/data/cifar10.npz"}, "model": {"name": "cnn"}}
    assert title(config) == "cnn on cifar10.npz"
    config["data"] = {"name": "digits", "path": "/data/cifar10.npz"}
    assert title(config) == "cnn on digits"


def test_the_accuracy_of_a_diverged_run_says_so_and_one_evaluation_keeps_step_0() -> None:
    table = epochs_table(val_accuracy=[0.1, 0.9], train_accuracy=[None, 0.85])
    figure = draw_metric(curves(epochs=table, summary={"status": "diverged"}), ACCURACY)
    assert figure is not None
    assert "diverged" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_ylim()[0] < 10
    finished = draw_metric(curves(epochs=table, summary={"status": "completed"}), ACCURACY)
    assert finished is not None
    assert list(finished.axes[0].texts) == []
