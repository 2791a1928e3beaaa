"""Figures: the drawn lines and markers agree with the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from trainer.compare import Comparison, compare_runs, draw_curves, group_runs, load_runs
from trainer.compare.figure_style import find_style
from trainer.compare.table import render_table
from trainer.errors import ConfigError
from trainer.plots.style import render


def curve(axes: Axes, width: float = 1.8) -> Any:
    """Return x and y of the first line of that width: the centre (1.8) or a seed (0.6)."""
    line = next(line for line in axes.lines if line.get_linewidth() == width)
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def band(axes: Axes) -> Any:
    return np.asarray(axes.collections[0].get_paths()[0].vertices, float)


def drawn(folder: Path, metric: str = "val_accuracy", **options: Any) -> Figure:
    figure = draw_curves(group_runs(load_runs(folder)).groups, metric, **options)
    assert figure is not None
    return figure


def heading(figure: Figure) -> str:
    return str(figure.get_suptitle())


@pytest.fixture
def three(write_run: Any, tmp_path: Path) -> Path:
    for seed, values in enumerate([(0.1, 0.5, 0.9), (0.2, 0.6, 0.8), (0.0, 0.1, 0.7)]):
        write_run(f"x/{seed}", seed=seed, val_accuracy=values)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "centre", "low", "high"),
    [
        ({"band": "min_max"}, [10, 40, 80], [0, 10, 70], [20, 60, 90]),
        ({"centre": "median", "band": "quantiles"}, [10, 50, 80], [5, 30, 75], [15, 55, 85]),
        ({"band": "std"}, [10, 40, 80], [0, 40 - np.std([50, 60, 10], ddof=1), 70], None),
    ],
)
def test_centre_and_band_are_those_of_the_seeds(
    three: Path, options: Any, centre: Any, low: Any, high: Any
) -> None:
    (axes,) = drawn(three, **options).axes
    x, y = curve(axes)
    assert list(x) == [0, 10, 20]
    assert y == pytest.approx(centre)
    corners = {tuple(np.round(corner, 6)) for corner in band(axes)}
    assert {(float(a), round(float(b), 6)) for a, b in zip(x, low, strict=True)} <= corners
    assert high is None or {(float(a), float(b)) for a, b in zip(x, high, strict=True)} <= corners
    assert sum(line.get_linewidth() == 0.6 for line in axes.lines) == 3


@pytest.mark.parametrize(("x", "last"), [("step", 20), ("epoch", 2), ("samples", 640), ("seconds", 0.02)])
def test_every_horizontal_axis(three: Path, x: Any, last: float) -> None:
    (axes,) = drawn(three, x=x).axes
    assert curve(axes)[0][-1] == pytest.approx(last)


@pytest.mark.parametrize(
    ("scale", "scales"),
    [
        (None, ("linear", "log")), ("semilogx", ("log", "linear")), ("semilogy", ("linear", "log")),
        ("linear", ("linear", "linear")), ("loglog", ("log", "log")),
    ],
)  # fmt: skip
def test_every_scale(three: Path, scale: Any, scales: tuple[str, str]) -> None:
    (axes,) = drawn(three, "loss", scale=scale).axes
    assert (axes.get_xscale(), axes.get_yscale()) == scales


def test_a_log_axis_leaves_out_step_0(three: Path) -> None:
    (axes,) = drawn(three, scale="semilogx").axes
    assert list(curve(axes)[0]) == [10, 20]
    assert list(curve(axes, 0.6)[0]) == [10, 20]


def test_the_centre_ends_where_the_first_run_diverges_and_is_marked_there(
    write_run: Any, tmp_path: Path
) -> None:
    write_run("x/0", seed=0, val_loss=(2.0, 1.0, 0.5))
    write_run("x/1", seed=1, val_loss=(2.0, math.inf), val_accuracy=(0.1, 0.1), status="diverged")
    figure = drawn(tmp_path, "val_loss", scale="semilogy")
    (axes,) = figure.axes
    x, y = curve(axes)
    assert list(x) == [0]
    assert y == pytest.approx([2.0])
    assert [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "X"] == [10]
    assert "X: diverged" in heading(figure)


def test_runs_of_different_length_share_a_grid_and_are_not_extrapolated(
    write_run: Any, tmp_path: Path
) -> None:
    write_run("x/0", seed=0, val_accuracy=(0.1, 0.5, 0.9, 0.9))
    write_run("x/1", seed=1, val_accuracy=(0.3, 0.7), config={"train.epochs": 2.0})
    x, y = curve(drawn(tmp_path).axes[0])
    assert list(x) == [0, 10]
    assert y == pytest.approx([20, 60])


def test_smoothing_keeps_the_first_loss_and_stops_before_the_end(write_run: Any, tmp_path: Path) -> None:
    losses = [2.0] * 30 + [1.0] * 29 + [5.0]
    write_run("x/0", losses=losses, val_accuracy=(0.1,) * 7)
    x, y = curve(drawn(tmp_path, "loss").axes[0])
    assert (x[0], y[0]) == (1, 2.0)
    assert x[-1] <= 60
    assert y[-1] < 5.0, "the last point is noise, not a trend"
    raw_x, raw_y = curve(drawn(tmp_path, "loss", smoothed=False).axes[0])
    assert list(raw_y) == losses
    assert raw_x[-1] == 60


def test_an_exploding_loss_does_not_flatten_the_others(write_run: Any, tmp_path: Path) -> None:
    write_run("x/0", optimizer={"name": "SGD", "lr": 0.1}, val_loss=(2.0, 1.0, 0.1))
    write_run("x/1", optimizer={"name": "SGD", "lr": 10.0}, val_loss=(2.0, 1e30, 1e25))
    low, high = drawn(tmp_path, "val_loss").axes[0].get_ylim()
    assert low < 0.1
    assert high < 1e3


def test_many_groups_become_small_multiples(write_run: Any, tmp_path: Path) -> None:
    for place in range(9):
        write_run(f"x/{place}", optimizer={"name": "SGD", "lr": 10.0**-place})
    figure = drawn(tmp_path)
    assert sum(axes.get_visible() for axes in figure.axes) == 9
    assert {axes.get_title() for axes in figure.axes if axes.get_visible()} >= {"lr=1e-8", "lr=1"}
    assert len(drawn(tmp_path, multiples=False).axes) == 1


def test_every_column_of_small_multiples_has_tick_labels(write_run: Any, tmp_path: Path) -> None:
    for place in range(3):
        write_run(f"x/{place}", optimizer={"name": "SGD", "lr": 10.0**-place})
    figure = drawn(tmp_path, multiples=True)
    figure.draw_without_rendering()
    shown = [any(tick.label1.get_visible() for tick in a.xaxis.get_major_ticks()) for a in figure.axes[:3]]
    assert shown == [False, True, True]


def test_a_long_legend_makes_the_figure_taller(write_run: Any, tmp_path: Path) -> None:
    for place in range(20):
        write_run(f"x/{place}", optimizer={"name": "SGD", "lr": 10.0**-place, "momentum": 0.1 + place / 100})
    figure = drawn(tmp_path, multiples=False)
    assert figure.get_size_inches()[1] > 5
    render(figure, "png")
    assert figure.axes[0].get_position().height > 0.4


def test_legends_are_inside_the_figure(write_run: Any, tmp_path: Path) -> None:
    names = [{"name": "Adam", "lr": 0.01}, {"name": "SGD", "lr": 0.1}]
    names.append({"name": "SGD", "lr": 0.1, "momentum": 0.9})
    for place, optimizer in enumerate(names):
        write_run(f"x/{place}", optimizer=optimizer)
    for style in ("screen", "slides", "paper"):
        figure = drawn(tmp_path, figure_style=find_style(style))
        figure.draw_without_rendering()
        box, whole = figure.legends[0].get_window_extent(), figure.bbox
        assert box.x0 >= whole.x0
        assert box.x1 <= whole.x1


def test_styles_and_sizes(three: Path) -> None:
    slides = drawn(three, figure_style=find_style("slides"))
    assert tuple(slides.get_size_inches()) == (10.0, 5.6)
    assert tuple(drawn(three, figure_style=find_style("paper", (3.0, 2.0))).get_size_inches()) == (3.0, 2.0)
    (axes,) = drawn(three, figure_style=find_style("print")).axes
    assert {line.get_color() for line in axes.lines} == {"#000000"}
    with pytest.raises(ConfigError, match="unknown style"):
        find_style("poster")
    with pytest.raises(ConfigError, match="inches"):
        find_style("paper", (0.0, 2.0))


def test_the_same_runs_give_the_same_bytes(three: Path) -> None:
    for file_format in ("png", "svg", "pdf"):
        assert render(drawn(three), file_format) == render(drawn(three), file_format)


def compared(folder: Path, **options: Any) -> Comparison:
    return compare_runs(folder, **options)


def test_the_distribution_of_times_stays_below_one_if_runs_miss_the_target(
    write_run: Any, tmp_path: Path
) -> None:
    for seed, values in enumerate([(0.1, 0.95), (0.1, 0.2, 0.95), (0.1, 0.2, 0.2)]):
        write_run(f"x/{seed}", seed=seed, val_accuracy=values)
    result = compared(tmp_path, targets=["0.9"])
    (axes,) = result.figures["times.val_accuracy=0.9"].axes
    x, y = curve(axes)
    assert list(x[1:-1]) == [10, 20]
    assert y == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])
    nobody = compared(tmp_path, targets=["0.99"])
    assert not any(name.startswith("times") for name in nobody.figures)
    assert "no run reached val_accuracy=0.99: no figure of times" in nobody.notes


def test_a_performance_profile_over_problems(write_run: Any, tmp_path: Path) -> None:
    """SGD wins on two of three problems, where Adam is twice as slow; only Adam solves the third."""
    fast, slow, never = (0.1, 0.95, 0.95), (0.1, 0.2, 0.95), (0.1, 0.2, 0.3)
    curves = {"mlp": (fast, slow), "cnn": (fast, slow), "resnet": (never, fast)}
    for model, (sgd, adam) in curves.items():
        write_run(f"x/{model}s", optimizer="SGD", val_accuracy=sgd, config={"model.name": model})
        write_run(f"x/{model}a", optimizer="Adam", val_accuracy=adam, config={"model.name": model})
    result = compared(tmp_path, targets=["0.9"])
    (axes,) = result.figures["profile.val_accuracy=0.9"].axes
    lines = {str(text.get_text()): line for text, line in zip(
        result.figures["profile.val_accuracy=0.9"].legends[0].get_texts(), axes.lines, strict=True
    )}  # fmt: skip
    assert list(np.asarray(lines["SGD"].get_ydata())) == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert list(np.asarray(lines["Adam"].get_ydata())) == pytest.approx([1 / 3, 1, 1])
    assert not any("performance profile" in note for note in result.notes)
    write_run("x/other", optimizer="RMSprop", val_accuracy=fast, config={"model.name": "mlp"})
    partial = compared(tmp_path, targets=["0.9"])
    assert "profile.val_accuracy=0.9" in partial.figures
    assert (
        "performance profile for val_accuracy=0.9: without RMSprop: no runs on some problem" in partial.notes
    )
    before = compared(tmp_path, targets=["0.05"])
    assert any("met before training" in note for note in before.notes)


def write_grid(write_run: Any, results: dict[tuple[float, float], float | None]) -> None:
    for (lr, momentum), value in results.items():
        write_run(
            f"x/{lr}-{momentum}", optimizer={"name": "SGD", "lr": lr, "momentum": momentum},
            val_accuracy=(0.1, 0.1 if value is None else value),
            status="completed" if value is not None else "diverged",
        )  # fmt: skip


def test_sensitivity_states_the_width_and_the_edge(write_run: Any, tmp_path: Path) -> None:
    write_grid(write_run, {(0.001, 0.9): 0.5, (0.01, 0.9): 0.89, (0.1, 0.9): 0.9, (1.0, 0.9): None})
    result = compared(tmp_path)
    row = result.sensitivity.iloc[0]
    assert (row["key"], row["best"], row["best_at_edge"]) == ("optimizer.lr", 0.1, False)
    assert (row["good_from"], row["good_to"], row["width_decades"]) == (0.01, 0.1, pytest.approx(1))
    assert row["diverged_runs"] == 1
    assert result.tuning_lines == (
        "best lr=0.1 of 4 values; the mean is within 5 % of the best from 0.01 to 0.1 (1 decade)",
    )
    assert compared(tmp_path, within=0.001).sensitivity["good_from"][0] == 0.1
    assert "sensitivity.optimizer.lr" in result.figures


def test_a_best_value_on_the_edge_is_flagged(write_run: Any, tmp_path: Path) -> None:
    write_grid(write_run, {(0.001, 0.9): 0.5, (0.01, 0.9): 0.7, (0.1, 0.9): 0.9})
    result = compared(tmp_path)
    assert "WARNING: the best is the largest value tried" in result.tuning_lines[0]
    assert "ring: best at the edge" in heading(result.figures["sensitivity.optimizer.lr"])


def test_values_of_a_key_swept_from_zero_do_not_overlap(write_run: Any, tmp_path: Path) -> None:
    """On a linear axis, 0 and 0.001 would overlap next to 0.1."""
    for decay, accuracy in ((0, 0.8), (0.001, 0.9), (0.1, 0.7)):
        optimizer = {"name": "SGD", "weight_decay": decay}
        write_run(f"x/{decay}", optimizer=optimizer, val_accuracy=(0.1, accuracy))
    figure = compare_runs(tmp_path).figures["sensitivity.optimizer.weight_decay"]
    (axes,) = figure.axes
    places = np.asarray(axes.lines[0].get_xdata(), float)
    assert axes.get_xscale() == "log"
    assert list(places) == [0.0001, 0.001, 0.1]
    labels = dict(zip(axes.get_xticks(), (label.get_text() for label in axes.get_xticklabels()), strict=True))
    assert labels[places[0]] == "0"
    assert labels[0.1] == "0.1"


def test_unequal_tuning_is_noted(write_run: Any, tmp_path: Path) -> None:
    write_grid(write_run, {(0.001, 0.9): 0.5, (0.01, 0.9): 0.7, (0.1, 0.9): 0.9})
    write_run("x/adam", optimizer={"name": "Adam", "lr": 0.001})
    notes = compared(tmp_path, draw=False).notes
    assert any("unequal tuning" in note and "1 of Adam, 3 of SGD momentum=0.9" in note for note in notes)


def test_a_heat_map_of_two_swept_keys(write_run: Any, tmp_path: Path) -> None:
    results = {(lr, m): 0.5 + lr + m / 10 for lr in (0.1, 0.2, 0.3) for m in (0.0, 0.5, 0.9)}
    write_grid(write_run, results | {(0.3, 0.9): None})
    figure = compared(tmp_path).figures["heat_map"]
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells[(0, 0)] == "60"
    assert cells[(1, 2)] == "79"
    assert cells[(2, 2)] == "1 of 1\ndiverged"
    colours = figure.axes[0].images[0].get_array()
    assert colours is not None
    assert np.isnan(np.ma.filled(colours, np.nan)[2, 2])


def test_a_heat_map_of_a_random_search_is_a_scatter_plot(write_run: Any, tmp_path: Path) -> None:
    write_grid(write_run, {(0.1, 0.3): 0.5, (0.01, 0.4): 0.6, (0.02, 0.7): 0.7, (1.0, 0.9): None})
    (axes,) = compared(tmp_path).figures["heat_map"].axes
    texts = {text.xy: text.get_text() for text in axes.texts if isinstance(text, Annotation)}
    assert texts == {(0.1, 0.3): "50", (0.01, 0.4): "60", (0.02, 0.7): "70", (1.0, 0.9): "diverged"}
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


def test_a_budget_curve_requires_random_search(write_run: Any, tmp_path: Path) -> None:
    results: dict[tuple[float, float], float | None] = {(0.1, 0.9): 0.6, (0.2, 0.9): 0.9, (0.3, 0.9): 0.3}
    write_grid(write_run, results)
    assert "budget" not in compared(tmp_path).figures
    (tmp_path / "x" / "sweep.yaml").write_text("strategy: grid\n")
    assert "budget" not in compared(tmp_path).figures
    (tmp_path / "x" / "sweep.yaml").write_text("strategy: random\n")
    y = curve(compared(tmp_path).figures["budget"].axes[0])[1]
    # Dodge et al.: the mean of the best of k draws from 30, 60, 90 %.
    assert y == pytest.approx([60, (30 + 3 * 60 + 5 * 90) / 9, (30 + 7 * 60 + 19 * 90) / 27])
    (tmp_path / "x" / "sweep.yaml").write_text("strategy: random\nprune: median\n")
    assert "budget" not in compared(tmp_path).figures
    assert "budget" in compared(tmp_path, random_search=True).figures


def test_only_the_final_runs_of_a_sweep_are_compared(write_run: Any, tmp_path: Path) -> None:
    for lr in (0.1, 0.2, 0.3):
        write_run(f"sweep/sgd/{lr}", optimizer={"name": "SGD", "lr": lr}, val_accuracy=(0.1, 0.5 + lr))
    for seed in (100, 101):
        write_run(
            f"sweep/final/sgd/{seed}", optimizer={"name": "SGD", "lr": 0.2}, seed=seed, test_accuracy=0.6
        )
    (tmp_path / "sweep" / "sweep.yaml").write_text("strategy: grid\n")
    result = compared(tmp_path)
    assert list(result.runs["seed"]) == ["100", "101"]
    assert len(result.sensitivity) == 1
    assert result.sensitivity["values"][0] == 3
    assert "use the 2 final runs on fresh seeds" in result.notes[0]


def test_the_shared_optimizer_is_named_with_its_equal_options(write_run: Any, tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        write_run(f"x/{lr}", optimizer={"name": "SGD", "lr": lr, "momentum": 0.9})
    text = heading(drawn(tmp_path))
    assert "SGD momentum=0.9" in text
    assert "lr=" not in text
    write_run("x/adam", optimizer="Adam")
    assert "SGD" not in heading(drawn(tmp_path))


def test_one_evaluation_keeps_step_0(write_run: Any, tmp_path: Path) -> None:
    for seed, last in enumerate((0.90, 0.92)):
        write_run(f"x/{seed}", seed=seed, val_accuracy=(0.1, last))
    (axes,) = drawn(tmp_path).axes
    assert axes.get_ylim()[0] < 10 < 90 < axes.get_ylim()[1]


def test_a_group_without_data_does_not_change_the_colours_of_others(write_run: Any, tmp_path: Path) -> None:
    write_run("x/0", optimizer="Adam", val_accuracy=None, val_loss=(2.0, 1.0))
    write_run("x/1", optimizer="SGD", val_accuracy=(0.1, 0.5), val_loss=(2.0, 1.5))
    losses, accuracies = (drawn(tmp_path, metric).axes[0] for metric in ("val_loss", "val_accuracy"))
    assert accuracies.lines[0].get_color() == losses.lines[1].get_color()
    assert accuracies.lines[0].get_color() != losses.lines[0].get_color()


def test_titles_and_labels_are_chosen(write_run: Any, tmp_path: Path) -> None:
    for name in ("SGD", "Adam"):
        for seed in (0, 1):
            write_run(f"x/{name}{seed}", optimizer=name, seed=seed)
    figure = compare_runs(tmp_path, title="Mine", labels={"Adam": "ours"}).figures["val_accuracy"]
    assert heading(figure).splitlines()[0] == "Mine"
    assert "band" in heading(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "SGD"]
    assert heading(compare_runs(tmp_path, title="").figures["val_accuracy"]) == ""
    with pytest.raises(ConfigError, match="unknown group 'Adm'"):
        compare_runs(tmp_path, labels={"Adm": "x"})


def test_intervals_of_an_accuracy_end_at_100_and_diverged_settings_are_below(
    write_run: Any, tmp_path: Path
) -> None:
    write_grid(write_run, {(0.1, 0.9): 0.99, (0.2, 0.9): 0.8, (100.0, 0.9): None})
    for lr, value in ((0.1, 0.6), (0.2, 0.75)):
        optimizer = {"name": "SGD", "lr": lr, "momentum": 0.9}
        write_run(f"x/second{lr}", optimizer=optimizer, seed=1, val_accuracy=(0.1, value))
    (axes,) = compared(tmp_path).figures["sensitivity.optimizer.lr"].axes
    bars = axes.collections[0].get_segments()
    assert max(float(bar[:, 1].max()) for bar in bars) == 100
    (cross,) = [line for line in axes.lines if line.get_marker() == "X"]
    assert float(cross.get_ydata()[0]) < 0.3  # in the coordinates of the panel


def test_a_table_for_a_paper(write_run: Any, tmp_path: Path) -> None:
    for name, last in (("SGD", 0.5), ("Adam", 0.9)):
        write_run(f"x/{name}", optimizer=name, val_accuracy=(0.1, last))
    found = compare_runs(tmp_path, draw=False)
    options: Any = {"columns": ["final val acc %"], "labels": {"Adam": "ours"}}
    latex = render_table(found.groups, (), "latex", **options)
    assert r"ours & \textbf{90} \\" in latex
    assert r"SGD & 50 \\" in latex
    lines = render_table(found.groups, (), "markdown", **options).splitlines()
    assert lines[0] == "| group | final val acc % |"
    assert "| ours | **90** |" in lines
    with pytest.raises(ConfigError, match="unknown column 'acc'"):
        render_table(found.groups, (), "latex", columns=["acc"])
