"""The lessons: their configs are valid, their claims hold, and the command continues where it stopped."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from command import optlab
from PIL import Image

from trainer import catalog
from trainer.lessons import training
from trainer.lessons.table import LESSONS, changed_by_quick
from trainer.runs import launch, rundir
from trainer.training.building import build_experiment

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "lessons"


def train(config: str, folder: Path, *overrides: str) -> rundir.Run:
    """Train a lesson's config on digits."""
    given = ["data.name=digits", "data.val_size=0.2", "train.threads=1", "log.plots=[]", *overrides]
    launch.launch(catalog.load_config(CONFIGS / f"{config}.yaml", given), folder)
    return rundir.load_run(folder)


def losses(run: rundir.Run) -> np.ndarray:
    return np.array(run.steps["loss"], dtype=np.float64)


def test_there_are_fifteen_lessons_and_each_config_belongs_to_one() -> None:
    assert [lesson.number for lesson in LESSONS] == list(range(1, 16))
    used = {run.config for lesson in LESSONS for run in lesson.runs}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == used | {"base"}
    for lesson in LESSONS:
        labels = [run.label for run in lesson.runs]
        assert len(set(labels)) == len(labels)


def test_every_run_of_a_lesson_is_valid_and_has_its_own_directory(tmp_path: Path) -> None:
    built = set()
    for quick in (False, True):
        folders = []
        for lesson in LESSONS:
            for run in lesson.runs:
                job = training.job_of(lesson, run, quick=quick, runs=tmp_path)
                loaded = catalog.load_config(job.config, job.overrides)
                folders.append(launch.folder_for(loaded, run.overrides, tmp_path))
                if quick and run.config not in built:
                    build_experiment(loaded)
                    built.add(run.config)
        assert len(set(folders)) == len(folders)


def test_every_config_describes_its_lesson() -> None:
    for path in CONFIGS.glob("*.yaml"):
        comment = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert comment, path
        assert path.stem == "base" or "Lesson" in comment[0], path


def test_the_readme_matches_the_table_and_its_figures_exist() -> None:
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    expected = runpy.run_path(str(ROOT / "scripts/lessons_readme.py"))["text"]()
    assert text == expected, "write it with: python scripts/lessons_readme.py"
    pictures = [CONFIGS / name for name in re.findall(r'src="(figures/[^"]+)"', text)]
    assert len(pictures) == 15
    sizes = [path.stat().st_size for path in pictures]
    assert max(sizes) < 60_000
    assert sum(sizes) < 1_000_000


def test_lesson_3_in_place_equals_torch_bit_for_bit_and_the_formula_nearly(tmp_path: Path) -> None:
    torchs = losses(train("03_torch_sgd", tmp_path / "torch", "train.epochs=2"))
    by_hand = losses(train("03_by_hand", tmp_path / "hand", "train.epochs=2"))
    book = losses(train("03_by_hand", tmp_path / "book", "train.epochs=2", "optimizer.textbook=true"))
    assert (by_hand == torchs).all()
    assert not (book == torchs).all()
    np.testing.assert_allclose(book, torchs, rtol=1e-5)


def test_lesson_5_hand_written_adagrad_differs_from_torch_only_in_eps(tmp_path: Path) -> None:
    length = ("train.epochs=2", "log.every=1")
    torchs = losses(train("05_adagrad", tmp_path / "torch", *length))
    inside = losses(train("05_adagrad_by_hand", tmp_path / "inside", *length))
    outside = losses(
        train("05_adagrad_by_hand", tmp_path / "outside", *length, "optimizer.eps_inside_root=false")
    )
    np.testing.assert_allclose(outside, torchs, rtol=1e-4)
    np.testing.assert_allclose(inside, torchs, rtol=0.05)
    assert np.abs(inside - torchs).max() > 10 * np.abs(outside - torchs).max()


def test_lesson_9_forgetting_zero_grad_is_faster_at_first_and_worse_later(tmp_path: Path) -> None:
    length = ("train.epochs=20", "log.every=1")
    right = losses(train("09_zero_grad", tmp_path / "right", *length))
    forgotten = losses(train("09_zero_grad", tmp_path / "forgotten", "train.zero_grad=never", *length))
    assert forgotten[40:60].mean() < 0.5 * right[40:60].mean()
    assert forgotten[-180:].mean() > 2 * forgotten[40:60].mean()


def test_lesson_14_foreach_equals_the_plain_loop_and_fused_nearly(tmp_path: Path) -> None:
    length = ("train.epochs=2", "log.every=1")
    plain = losses(train("14_adam", tmp_path / "plain", *length))
    assert (losses(train("14_adam", tmp_path / "foreach", "optimizer.foreach=true", *length)) == plain).all()
    fused = losses(train("14_adam", tmp_path / "fused", "optimizer.fused=true", *length))
    np.testing.assert_allclose(fused, plain, rtol=1e-4)


def test_lesson_15_a_tenth_of_the_images_gives_the_same_step(tmp_path: Path) -> None:
    full = train("15_full_batch", tmp_path / "full", "train.steps=40")
    tenth = train("15_full_batch", tmp_path / "tenth", "train.steps=40", "data.batch_size=1000")
    np.testing.assert_allclose(losses(tenth), losses(full), rtol=0.1)
    assert full.steps["samples"][-1] == 10 * (tenth.steps["samples"][-1] or 0)


def test_the_command_draws_the_figure_and_trains_only_missing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All kinds of panels, on a few steps.
    monkeypatch.setattr(training, "EXECUTION", (*training.EXECUTION, "train.epochs=0.8"))
    options = ("--quick", "--jobs", "1", "--runs", tmp_path)
    done = optlab("lessons", "11", "12", "14", *options)
    assert done.code == 0, done.err
    drawn = [Path(path) for path in done.out.split()]
    assert [path.name[:2] for path in drawn] == ["11", "12", "14"]
    for path in drawn:
        assert path.parent == tmp_path / "lessons-quick" / "figures"
        assert Image.open(path).size[0] > 900
    # As after a power cut: one run half done, the others finished.
    broken = next(folder for folder in rundir.find_runs([tmp_path]) if "amsgrad" in folder.name)
    (broken / rundir.STATUS).write_text('{"format": 1, "status": "running"}', encoding="utf-8")
    done = optlab("lessons", "14", *options, "--json")
    assert done.err.count("already finished") == len(LESSONS[13].runs) - 1
    assert done.json == [str(drawn[2])]


def test_a_quick_figure_states_what_was_changed() -> None:
    printed = [changed_by_quick(lesson) for lesson in LESSONS]
    for words, lesson in zip(printed, LESSONS, strict=True):
        for override in (*lesson.quick, *(text for run in lesson.runs for text in run.quick)):
            key, _, value = override.partition("=")
            assert key.startswith("log.") or f"{key.partition('.')[2]} {value}" in words
    assert printed[6] == (
        "changed by --quick: epochs 20, lr 0.5; StepLR: step_size 8; set by hand: table {12: 0.01}"
    )


def test_a_failed_run_affects_only_its_own_figure(tmp_path: Path) -> None:
    absent = tmp_path / "absent.npz"
    done = optlab("lessons", "13", "--jobs", "1", "--runs", tmp_path, "--cifar-npz", absent)
    assert done.code == 1
    assert "there is no file" in done.err
    assert "no figure for lesson 13" in done.err
    assert done.out == ""


INVALID = [["16"], ["x"], ["--jobs", "0"], ["1", "--format", "bmp"], ["1", "--style", "loud"]]


@pytest.mark.parametrize("options", INVALID)
def test_invalid_lessons_options_are_errors(options: list[str]) -> None:
    assert optlab("lessons", *options).code == 2


def test_the_list_has_every_lesson() -> None:
    assert [lesson["number"] for lesson in optlab("lessons", "--list", "--json").json] == list(range(1, 16))
    assert "Momentum, dampening, Nesterov" in optlab("lessons", "4", "--list").out
