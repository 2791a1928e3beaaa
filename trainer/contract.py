"""What every run relies on, as checks of one component: `optlab check`, or in a test of your own.

    import pytest
    from trainer.contract import checks

    @pytest.mark.parametrize("check", checks("my_optimizer.py:MyOptimizer", options=["lr=0.1"]), ids=str)
    def test_my_optimizer(check):
        check()

A component is tried in a short run of a small network on the digits of scikit-learn.
"""

from __future__ import annotations

import inspect
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.utils.data
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer import catalog
from trainer.config.load import Loaded
from trainer.config.models import Config
from trainer.config.packaged import packaged
from trainer.config.paths import absolute_import_path, split_import_path
from trainer.data.augment_function import is_augmentation
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError, PartError, unknown_name
from trainer.imports import find_object, fits
from trainer.metrics import Metric
from trainer.models.outputs import prediction
from trainer.optimizers.build import state_bytes
from trainer.process_state import preserved
from trainer.records import CheckpointDue
from trainer.tasks import CLASSIFICATION, TASKS
from trainer.training.building import build_experiment
from trainer.training.experiment import Experiment
from trainer.training.loaded_data import load_data
from trainer.training.loop import train
from trainer.user_code import compared_arguments, running

_PLACES = {
    "dataset": "data={{{part}, batch_size: 32, val_size: 0, normalize: dataset}}",
    "augmentation": "data.augment=[{{{part}}}]",
    "model": "model={{{part}}}",
    "init": "init={{weight: {{{part}}}}}",
    "loss": "loss={{{part}}}",
    "optimizer": "optimizer={{{part}}}",
    "scheduler": "scheduler={{interval: step, {part}}}",
    "metric": "train.metrics=[{{{part}}}]",
}
"""Where a component of each kind stands in a config."""

BUILDS = "builds"
"""The name of the first check; if it does not hold, no other can."""

_RUN = ("train.epochs=3", "train.threads=1", "train.eval_train=true", "train.checkpoint_every={steps: 7}")
_SAMPLES = 300
_NOT_CHECKED = "not checked: the model draws random numbers in eval mode"
_SMALL_RATE = 1e-12

Record = tuple[str, int, Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check. Calling it returns what was seen, or raises an `OptlabError` if it does not hold.

    Args:
        name: what is checked; also the result of `str`.
        run: the check.
    """

    name: str
    run: Callable[[], str]

    def __call__(self) -> str:
        """Check; the settings and the random generators of the process are restored."""
        with preserved():
            return self.run()

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def checks(name: str, *, kind: str | None = None, options: Sequence[str] = ()) -> list[Check]:
    """Return the checks of a component; nothing but the import of its file happens before they are called.

    Args:
        name: `my_file.py:Thing`, relative to the working directory, `package.module:Thing`, or a registered
            name.
        kind: a key of `catalog.REGISTRIES`; None = found out.
        options: `key=value` texts: options of the component, or keys of the config as `model.hidden=[32]`.

    Raises:
        ConfigError: the component cannot be imported, or its kind is not clear.
    """
    path = absolute_import_path(name, Path.cwd())
    kind = kind or kind_of(path)
    if kind not in _PLACES:
        raise unknown_name("kind", kind, list(_PLACES))
    trial = _Trial(path, kind, options)
    found = [Check(BUILDS, trial.builds)]
    if kind == "dataset":
        found.append(Check("gives the same data again", trial.repeats_data))
    if kind == "model":
        found.append(Check("treats samples independently", trial.is_per_sample))
    if kind == "loss":
        found.append(Check("is a mean over the batch", trial.is_mean))
    if kind == "metric":
        found.append(Check("is measured", trial.is_measured))
    if kind == "scheduler":
        found.append(Check("changes the learning rate", trial.changes_rate))
    if kind != "metric":
        found.append(Check("learns", trial.learns))
    found += [Check("is deterministic", trial.is_deterministic), Check("resumes bit for bit", trial.resumes)]
    if kind == "optimizer":
        found.append(Check("respects parameter groups", trial.respects_groups))
    return [*found, Check("reports its cost", trial.cost)]


def kind_of(name: str) -> str:
    """Return the kind of a component, from its class or its parameters.

    Raises:
        ConfigError: it can be of no kind, or of several.
    """
    registered = [kind for kind, registry in catalog.REGISTRIES.items() if name in registry]
    if len(registered) == 1:
        return registered[0]
    if registered:
        raise ConfigError(f"{name} may be a {' or a '.join(registered)}", fix="state --kind")
    if split_import_path(name) is None:
        raise unknown_name("component", name, [one for kind in _PLACES for one in catalog.names(kind)])
    thing = find_object(name)
    kind = _kind_of_class(thing) if isinstance(thing, type) else _kind_of_function(thing)
    if kind is None:
        raise ConfigError(f"{name}: its kind is not clear", fix=f"state --kind: {', '.join(_PLACES)}")
    return kind


def _kind_of_class(cls: type) -> str | None:
    if issubclass(cls, Optimizer):
        return "optimizer"
    parameters = inspect.signature(cls).parameters
    if issubclass(cls, LRScheduler) or ("optimizer" in parameters and hasattr(cls, "step")):
        return "scheduler"
    if issubclass(cls, nn.Module):
        forward = [*inspect.signature(cls.forward).parameters.values()][1:]
        required = [p for p in forward if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        return "loss" if len(required) >= 2 else "model"
    if hasattr(cls, "draw") and hasattr(cls, "apply"):
        return "augmentation"
    is_data = issubclass(cls, Dataset | torch.utils.data.Dataset) or hasattr(cls, "train")
    return "dataset" if is_data else None


def _kind_of_function(thing: Any) -> str | None:
    if isinstance(thing, Metric):
        return "metric"
    parameters = inspect.signature(thing).parameters
    required = [p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    first = next(iter(parameters), "")
    for kind, names in (
        ("scheduler", ("optimizer",)),
        ("optimizer", ("params", "parameters", "named_parameters")),
        ("init", ("tensor",)),
        ("model", ("input_shape", "num_classes")),
    ):
        if first in names:
            return kind
    if is_augmentation(thing):
        return "augmentation"
    if compared_arguments(thing):
        return "loss"
    if fits(thing, "model"):
        return "model"
    return "dataset" if not required else None


class _Trial:
    """The runs of one component; each is trained once, for all checks that read it."""

    def __init__(self, name: str, kind: str, options: Sequence[str]) -> None:
        self._kind = kind
        self._own = [text for text in options if text.split("=")[0].split(".")[0] not in Config.model_fields]
        self._rest = [text for text in options if text not in self._own]
        part = ", ".join([f'name: "{name}"', *(text.replace("=", ": ", 1) for text in self._own)])
        self._place = _PLACES[kind].format(part=part)
        # Wrong options are reported before any check.
        self._alone = catalog.load_config(packaged("optlab:quickstart"), [self._place, *self._rest])

    # ---- runs

    def _load(self, *overrides: str, plain: bool = False) -> Loaded:
        """Return the config of a run; a `plain` one is without the component."""
        texts = [*([] if plain else [self._place]), *_RUN, "log.every=1"]
        data = load_data(self._alone)
        texts.append(f"data.limit={min(_SAMPLES, len(data.splits.train))}")
        if self._kind == "dataset":
            texts.append("optimizer={name: Adam, lr: 1e-3}")
        task = self._alone.config.task or data.dataset.task
        has_loss = any(text.startswith("loss") for text in (*self._rest, "" if plain else self._place))
        if task != CLASSIFICATION.name and not has_loss:
            texts.append(f"loss={TASKS[task].loss}")
        return catalog.load_config(packaged("optlab:quickstart"), [*texts, *self._rest, *overrides])

    @cached_property
    def _loaded(self) -> Loaded:
        return self._load()

    @cached_property
    def _whole(self) -> tuple[Experiment, list[Record]]:
        """A complete run and its records."""
        with self._reported():
            experiment = build_experiment(self._loaded)
            return experiment, list(_records(experiment))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        with running(self._loaded.config.model_dump()):
            yield

    # ---- checks

    def builds(self) -> str:
        """Build the experiment, which tries the component."""
        experiment = build_experiment(self._loaded)
        parameters = sum(p.numel() for p in experiment.model.parameters())
        if self._kind == "optimizer":
            return f"step mode: {experiment.engine.step_mode}"
        return f"{parameters:,} parameters" if self._kind == "model" else ""

    def learns(self) -> str:
        """The loss on the training split falls."""
        losses = [values["train_eval_loss"] for _, _, values in self._whole[1] if "train_eval_loss" in values]
        first, last = losses[0], losses[-1]
        assert first is not None
        if last is None or not last < first:
            raise PartError(f"the training loss was {first:.4g} before training and is {last:.4g} after it")
        return f"training loss {first:.4g} before training, {last:.4g} after {self._whole[1][-1][1]} steps"

    def is_deterministic(self) -> str:
        """A second run has the same records."""
        with self._reported():
            again = list(_records(build_experiment(self._loaded)))
        _compare(self._whole[1], again, "a second run with the same seed differs")
        return f"two runs have the same {len(again)} records"

    def resumes(self) -> str:
        """A run that continues from a saved state has the same records as one without interruption."""
        with self._reported():
            first = build_experiment(self._loaded)
            saved = io.BytesIO()
            half = self._whole[1][-1][1] // 2
            for kind, at, _ in _records(first):
                if kind == CheckpointDue.__name__ and at >= max(half, 1):
                    torch.save(first.state_dict(), saved)
                    break
            saved.seek(0)
            second = build_experiment(self._loaded)
            second.load_state_dict(torch.load(saved, weights_only=True))
            step = second.progress.step
            rest = list(_records(second))
        kinds = [(kind, at) for kind, at, _ in self._whole[1]]
        after = self._whole[1][kinds.index((CheckpointDue.__name__, step)) + 1 :]
        _compare(after, rest, f"a run that is resumed at step {step} differs")
        return f"resumed at step {step} of {self._whole[1][-1][1]}"

    def respects_groups(self) -> str:
        """A tiny learning rate of the biases keeps them where they are."""
        moved = []
        for groups in ("[]", f"[{{match: '*.bias', lr: {_SMALL_RATE}}}]"):
            try:
                experiment = build_experiment(self._load(f"optimizer.groups={groups}"))
            except ConfigError as error:
                raise PartError(f"it cannot have groups: {error.problems[0].what}") from error
            biases = {n: p for n, p in experiment.model.named_parameters() if n.endswith(".bias")}
            before = {name: value.detach().clone() for name, value in biases.items()}
            with self._reported():
                for _ in train(experiment):
                    pass
            changes = [(biases[name].detach() - was).abs().max() for name, was in before.items()]
            moved.append(float(max(changes)))
        if moved[1] > moved[0] / 1000:
            raise PartError(
                f"with lr={_SMALL_RATE:g} in the group of the biases, they moved by {moved[1]:.2g}; without "
                f"it by {moved[0]:.2g}",
                fix="read the options of a step from its group, not from the constructor",
            )
        return f"biases moved by {moved[0]:.2g}, and by {moved[1]:.2g} with lr={_SMALL_RATE:g} in their group"

    def is_measured(self) -> str:
        """The metric is a finite number."""
        experiment, records = self._whole
        metric = experiment.metrics[-1]
        column = f"val_{metric.name}"
        value = next(values[column] for _, _, values in reversed(records) if column in values)
        if value is None or not math.isfinite(value):
            raise PartError(f"val_{metric.name} is {value}")
        return f"val_{metric.name} is {value:.4g}; {'higher' if metric.mode == 'max' else 'lower'} is better"

    def changes_rate(self) -> str:
        """The learning rate is not the same at all steps."""
        rates = [lr for _, _, values in self._whole[1] if (lr := values.get("lr")) is not None]
        if len(set(rates)) < 2:
            raise PartError(f"the learning rate is {rates[0]:g} at all {len(rates)} steps")
        return f"lr from {min(rates):.3g} to {max(rates):.3g}"

    def is_mean(self) -> str:
        """The loss of a batch, twice, is that of the batch."""
        experiment = build_experiment(self._loaded)
        model = experiment.model.eval()
        inputs, targets = next(experiment.batches.epoch(0))
        if self._draws(model, inputs):
            return _NOT_CHECKED
        twice = torch.cat([inputs, inputs]), torch.cat([targets, targets])
        with torch.no_grad(), self._reported():
            one = float(experiment.forward(model, inputs, targets)[0])
            two = float(experiment.forward(model, *twice)[0])
        if not math.isclose(one, two, rel_tol=1e-4):
            raise PartError(
                f"it is {one:.6g} for a batch, and {two:.6g} for the same batch twice",
                fix="return the mean over the samples",
            )
        return f"{one:.4g} for a batch and for the same batch twice"

    def is_per_sample(self) -> str:
        """In eval mode, the output of a sample does not depend on the others of its batch."""
        experiment = build_experiment(self._loaded)
        model = experiment.model.eval()
        inputs = next(experiment.batches.epoch(0)).inputs[:4]
        if self._draws(model, inputs):
            return _NOT_CHECKED
        with torch.no_grad(), self._reported():
            together, *alone = (
                prediction(model(some), experiment.forward.output)
                for some in (inputs, *(inputs[at : at + 1] for at in range(len(inputs))))
            )
        difference = float((together - torch.cat(alone)).abs().max())
        if not difference <= 1e-4 * max(1.0, float(together.abs().max())):
            raise PartError(f"outputs of single samples differ by {difference:.2g} from those of a batch")
        return f"outputs of single samples differ by at most {difference:.2g}"

    def _draws(self, model: nn.Module, inputs: torch.Tensor) -> bool:
        """Return whether a model in eval mode draws from torch's global generator, as an autoencoder may."""
        before = torch.get_rng_state()
        with torch.no_grad(), self._reported():
            model(inputs)
        return not torch.equal(before, torch.get_rng_state())

    def repeats_data(self) -> str:
        """Two calls give the same data."""
        digests = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as cache:
                os.environ["OPTLAB_CACHE"] = cache
                dataset = load_data(self._loaded).dataset
                digests.append(dataset.digest)
        if digests[0] != digests[1]:
            raise PartError(
                "two calls gave different data",
                fix="draw random numbers from a seed, or from the global generators",
            )
        shape = "x".join(map(str, dataset.input_shape))
        sizes = f"{len(dataset.train):,} training and {len(dataset.test):,} test samples"
        return f"{dataset.task}: {sizes} of {shape}"

    def cost(self) -> str:
        """Compare the time of a step with that of the same run without the component."""
        configs = [self._loaded]
        if self._kind not in ("dataset", "model"):
            configs.append(self._load(plain=True))
        fastest = [math.inf] * len(configs)
        for _ in range(3):  # interleaved; the fastest run is the least disturbed one
            for number, config in enumerate(configs):
                with self._reported():
                    experiment = build_experiment(config)
                    for _ in train(experiment):
                        pass
                milliseconds = 1000 * experiment.state.clock.elapsed / experiment.progress.step
                fastest[number] = min(fastest[number], milliseconds)
        text = f"{fastest[0]:.2f} ms per step"
        if len(fastest) > 1:
            text += f" ({'SGD' if self._kind == 'optimizer' else 'without it'}: {fastest[1]:.2f} ms)"
        if self._kind == "optimizer":
            experiment = self._whole[0]
            size = state_bytes(experiment.state.optimizers.values())
            parameters = sum(p.numel() for p in experiment.model.parameters())
            text += f", state of {size / parameters:.1f} bytes per parameter"
        return text


def _records(experiment: Experiment) -> Iterator[Record]:
    return ((type(record).__name__, record.step, dict(record.values)) for record in train(experiment))


def _compare(expected: Sequence[Record], found: Sequence[Record], what: str) -> None:
    """Raise PartError at the first difference; NaN equals NaN."""
    for one, other in zip(expected, found, strict=False):
        if repr(one) != repr(other):
            keys = [key for key in one[2] if repr(one[2][key]) != repr(other[2].get(key))]
            column = keys[0] if keys else "its kind"
            raise PartError(f"{what}, first in {column} of step {one[1]}")
    if len(expected) != len(found):
        raise PartError(f"{what}: it has {len(found)} records instead of {len(expected)}")
