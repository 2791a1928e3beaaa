"""Components that draw from `random`, `numpy.random` and torch are reproducible, also resumed and swept."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import yaml
from command import optlab, train, write_tiny
from same_run import copied_at, differences

from trainer import build_experiment, load_config
from trainer.records import Record
from trainer.runs.checkpoint import load_checkpoint, pack
from trainer.runs.launch import launch
from trainer.runs.options import RunOptions
from trainer.seeding import preserved, random_state, saved_random_state, seed_globals, set_random_state
from trainer.training.building import set_up_run
from trainer.training.experiment import Experiment
from trainer.training.loop import train as train_records

PARTS = Path(__file__).with_name("drawing_parts.py")
DRAWING = [
    f"model={{name: '{PARTS}:Model'}}",
    f"optimizer={{name: '{PARTS}:Optimizer', lr: 0.05}}",
    f"data.augment=[{{name: '{PARTS}:Augmentation'}}]",
    "train.epochs=2",
    "log.every=1",
]

_numpy: Any = numpy.random  # its global generator


def draws() -> list[float]:
    return [random.gauss(0, 1), float(_numpy.standard_normal()), float(torch.rand(()))]


def disturb() -> None:
    """Change the generator states, as another run in this process does, and reimport the components."""
    seed_globals("other", 9)
    sys.modules.pop(f"optlab_user:{PARTS}", None)


def test_a_run_repeats_in_one_process_and_resumes_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    one, two, stopped = tmp_path / "one", tmp_path / "two", tmp_path / "stopped"
    rhythm = "train.checkpoint_every={steps: 4}"  # of 7 per epoch
    disturb()
    with copied_at(10, stopped):
        train(config, *DRAWING, rhythm, run_dir=one)
    draws()
    disturb()
    train(config, *DRAWING, rhythm, run_dir=two)
    assert differences(one, two) == []
    disturb()
    assert optlab("resume", stopped, "--trust", "--quiet").code == 0
    assert differences(one, stopped) == []
    again = tmp_path / "again"
    train(one / "config.yaml", run_dir=again)  # where everything that `auto` became is known
    assert differences(one, again) == []


@pytest.mark.nightly
def test_workers_of_a_sweep_give_what_single_runs_give(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    axes = {"optimizer": [{"name": f"{PARTS}:Optimizer", "lr": lr} for lr in (0.05, 0.01, 0.002)]}
    others = [text for text in DRAWING if not text.startswith("optimizer=")]
    sweep = {"name": "drawing", "base": "tiny.yaml", "seeds": 2, "axes": axes}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    done = optlab("sweep", tmp_path / "sweep.yaml", *others, "--runs", tmp_path / "runs", "--workers", "2")
    assert done.code == 0, done.err
    runs = sorted(
        path.parent
        for path in (tmp_path / "runs").rglob("summary.json")
        if (path.parent / "steps.csv").exists()
    )
    assert len(runs) == 6
    for number, run in enumerate(runs):
        alone = tmp_path / f"alone{number}"
        disturb()
        train(run / "config.yaml", run_dir=alone)
        assert differences(run, alone) == []


def test_a_data_set_draws_the_same_for_every_seed(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(
        "import random, numpy, torch\n"
        "from trainer.data.digits import digits\n"
        "from dataclasses import replace\n"
        "def shifted():\n"
        "    found = digits()\n"
        "    shift = random.random() + numpy.random.rand() + torch.rand(()).item()\n"
        "    parts = [replace(one, inputs=one.inputs / 255 + shift) for one in (found.train, found.test)]\n"
        "    return replace(found, train=parts[0], test=parts[1], digest=str(shift))\n"
    )
    config = write_tiny(tmp_path)
    found = set()
    for seed in (0, 1):
        disturb()
        data = f"data={{name: '{tmp_path}/data.py:shifted', batch_size: 32}}"
        found.add(set_up_run(load_config(config, [data, f"seed={seed}"])).data_digest)
    assert len(found) == 1


def test_the_streams_of_the_global_generators_differ_and_torchs_are_as_ever() -> None:
    seed_globals("dropout", 0)
    first = draws()
    state = random_state()
    later = draws()
    set_random_state(state)
    assert draws() == later
    with preserved():
        seed_globals("dropout", 0)
        assert draws() == first
        seed_globals("dropout", 1)
        assert all(a != b for a, b in zip(draws(), first, strict=True))
    seed_globals("dropout", 0)
    expected = torch.Generator().manual_seed(torch.default_generator.initial_seed())
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))


def test_states_are_kept_as_tensors_and_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    for kind in ("MT19937", "PCG64"):  # a user's part may give numpy another generator
        former = _numpy.get_bit_generator()
        _numpy.set_bit_generator(getattr(_numpy, kind)(3))
        try:
            seed_globals("dropout", 5)
            draws()  # an odd number of normal numbers: the spare one belongs to the state
            path.write_bytes(pack({"random": saved_random_state(random_state())}))
            later = draws()
            seed_globals("dropout", 6)
            set_random_state(load_checkpoint(path)["random"])
            assert draws() == later
        finally:
            _numpy.set_bit_generator(former)


def test_a_checkpoint_without_the_states_loads(tmp_path: Path) -> None:
    experiment = build_experiment(load_config(write_tiny(tmp_path)))
    state = experiment.state_dict()
    del state["random"]["python"], state["random"]["numpy"]
    before = random.getstate()
    experiment.load_state_dict(state)
    assert random.getstate() == before


@pytest.mark.parametrize("part", ["python", "numpy"])
def test_a_state_that_does_not_fit_makes_the_checkpoint_a_damaged_one(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "run"
    train(write_tiny(tmp_path), run_dir=folder)
    for name in ("last.pt", "previous.pt"):
        path = folder / "checkpoints" / name
        if path.exists():
            state = load_checkpoint(path)
            state["experiment"]["random"][part] = [1]
            path.write_bytes(pack(state))
    done = optlab("resume", folder, "train.epochs=2", "--quiet")
    assert done.code == 0  # the checkpoint of step 0 is there as well
    assert "does not match the config of the run" in done.err


def test_experiments_that_train_by_turns_do_not_change_each_other(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    overrides = [[*DRAWING, f"seed={seed}", f"train.threads={threads}"] for seed, threads in ((0, 1), (1, 2))]

    def build(number: int) -> Experiment:
        return build_experiment(load_config(config, overrides[number]))

    def numbers(record: Record) -> tuple[Any, ...]:
        return record.step, type(record), record.values

    alone = [[numbers(record) for record in train_records(build(number))] for number in (0, 1)]
    both = [build(0), build(1)]
    together: list[list[tuple[Any, ...]]] = [[], []]
    turns = [train_records(one) for one in both]
    for pair in zip(*turns, strict=True):
        for number, record in enumerate(pair):
            together[number].append(numbers(record))
        draws()  # the caller draws as well
    assert together == alone
    assert [len(records) > 10 for records in together] == [True, True]


def test_asking_whether_to_prune_may_draw_numbers(tmp_path: Path) -> None:
    asked = 0

    def keep(record: Record) -> bool:
        nonlocal asked
        asked += len(draws()) > 0
        return False

    loaded = load_config(write_tiny(tmp_path), [*DRAWING, "train.eval_every={steps: 4}"])
    one, other = tmp_path / "one", tmp_path / "other"
    launch(loaded, one)
    launch(loaded, other, RunOptions(should_prune=keep))
    assert asked == 3
    assert differences(one, other) == []


def test_the_saved_state_of_a_suspended_experiment_is_its_own(tmp_path: Path) -> None:
    run = build_experiment(load_config(write_tiny(tmp_path), DRAWING))
    records = train_records(run)
    next(records)
    before = run.state_dict()["random"]
    draws()
    after = run.state_dict()["random"]
    assert torch.equal(before["cpu"], after["cpu"])
    assert torch.equal(before["python"][1], after["python"][1])
