"""Optimizers of users and of other packages: how they are stepped, and what is refused before a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import external_optimizers as external
import pytest
import torch
from command import optlab, rows
from torch import nn

from trainer import build_experiment, load_config
from trainer.errors import ConfigError
from trainer.optimizers.external import OptimizerSpec, build_external
from trainer.optimizers.groups import assign_groups
from trainer.training.forward import ForwardPass
from trainer.training.rehearsal import Rehearsal

FILE = Path(external.__file__)


def rehearsal(
    builder: Callable[..., Any], options: dict[str, Any] | None = None, base: Any = None
) -> Rehearsal:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    spec = OptimizerSpec(f"{FILE}:{builder.__name__}", builder, options or {}, base)
    groups = assign_groups(model, [name for name, _ in model.named_parameters()], [])
    build = partial(build_external, spec, groups=groups, context={"num_data": 10, "total_steps": None})
    batches = [(torch.randn(16, 4), torch.arange(16) % 3)]
    return Rehearsal(spec, build, model, ForwardPass(nn.functional.cross_entropy), nullcontext(), batches)


ADAM = OptimizerSpec("Adam", torch.optim.Adam, {"lr": 1e-2})


@pytest.mark.parametrize(
    ("builder", "base", "mode"),
    [
        (external.Plain, None, "plain"),
        (external.Closing, None, "closure"),
        (external.Sharpness, ADAM, "gradients_and_closure"),
        (external.Curvature, None, "create_graph"),
        (external.Differentiating, None, "loss_closure"),
        (external.Averaging, None, "plain"),
        (external.Slow, ADAM, "plain"),
        (external.Odd, None, "plain"),
        (external.sgd, None, "plain"),
    ],
)
def test_the_mode_is_found_and_the_model_left_alone(
    builder: Callable[..., Any], base: OptimizerSpec | None, mode: str
) -> None:
    tried = rehearsal(builder, base=base)
    before = {name: value.clone() for name, value in tried.model.state_dict().items()}
    drawn = torch.get_rng_state()
    assert tried.run("auto").mode == mode
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in tried.model.state_dict().items())


@pytest.mark.parametrize(
    ("builder", "options", "words"),
    [
        (external.Plain, {"lr": -1.0}, "lr must be positive"),
        (external.Forgetful, {}, "does not resume"),
        (external.Unsteady, {}, "is not deterministic"),
        (external.Failing, {}, "no third step"),
        (external.Broken, {}, "cannot take"),
        (external.Sharpness, {}, "wraps another optimizer"),
        (external.Plain, {"momentm": 0.5}, "momentm"),
    ],
)
def test_what_would_fail_or_not_resume_is_refused(
    builder: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        rehearsal(builder, options).run("auto")


def test_a_stated_mode_is_the_only_one_that_is_tried() -> None:
    assert rehearsal(external.Plain).run("create_graph").mode == "create_graph"
    with pytest.raises(ConfigError, match="give a closure"):
        rehearsal(external.Closing).run("plain")


def test_settings_of_torch_are_restored_between_tries() -> None:
    """What one try changes reaches neither the next one, which would hide a difference, nor the run."""

    class Setting(external.Closing):
        def step(self, closure: external.Closure | None = None) -> None:
            seen.append([read() for read in SETTINGS_READ])
            torch.set_float32_matmul_precision("medium")
            torch.use_deterministic_algorithms(True)
            torch.set_grad_enabled(True)
            torch.set_num_threads(2)
            torch.set_default_dtype(torch.float64)
            super().step(closure)

    seen: list[list[Any]] = []
    before = [read() for read in SETTINGS_READ]
    rehearsal(Setting).run("auto")
    assert [read() for read in SETTINGS_READ] == before
    assert seen.count(before) >= 3  # the first step of every try


SETTINGS_READ: list[Callable[[], Any]] = [
    torch.get_float32_matmul_precision,
    torch.are_deterministic_algorithms_enabled,
    torch.is_grad_enabled,
    torch.get_num_threads,
    torch.get_default_dtype,
]

CONFIG = """\
name: own
data: {{name: digits, batch_size: 32, val_size: 100, limit: 200}}
model: {{name: linear}}
optimizer: {optimizer}
train: {{epochs: 2, threads: 1, engine: eager}}
log: {{every: 2, plots: []}}
"""


def config(folder: Path, optimizer: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(CONFIG.format(optimizer=optimizer.replace("own.py", str(FILE))), encoding="utf-8")
    return path


def numbers(run: Path) -> list[dict[str, str]]:
    every = rows(run / "steps.csv") + rows(run / "epochs.csv")
    return [{key: value for key, value in row.items() if key != "train_seconds"} for row in every]


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [
        ("{name: 'own.py:Closing', lr: 0.01}", "closure"),
        ("{name: 'own.py:Curvature'}", "create_graph"),
        ("{name: 'own.py:Differentiating', lr: 0.1}", "loss_closure"),
        ("{name: 'own.py:Averaging'}", "plain"),
        ("{name: 'own.py:Odd'}", "plain"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(optimizer: str, mode: str, tmp_path: Path) -> None:
    path = config(tmp_path, optimizer)
    for run, epochs in (("whole", 2), ("part", 1)):
        done = optlab("train", path, f"train.epochs={epochs}", "--run-dir", tmp_path / run, "--quiet")
        assert done.code == 0, done.err
    assert load_config(tmp_path / "whole" / "config.yaml").config.optimizer[0].step == mode
    done = optlab("resume", tmp_path / "part", "train.epochs=2", "--quiet")
    assert done.code == 0, done.err
    assert numbers(tmp_path / "part") == numbers(tmp_path / "whole")


def test_the_line_of_the_optimizer_is_cited_before_any_run(tmp_path: Path) -> None:
    done = optlab("train", config(tmp_path, "{name: 'own.py:Failing'}"), "--run-dir", tmp_path / "run")
    assert done.code == 2
    line = (
        FILE.read_text(encoding="utf-8").splitlines().index('        assert count < 3, "no third step"') + 1
    )
    assert f"{FILE}:{line}" in done.err
    assert "own.yaml:4: optimizer.name" in done.err
    assert not (tmp_path / "run").exists()


def test_modes_of_optimizers_without_a_rehearsal(tmp_path: Path) -> None:
    path = config(tmp_path, "{name: LBFGS, max_iter: 2}")
    done = optlab("validate", path, "optimizer.step=plain")
    assert done.code == 2
    assert "optimizer.step" in done.err
    assert optlab("validate", path, "optimizer.step=gradients_and_closure").code == 0


def test_a_closure_that_returns_the_loss_is_that_of_the_run(tmp_path: Path) -> None:
    """Plain descent by differentiating the loss equals SGD, with accumulation and penalty."""
    losses = []
    for optimizer in ("{name: 'own.py:Differentiating', lr: 0.1}", "{name: SGD, lr: 0.1}"):
        run = tmp_path / f"run{len(losses)}"
        done = optlab(
            *("train", config(tmp_path, optimizer), "loss={name: cross_entropy, l2: 0.01}"),
            *("train.accumulate=2", "log.every=1", "--run-dir", run, "--quiet"),
        )
        assert done.code == 0, done.err
        losses.append([float(row["loss"]) for row in rows(run / "steps.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    path = config(tmp_path, "{name: 'own.py:Differentiating', lr: 0.1}")
    done = optlab("validate", path, "train.clip_grad_norm=1", "log.gradients=true")
    assert done.code == 2
    assert "train.clip_grad_norm does not apply" in done.err
    assert "log.gradients does not apply" in done.err


# ---- schedule-free methods


def test_evaluation_sees_the_weights_to_evaluate_and_changes_nothing(tmp_path: Path) -> None:
    """The losses equal those of the loop that a schedule-free method asks for."""
    path = config(tmp_path, "{name: 'own.py:Averaging', lr: 0.3}")
    done = optlab("train", path, "--run-dir", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    run = build_experiment(load_config(path))
    model, batches = run.model, run.batches
    optimizer = external.Averaging(model.parameters(), lr=0.3)
    optimizer.train()
    losses = []
    for epoch in range(2):
        for inputs, targets in batches.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        optimizer.eval()
        model.eval()
        with torch.no_grad():
            values = [nn.functional.cross_entropy(model(x), y).item() for x, y in run.evaluate_on("val")]
            tested = [nn.functional.cross_entropy(model(x), y).item() for x, y in run.evaluate_on("test")]
        losses.append(sum(values) / len(values))
        model.train()
        optimizer.train()
    logged = [float(row["val_loss"]) for row in rows(tmp_path / "run" / "epochs.csv")[1:]]
    assert logged[0] == pytest.approx(losses[0], rel=1e-12)
    assert logged[1] == pytest.approx(losses[1], rel=1e-5)  # train() undoes eval() only up to rounding
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["experiment"]
    model.load_state_dict(state["evaluation_model"])
    with torch.no_grad():
        best = [nn.functional.cross_entropy(model(x), y).item() for x, y in run.evaluate_on("val")]
    assert sum(best) / len(best) == pytest.approx(min(logged), rel=1e-6)
    assert tested


# ---- wrappers

WRAPPED = "{name: 'own.py:Slow', base: {name: 'own.py:Sharpness', rho: 0.1, base: {name: SGD, lr: 0.2}}}"


def test_wrappers_several_deep_resume_and_show_the_inner_rate(tmp_path: Path) -> None:
    path = config(tmp_path, WRAPPED)
    schedule = "scheduler={name: StepLR, step_size: 1, gamma: 0.5}"
    for run, extra in (("whole", ()), ("part", ("train.epochs=1",))):
        done = optlab("train", path, schedule, *extra, "--run-dir", tmp_path / run, "--quiet")
        assert done.code == 0, done.err
    assert sorted({row["lr"] for row in rows(tmp_path / "whole" / "steps.csv")}) == ["0.1", "0.2"]
    done = optlab("resume", tmp_path / "part", "train.epochs=2", "--quiet")
    assert done.code == 0, done.err
    assert numbers(tmp_path / "part") == numbers(tmp_path / "whole")
    again = optlab("train", tmp_path / "whole" / "config.yaml", "--run-dir", tmp_path / "again", "--quiet")
    assert again.code == 0, again.err
    assert numbers(tmp_path / "again") == numbers(tmp_path / "whole")
    found = load_config(tmp_path / "whole" / "config.yaml").config.optimizer[0]
    assert found.step == "gradients_and_closure"
    assert found.base is not None
    assert found.base.base is not None
    assert found.base.base.options["momentum"] == 0


@pytest.mark.parametrize(
    ("optimizer", "key", "words"),
    [
        (WRAPPED.replace("lr: 0.2", "lr: -1"), "optimizer.base.base.lr", "Invalid learning rate"),
        (WRAPPED.replace("lr: 0.2", "rate: 0.2"), "optimizer.base.base.rate", "lr"),
        (WRAPPED.replace("name: SGD", "name: SGDD"), "optimizer.base.base.name", "SGD"),
        (WRAPPED.replace("base: {name: SGD, lr: 0.2}", "base: null"), "optimizer.base.name", "wraps another"),
        ("{name: SGD, lr: 0.1, base: {name: SGD}}", "optimizer.base", "no parameter for an inner optimizer"),
        ("{name: 'own.py:Slow', base: {name: 'own.py:Plain', lr: -1}}", "optimizer.base.lr", "own.py"),
    ],
)
def test_options_of_inner_optimizers_are_checked(
    optimizer: str, key: str, words: str, tmp_path: Path
) -> None:
    done = optlab("validate", config(tmp_path, optimizer))
    assert done.code == 2
    assert f"{key}:" in done.err
    assert words.replace("own.py", FILE.name) in done.err


def test_overrides_reach_inner_optimizers(tmp_path: Path) -> None:
    path = config(tmp_path, WRAPPED)
    inner = load_config(path, ["optimizer.base.base.lr=0.5", "optimizer.k=3"]).config.optimizer[0]
    assert inner.options["k"] == 3
    assert inner.base is not None
    assert inner.base.base is not None
    assert inner.base.base.options["lr"] == 0.5
    renamed = load_config(path, ["optimizer.base=Adam"]).config.optimizer[0]
    assert renamed.base is not None
    assert (renamed.base.name, renamed.base.base) == ("Adam", None)


def test_groups_belong_to_the_innermost_optimizer(tmp_path: Path) -> None:
    groups = "groups: [{match: '*.bias', lr: 0.01}]"
    path = config(tmp_path, f"{{name: 'own.py:Slow', base: {{name: SGD, lr: 0.2}}, {groups}}}")
    done = optlab("train", path, "--run-dir", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    row = rows(tmp_path / "run" / "steps.csv")[0]
    assert (row["lr.*.bias"], row["lr.rest"]) == ("0.01", "0.2")
    done = optlab("validate", path, "optimizer.groups=[{match: '*.bias', rate: 1}]")
    assert done.code == 2
    assert "optimizer.groups.0.rate" in done.err


def test_keys_that_only_a_groups_reader_knows(tmp_path: Path) -> None:
    """`use_sign` is no parameter of the constructor; the class reads it from its groups."""
    done = optlab(
        "train",
        config(tmp_path, "{name: 'own.py:Signed', groups: [{match: '*.bias', use_sign: true}]}"),
        *("--run-dir", tmp_path / "run", "--quiet"),
    )
    assert done.code == 0, done.err
    done = optlab(
        "validate", config(tmp_path, "{name: 'own.py:Signed', groups: [{match: '*.bias', use_sing: true}]}")
    )
    assert done.code == 2
    assert "use_sing" in done.err


# ---- numbers in parameter groups


def test_numbers_that_change_in_groups_are_columns(tmp_path: Path) -> None:
    """Prodigy estimates `d` and steps by d * lr; the constant options of its groups are no columns."""
    groups = "groups: [{match: '*.bias', growth: 2.0}]"
    path = config(tmp_path, f"{{name: 'own.py:Estimating', {groups}}}")
    done = optlab("train", path, "log.groups=true", "log.every=1", "--run-dir", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    written = rows(tmp_path / "run" / "steps.csv")
    assert [name for name in written[0] if name.startswith("group")] == ["group.d.*.bias", "group.d.rest"]
    assert [float(row["group.d.rest"]) for row in written[:3]] == pytest.approx([1.5e-3, 2.25e-3, 3.375e-3])
    assert float(written[1]["group.d.*.bias"]) == pytest.approx(4e-3)
    done = optlab("train", path, "--run-dir", tmp_path / "other", "--quiet")
    assert not any(name.startswith("group") for name in rows(tmp_path / "other" / "steps.csv")[0])


def test_the_momentum_that_a_schedule_cycles_is_a_column(tmp_path: Path) -> None:
    path = config(tmp_path, "{name: Adam, lr: 0.01}")
    schedule = "scheduler={name: OneCycleLR, interval: step}"
    done = optlab("train", path, schedule, "log.groups=true", "--run-dir", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    assert len({row["group.betas.0"] for row in rows(tmp_path / "run" / "steps.csv")}) > 2
