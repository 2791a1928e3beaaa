"""Optimization on surfaces of two parameters: surfaces, descents, equal budgets and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import rosen
from typer.testing import CliRunner

from trainer.cli.app import app
from trainer.errors import ConfigError
from trainer.landscape.figures import draw_landscape, label_of
from trainer.landscape.paths import (
    compare_optimizers,
    descend,
    find_surface,
    learning_rates,
    parse_optimizers,
)
from trainer.problems import SURFACES, Surface

# Computed by hand from the published formulas.
KNOWN = {
    "rosenbrock": ((-1.2, 1.0), 24.2),
    "beale": ((0.0, 0.0), 14.203125),
    "himmelblau": ((0.0, 0.0), 170.0),
    "rastrigin": ((0.5, 0.5), 40.5),
    "booth": ((0.0, 0.0), 74.0),
    "three_hump_camel": ((1.0, 1.0), 2 - 1.05 + 1 / 6 + 2),
    "quadratic": ((1.0, 1.0), 50.5),
}


def height(surface: Surface, x: float, y: float) -> float:
    return float(surface.value(torch.tensor(x).double(), torch.tensor(y).double()))


@pytest.mark.parametrize("name", SURFACES)
def test_a_surface_has_the_published_values_and_minima(name: str) -> None:
    surface = SURFACES[name]
    (x, y), expected = KNOWN[name]
    assert height(surface, x, y) == pytest.approx(expected, rel=1e-6)
    for minimum in surface.minima:
        at = torch.tensor(minimum, dtype=torch.float64, requires_grad=True)
        value = surface.value(at[0], at[1])
        torch.autograd.backward(value)
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert at.grad is not None
        assert at.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", SURFACES)
def test_the_window_contains_the_start_and_the_minima(name: str) -> None:
    surface = SURFACES[name]
    for x, y in (surface.start, *surface.minima):
        assert surface.x[0] < x < surface.x[1]
        assert surface.y[0] < y < surface.y[1]
    grid = np.meshgrid(np.linspace(*surface.x, 200), np.linspace(*surface.y, 200))
    assert surface.value(*(torch.from_numpy(side) for side in grid)).min() >= 0


def test_rosenbrock_agrees_with_scipy() -> None:
    points = np.random.default_rng(0).normal(size=(2, 50))
    ours = SURFACES["rosenbrock"].value(*torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(ours, rosen(points), rtol=1e-12)


def test_gradient_descent_on_the_quadratic_follows_its_closed_form() -> None:
    [sgd] = parse_optimizers("SGD")
    result = descend(SURFACES["quadratic"], sgd, lr=0.005, steps=40, start=(-8.0, 1.5))
    t = np.arange(41)[:, None]
    np.testing.assert_allclose(result.points, [-8.0, 1.5] * (1 - 0.005 * np.array([1, 100])) ** t, rtol=1e-10)
    np.testing.assert_allclose(result.values, 0.5 * (result.points**2 @ [1, 100]), rtol=1e-12)
    assert list(result.evaluations) == list(range(41))
    assert not result.diverged


def test_the_real_optimizer_descends_with_its_options() -> None:
    [adam] = parse_optimizers("Adam:betas=[0.7,0.95]")
    result = descend(SURFACES["beale"], adam, lr=0.05, steps=30, start=(1.0, 1.5))
    at = torch.tensor([1.0, 1.5], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([at], lr=0.05, betas=(0.7, 0.95))
    for _ in range(30):
        optimizer.zero_grad()
        torch.autograd.backward(SURFACES["beale"].value(at[0], at[1]))
        optimizer.step()
    np.testing.assert_allclose(result.points[-1], at.detach().numpy(), rtol=1e-9)


def test_every_gradient_of_lbfgs_counts() -> None:
    [lbfgs] = parse_optimizers("LBFGS:line_search_fn=strong_wolfe")
    result = descend(SURFACES["rosenbrock"], lbfgs, lr=1.0, steps=60, start=(-1.5, 2.0))
    steps = len(result.points) - 1
    assert result.values[-1] < 1e-6
    assert steps < result.evaluations[-1]
    assert result.evaluations[-2] < 60


def test_every_optimizer_tries_the_same_rates_and_keeps_its_best() -> None:
    rates = learning_rates(1e-3, 1.0, 7)
    result = compare_optimizers(
        SURFACES["quadratic"],
        parse_optimizers("SGD,scratch.adam,SGD:momentum=0.9:lr=0.01"),
        steps=40,
        start=(-8.0, 1.5),
        rates=rates,
    )
    for one in result[:2]:
        assert [trial.lr for trial in one.trials] == pytest.approx(np.geomspace(1e-3, 1, 7), rel=1e-3)
        best = min(one.trials, key=lambda trial: trial.value)
        assert (one.lr, one.values[-1]) == (best.lr, best.value)
    # 2 / 100 is where plain descent stops converging on this surface.
    assert [trial.lr for trial in result[0].trials if trial.value > 100] == [r for r in rates if r > 0.02]
    assert not result[0].at_edge
    assert (result[2].lr, result[2].trials) == (0.01, ())


def test_divergence_is_an_outcome_and_an_edge_is_flagged() -> None:
    surface = SURFACES["rosenbrock"]
    [one] = compare_optimizers(
        surface, parse_optimizers("SGD"), steps=50, start=(-1.5, 2.0), rates=[0.5, 1.0]
    )
    assert one.diverged
    assert one.at_edge
    assert [trial.value for trial in one.trials] == [math.inf, math.inf]
    assert len(one.points) == len(one.values) == len(one.evaluations) < 50


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SGD,Adm", "did you mean"),
        ("SGD:momntum=0.9", "momentum"),
        ("SGD:momentum=fast", "momentum"),
        ("SGD,,Adam", "does not name an optimizer"),
        ("SGD,SGD", "twice"),
    ],
)
def test_invalid_optimizers_are_reported(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_optimizers(text)


@pytest.mark.parametrize(("text", "words"), [("Muon", "matrices"), ("SGD:momentum=-1", "momentum")])
def test_optimizers_that_cannot_run_here_are_reported(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compare_optimizers(SURFACES["booth"], parse_optimizers(text), steps=5, start=(0.0, 0.0), rates=[0.1])


def test_names_are_accepted_in_other_spellings() -> None:
    assert find_surface("Three-hump camel")[0] == "three_hump_camel"
    with pytest.raises(ConfigError, match="unknown landscape"):
        find_surface("rosenbrok")


def test_the_command_writes_figure_and_animation_and_states_the_budget(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        [
            *[
                "landscape",
                "booth",
                "--optimizers",
                "SGD,Adam",
                "--steps",
                "30",
                "--trials",
                "4",
                "--start=-2,1",
                "--json",
                "-o",
            ],
            str(tmp_path),
        ],
    )
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["start"] == [-2, 1]
    assert "4 rates from 0.0001 to 10" in printed["budget"]
    assert [len(row["trials"]) for row in printed["descents"]] == [4, 4]
    figure, animation = (Image.open(path) for path in printed["figures"])
    assert figure.size[0] > 800
    assert getattr(animation, "n_frames", 1) == 31


def test_without_tuning_the_title_says_so(tmp_path: Path) -> None:
    paths = [tmp_path / "default.svg", tmp_path / "one.svg"]
    for path, options in zip(paths, (["--no-tune"], ["--lr", "0.01"]), strict=True):
        done = CliRunner().invoke(
            app,
            ["landscape", "quadratic", "--optimizers", "SGD", "--steps=5", "--no-gif", f"-o{path}", *options],
        )
        assert done.exit_code == 0, done.output
        assert "not tuned" in done.stdout
    assert sorted(tmp_path.iterdir()) == paths
    # Text of an SVG figure is drawn, but its comments keep the words.
    assert "not tuned: 0.01 for all" in paths[1].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options", [["--start", "here"], ["--lr", "-1"], ["-o", "figure.gif"], ["--optimizers", "Nothing"]]
)
def test_bad_input_is_one_clear_error(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["landscape", "booth", *options])
    assert isinstance(done.exception, ConfigError)
    assert not list(tmp_path.iterdir())


def test_both_axes_have_one_scale_and_paths_stay_in_the_panel(tmp_path: Path) -> None:
    _, surface = find_surface("rosenbrock")
    choices = parse_optimizers("SGD,RMSprop")
    descents = compare_optimizers(surface, choices, steps=20, start=surface.start, lr=0.26, rates=[])
    figure = draw_landscape(surface, descents[1:], "heading")
    ground = figure.axes[0]
    assert ground.get_aspect() == 1
    points = descents[1].points
    low, high = np.array([ground.get_xlim(), ground.get_ylim()]).T
    assert ((points >= low) & (points <= high)).all()
    assert points[:, 1].max() > surface.y[1]  # the panel was extended
    far = draw_landscape(surface, descents[:1], "heading").axes[1]  # SGD diverges
    assert "leaves the panel" in far.lines[0].get_label()


def test_the_label_of_a_users_optimizer_has_no_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from torch.optim import SGD\n\n\nclass Mine(SGD):\n    pass\n")
    _, surface = find_surface("booth")
    choices = parse_optimizers(f"{file}:Mine")
    (descent,) = compare_optimizers(surface, choices, steps=3, start=surface.start, lr=0.01, rates=[])
    assert label_of(descent).startswith("mine.py:Mine")
    assert str(tmp_path) not in label_of(descent)


def test_styles_change_the_size_of_the_figure(tmp_path: Path) -> None:
    arguments = ["landscape", "booth", "--steps", "5", "--lr", "0.01", "--no-gif", "--optimizers", "SGD"]
    sizes = {}
    for style in ("screen", "paper"):
        path = tmp_path / f"{style}.png"
        result = CliRunner().invoke(app, [*arguments, "--style", style, "-o", str(path)])
        assert result.exit_code == 0, result.output
        sizes[style] = Image.open(path).size
    assert sizes["paper"][0] < 0.8 * sizes["screen"][0]
