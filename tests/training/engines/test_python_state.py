"""Compiled runs of models with Python state fall back to eager with a warning, and equal the eager run."""

from __future__ import annotations

import inspect
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import stateful_models
import torch
from command import optlab, train, write_tiny
from same_run import differences
from torch import Tensor, nn
from torch.nn import functional

from trainer import build_experiment, load_config
from trainer.training.engines.choice import engine_class
from trainer.training.engines.compiler import compiler
from trainer.training.engines.inductor.compiled import CompiledEngine
from trainer.training.engines.inductor.python_state import PythonState
from trainer.training.forward import ForwardPass

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")

MODELS = Path(stateful_models.__file__)
ALL = [
    name
    for name, thing in vars(stateful_models).items()
    if inspect.isclass(thing)
    and issubclass(thing, stateful_models.Base)
    and name not in ("Base", "Evaluated")
]
OUTSIDE = ["ClassCounter", "GlobalCounter", "GlobalList", "GlobalDict", "Iterating", "Closed"]
"""Models with a state that a copy of the model shares, and so a repeated or resumed run."""
IN_EVERY_RUN = {"Counter", "PythonRandom", "HiddenTensor", "Branching"}
"""One model of each kind of state. The others are nightly, because compiling takes seconds per model."""
CASES = [
    pytest.param(name, marks=[] if name in IN_EVERY_RUN else pytest.mark.nightly)
    for name in ALL
    if name not in OUTSIDE
]
LENGTH = ["train.epochs=2", "log.every=1"]


def run(folder: Path, name: str, engine: str, *overrides: str) -> Path:
    sys.modules.pop(f"optlab_user:{MODELS}", None)  # its globals are a new process's
    given = [f"model={{name: '{MODELS}:{name}'}}", f"train.engine={engine}", *LENGTH, *overrides]
    train(write_tiny(folder), *given, run_dir=folder / engine)
    return folder / engine


@pytest.mark.parametrize("name", CASES)
def test_a_model_with_python_state_is_trained_as_eager_trains_it(name: str, tmp_path: Path) -> None:
    eager, compiled = (run(tmp_path, name, engine) for engine in ("eager", "compiled"))
    assert "the steps run eager: " in (compiled / "train.log").read_text()
    assert differences(eager, compiled) == []


def test_a_check_restores_what_an_optimizer_keeps(tmp_path: Path) -> None:
    own = f"optimizer={{name: '{MODELS}:CountingOptimizer'}}"
    eager, compiled = (run(tmp_path, "Counter", engine, own) for engine in ("eager", "compiled"))
    assert "the steps run eager: " in (compiled / "train.log").read_text()
    assert differences(eager, compiled) == []


@pytest.mark.parametrize(
    "override",
    [
        *(f"model={{name: '{MODELS}:{name}'}}" for name in OUTSIDE),
        f"data.augment=[{{name: '{MODELS}:CountingAugmentation'}}]",
        f"loss={{name: '{MODELS}:counting_loss'}}",
    ],
    ids=[*OUTSIDE, "augmentation", "loss"],
)
def test_results_that_depend_on_earlier_calls_are_refused(override: str, tmp_path: Path) -> None:
    done = optlab("train", write_tiny(tmp_path), override, "--run-dir", tmp_path / "run")
    assert done.code == 2
    assert "is not deterministic" in done.err
    assert "stateful_models.py" in done.err
    assert not (tmp_path / "run").exists()


def test_state_that_evaluations_change_ends_compiled_steps_at_once(tmp_path: Path) -> None:
    eager, compiled = (run(tmp_path, "Evaluated", engine) for engine in ("eager", "compiled"))
    log = (compiled / "train.log").read_text()
    assert "the steps run eager from step 0 on: the model's code changes model.evaluations" in log
    found = {name for name in differences(eager, compiled) if not name.endswith(":eager_from")}
    assert found == {"summary.json"}  # it says `compiled until step 0`
    assert '"engine": "compiled until step 0"' in (compiled / "summary.json").read_text()


def test_a_compiled_run_is_checked_again_at_every_evaluation(tmp_path: Path) -> None:
    log = (run(tmp_path, "Base", "compiled") / "train.log").read_text()
    assert "compared loss, outputs, optimizer state and updates of 3 steps against eager" in log
    assert "largest relative deviation" in log
    assert "checked the compiled steps at 2 evaluations" in log  # of epochs that end with a smaller batch
    assert "outputs, optimizer state and updates of 5 steps against eager" in log


class Scaled(nn.Linear):
    amount = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = super().forward(functional.dropout(inputs, 0.5, self.training))
        return outputs * self.amount


def test_a_check_changes_nothing_and_finds_what_has_changed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    forward = ForwardPass(functional.cross_entropy)
    engine = CompiledEngine(model, forward, [optimizer], autocast=nullcontext())
    steps = [[(torch.randn(8, 6), torch.randint(3, (8,)))] for _ in range(6)]
    assert engine.compile(steps) is None
    for batches in steps:
        engine.step(batches)

    def everything() -> list[Tensor]:
        kept = [value for state in optimizer.state.values() for value in state.values()]
        return [value.clone() for value in (*model.state_dict().values(), *kept, torch.get_rng_state())]

    before = everything()
    assert engine.check(steps[0]) is None
    assert engine.ready
    assert all(map(torch.equal, before, everything()))
    program = engine._program
    assert program is not None

    def wrong(values: list[Any]) -> Any:
        loss, outputs = program(values)
        return loss * 1.01, outputs

    engine._program = wrong
    assert "the loss differs from eager's" in str(engine.check(steps[0]))
    assert not engine.ready
    assert all(map(torch.equal, before, everything()))

    engine._program = program
    model[0].amount = 2.0
    assert "the model's code changes model.0.amount" in str(engine.check())
    assert not engine.ready


def test_state_is_put_back() -> None:
    shared: dict[str, Any] = {"list": [1, [2]], "set": {3}, "tensor": torch.ones(2)}
    state = PythonState.of({"shared": shared})
    assert state.change() is None
    shared["list"][1].append(5)
    shared["set"].add(4)
    shared["tensor"].mul_(2)
    shared["new"] = 1
    assert state.change() is not None
    state.restore()
    assert state.change() is None
    assert shared["list"] == [1, [2]]
    assert shared["set"] == {3}
    assert torch.equal(shared["tensor"], torch.ones(2))
    assert "new" not in shared


def test_without_a_private_name_of_torch_runs_are_eager_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trainer.training.engines.inductor.compiled", None)
    assert engine_class("eager").__name__ == "EagerEngine"
    log = (run(tmp_path, "Base", "compiled") / "train.log").read_text()
    assert "the steps run eager: this release of torch lacks what compiling needs" in log


def test_a_resumed_run_stays_eager_where_compiled_steps_had_stopped_agreeing(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    experiment = build_experiment(load_config(config, ["train.engine=compiled"]))
    state = experiment.state_dict()
    assert state["eager_from"] is None
    experiment.load_state_dict(state | {"eager_from": 3})
    assert experiment.compile() == "the steps run eager, as they did from step 3 on"
    assert experiment.compile() is None
    assert experiment.compilation.engine_used() == "compiled until step 3"
    older = {key: value for key, value in state.items() if key != "eager_from"}
    experiment.load_state_dict(older)
    assert experiment.compilation.engine_used() == "eager"
