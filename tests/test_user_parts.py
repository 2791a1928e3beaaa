"""Supported user components: lazy layers, cached tensors, functions, optimizers of any kind."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import optlab, rows
from torch import nn

from trainer import build_experiment, device, load_config
from trainer.contract import kind_of
from trainer.errors import ConfigError
from trainer.models.describe import check_shapes, layer_table, materialize, sparse_gradients
from trainer.optimizers.build import Kind, check_options, resolve_implementation
from trainer.sweep.runner import _describe_exit
from trainer.training.engines.compiler import compiler

CONFIG = """\
name: own
data: {name: digits, batch_size: 32, val_size: 100, limit: 200}
model: {name: linear}
optimizer: {name: SGD, lr: 0.05}
train: {epochs: 1, threads: 1, engine: eager}
log: {every: 1, plots: []}
"""


def write(folder: Path, part: str, *, model: str = "", optimizer: str = "", augment: str = "") -> Path:
    """Write a part and a config that names it."""
    text = CONFIG
    if model:
        text = text.replace("model: {name: linear}", f"model: {{name: 'own.py:{model}'}}")
    if optimizer:
        text = text.replace("name: SGD, lr: 0.05", f"name: 'own.py:{optimizer}'")
    if augment:
        text = text.replace("limit: 200", f"limit: 200, augment: [{{name: 'own.py:{augment}'}}]")
    (folder / "own.py").write_text("import torch\nfrom torch import nn\n\n" + part, encoding="utf-8")
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def train(path: Path, *overrides: str) -> Path:
    """Train and return the run directory; the run must complete."""
    run = path.parent / "run"
    done = optlab("train", path, *overrides, "--run-dir", run, "--force", "--quiet")
    assert done.code == 0, done.err
    return run


# ---- building a model leaves it as it was


class Recording(nn.Module):
    """Keeps tensors and other state of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(12, 3), nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(()))
        self.draw = torch.Generator().manual_seed(3)
        self.calls, self.shapes, self.pos = 0, [], None
        self.doubled = self.layer.weight * 2  # no leaf: Python's copy refuses it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.shapes.append(tuple(images.shape))
        self.seen += len(images)
        if self.pos is None:
            self.pos = torch.arange(12.0)
        noise = torch.rand(3, generator=self.draw).to(images.device)
        noise = noise + random.random() + float(np.random.random()) + torch.rand(3)  # noqa: NPY002
        return self.norm(self.layer(images.flatten(1) + self.pos)) + noise


def test_nothing_is_computed_where_shapes_suffice() -> None:
    class OnMeta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.is_meta
            return self.layer(images)

    check_shapes(OnMeta(), (4,), 3)


class Locked(Recording):
    """The same, but it cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a lock has no copy")


def trace_of(model: Recording) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "python": (model.calls, list(model.shapes), model.pos, model.training),
        "generators": (model.draw.get_state(), torch.get_rng_state(), random.getstate()),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "attributes": list(vars(model)),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_looking_at_a_model_leaves_no_trace() -> None:
    model = Recording()
    before = trace_of(model)
    check_shapes(model, (3, 2, 2), 3)
    layer_table(model, (3, 2, 2))
    sparse_gradients(model, (3, 2, 2))
    materialize(model, (3, 2, 2))
    assert same(before, trace_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_cannot_be_copied_is_put_back() -> None:
    model = Locked()
    model.shapes = ()  # type: ignore[assignment]
    model.forward = lambda images: (  # type: ignore[method-assign]
        setattr(model, "calls", model.calls + 1) or model.norm(model.layer(images.flatten(1)))
    )
    before = trace_of(model)
    check_shapes(model, (3, 2, 2), 3)
    assert same(before, trace_of(model))


CACHING = """\
class Net(nn.Module):
    def __init__(self, cache: bool = True):
        super().__init__()
        self.pos, self.layer, self.norm = None, nn.Linear(64, 10), nn.BatchNorm1d(10)
        if not cache:
            self.pos = torch.arange(64) / 64
    def forward(self, images):
        if self.pos is None:
            self.pos = torch.arange(64, device=images.device) / 64
        assert self.pos.device == images.device
        return self.norm(self.layer(images.flatten(1) + self.pos))
"""


def test_a_tensor_cached_in_forward_trains_as_one_made_before(tmp_path: Path) -> None:
    path = write(tmp_path, CACHING, model="Net")
    losses = [
        [row["loss"] for row in rows(train(path, f"model.cache={c}") / "steps.csv")]
        for c in ("true", "false")
    ]
    assert losses[0] == losses[1]


LAZY = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(20), nn.LazyBatchNorm1d(), nn.LazyLinear(10))
    def forward(self, images):
        return self.layers(images)
"""


def test_lazy_layers_get_their_sizes_and_the_init_seeds_weights(tmp_path: Path) -> None:
    path = write(tmp_path, LAZY, model="Net")
    weights = [
        build_experiment(load_config(path, [f"seed={seed}"])).model.state_dict()["layers.1.weight"]
        for seed in (0, 0, 1)
    ]
    assert weights[0].shape == (20, 64)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    train(path)


def test_a_lazy_layer_that_forward_does_not_call() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].other = nn.LazyLinear(2)
    with pytest.raises(ConfigError, match=r"0\.other is lazy"):
        materialize(model, (4,))


# ---- optimizers


SPARSE = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.fc = nn.Embedding(300, 10, sparse=True), nn.Linear(10, 10)
    def forward(self, images):
        return self.fc(self.emb((images.flatten(1) * 255).long()).mean(1))
"""

COMPLEX = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(64, 10, dtype=torch.complex64))
    def forward(self, images):
        return (images.flatten(1).to(torch.complex64) @ self.w).abs()
"""


@pytest.mark.parametrize(("part", "name"), [(SPARSE, "SGD"), (SPARSE, "Adagrad"), (COMPLEX, "Adam")])
def test_the_implementation_is_one_that_takes_the_gradients(part: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, part, model="Net")
    run = train(path, f"optimizer={{name: {name}, lr: 0.01}}")
    assert not load_config(run / "config.yaml").config.optimizer[0].options["fused"]


@pytest.mark.parametrize(("part", "name"), [(SPARSE, "SGD"), (COMPLEX, "Adam")])
def test_an_implementation_that_cannot_take_them_is_refused(part: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, part, model="Net")
    done = optlab("validate", path, f"optimizer={{name: {name}, lr: 0.01, fused: true}}")
    assert done.code == 2
    assert "optimizer.fused" in done.err
    assert "leave out fused" in done.err


def test_an_optimizer_that_takes_no_sparse_gradients_is_refused(tmp_path: Path) -> None:
    done = optlab("validate", write(tmp_path, SPARSE, model="Net"), "optimizer={name: Adam}")
    assert done.code == 2
    assert "the sparse gradients of emb.weight" in done.err


def test_one_implementation_for_all_kinds_of_parameters() -> None:
    dense, sparse = Kind(), Kind(sparse=True, example="w")
    assert resolve_implementation(torch.optim.SGD, {}, [dense])["fused"]
    assert not resolve_implementation(torch.optim.SGD, {}, [dense, sparse])["fused"]
    with pytest.raises(ConfigError, match="sparse gradients of w"):
        check_options(torch.optim.Adam, {}, kind=sparse)


ODD_OPTIMIZER = """\
class NoRate(torch.optim.Optimizer):
    def __init__(self, params, lr: float | None = None, kind=torch.float32, key=len, mark=object(), size=2,
                 options=1, name="x", label=2, match=None, groups=(), interval="step", until=1, format=1):
        assert (options, name, label, match, groups) == (1, "x", 2, None, ())
        super().__init__(params, {"rate": 0.05})
        self.first = True
    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["rate"] * p.grad

class Regrouped(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.05):
        flat = [p for one in params for p in (one["params"] if isinstance(one, dict) else [one])]
        super().__init__([{"params": [p]} for p in flat], lr)
"""


@pytest.mark.parametrize("name", ["NoRate", "Regrouped"])
def test_optimizers_without_a_rate_or_with_groups_of_their_own(name: str, tmp_path: Path) -> None:
    run = train(write(tmp_path, ODD_OPTIMIZER, optimizer=name), "log.plots=[svg]")
    assert {row["lr"] for row in rows(run / "steps.csv")} == {""}
    assert len({row["loss"] for row in rows(run / "steps.csv")}) > 1
    defaults = json.loads((run / "environment.json").read_text(encoding="utf-8"))["optimizer_defaults"]
    if name == "NoRate":
        kept = next(iter(defaults.values()))
        assert kept["size"] == 2
        assert not {"kind", "key", "mark"} & kept.keys()
    for arguments in (("compare", run), ("plot", run), ("runs", tmp_path), ("resume", run, "train.epochs=2")):
        done = optlab(*arguments)
        assert done.code == 0, done.err


def test_a_schedule_for_an_optimizer_without_a_rate_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ODD_OPTIMIZER, optimizer="NoRate")
    done = optlab("validate", path, "scheduler={name: StepLR, step_size: 1}")
    assert done.code == 2
    assert "no learning rate" in done.err


def test_keys_of_the_config_are_no_options_of_a_part(tmp_path: Path) -> None:
    write(tmp_path, ODD_OPTIMIZER, optimizer="NoRate")
    shown = {
        row["option"]
        for row in optlab("show", "optimizer", f"{tmp_path}/own.py:NoRate", "--json").json["options"]
    }
    assert {"lr", "size", "interval", "until", "format"} <= shown
    assert not {"options", "name", "label", "match", "groups"} & shown


PACKAGE = """\
from typing import Callable, Type, Union
from torch import nn

class Vision(nn.Module):
    def __init__(self, num_classes: int = 1000, act_layer: Union[str, Callable, Type[nn.Module], None] = None,
                 block: Type[nn.Module] = nn.Linear, norm=nn.LayerNorm):
        super().__init__()
        assert act_layer in ("gelu", nn.ReLU)
        self.block, self.norm = block(64, num_classes), norm(num_classes)
    def forward(self, images):
        return self.norm(self.block(images.flatten(1)))
"""


@pytest.mark.parametrize("act", ["gelu", "'torch.nn:ReLU'"])
def test_a_packages_model_whose_options_are_texts_or_classes(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "visionlib.py").write_text(PACKAGE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "visionlib", raising=False)
    path = write(tmp_path, "")
    train(path, f"model={{name: 'visionlib:Vision', act_layer: {act}}}")


# ---- augmentations


FLIP = """\
def flip(images):
    return images.flip(3)

def noisy(images, generator, strength: float = 0.1):
    return images + strength * torch.rand(images.shape, generator=generator)

def paired(inputs, targets):
    return inputs.flip(3), targets

def shrinks(images):
    return images[:, :, :4]

def builder(size: int = 3):
    return nn.Identity()
"""


@pytest.mark.parametrize("name", ["flip", "noisy", "paired"])
def test_a_function_of_images_is_an_augmentation(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, FLIP, augment=name)
    one, other = (train(path) / "steps.csv" for _ in range(2))
    assert [row["loss"] for row in rows(one)] == [row["loss"] for row in rows(other)]


def test_a_functions_own_options_and_its_generator(tmp_path: Path) -> None:
    path = write(tmp_path, FLIP, augment="noisy")

    def first(*overrides: str) -> torch.Tensor:
        return next(build_experiment(load_config(path, list(overrides))).batches.epoch(0)).inputs

    assert torch.equal(first(), first())
    assert not torch.equal(first(), first("seed.augmentation=1"))
    assert not torch.equal(
        first(), first("data.augment=[{name: '" + str(tmp_path / "own.py") + ":noisy', strength: 0.2}]")
    )


@pytest.mark.parametrize(
    ("name", "says"), [("shrinks", "images of the same shape"), ("builder", "`check`, `draw` and `apply`")]
)
def test_what_is_no_augmentation_is_told(name: str, says: str, tmp_path: Path) -> None:
    done = optlab("validate", write(tmp_path, FLIP, augment=name))
    assert done.code == 2
    assert says in done.err
    assert "own.yaml:2" in done.err


# ---- the machine


@pytest.mark.parametrize("threads", [257 + 4 * 1024, 1_000_000, 2**40])
def test_more_threads_than_a_machine_takes_are_refused(threads: int, tmp_path: Path) -> None:
    done = optlab("validate", write(tmp_path, ""), f"train.threads={threads}")
    assert done.code == 2
    assert f"train.threads: got {threads}" in done.err
    assert f"1 to {device.max_threads()}" in done.err


def test_a_worker_killed_by_any_signal_is_told() -> None:
    assert "SIGKILL" in _describe_exit(-signal.SIGKILL)
    assert f"signal {signal.SIGRTMIN + 3}" in _describe_exit(-(signal.SIGRTMIN + 3))
    assert "exit code 7" in _describe_exit(7)


@pytest.mark.parametrize("target", ["file/x", "file/x.png", "file/x.csv"])
def test_comparing_into_a_folder_below_a_file(target: str, tmp_path: Path) -> None:
    run = train(write(tmp_path, ""))
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = optlab("compare", run, "-o", tmp_path / target)
    assert done.code == 2
    assert "--output: cannot create the folder" in done.err


# ---- losses

LOSSES = """\
from torch.nn import functional

def any_names(a, b):
    return functional.cross_entropy(a, b)

def scaled(y_pred, y_true, scale: float = 1.0):
    return scale * functional.cross_entropy(y_pred, y_true)

def built(low: float, high: float):
    return lambda a, b: (high - low) * functional.cross_entropy(a, b)

class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(10))

    def forward(self, a, b):
        return functional.cross_entropy(a, b, self.weight)
"""


@pytest.mark.parametrize(
    "loss",
    [
        "own.py:any_names",
        "{name: 'own.py:scaled', scale: 1}",
        "{name: 'own.py:built', low: 2, high: 3}",
        "own.py:Weighted",
        "torch.nn:CrossEntropyLoss",
        "torch.nn.functional:cross_entropy",
        "{name: cross_entropy, class_weights: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}",
    ],
)
def test_a_loss_with_any_names(loss: str, tmp_path: Path) -> None:
    path = write(tmp_path, LOSSES)
    expected = [float(row["loss"]) for row in rows(train(path) / "steps.csv")]
    losses = [
        float(row["loss"])
        for row in rows(train(path, f"loss={loss.replace('own.py', str(tmp_path / 'own.py'))}") / "steps.csv")
    ]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_a_loss_of_torch_for_real_targets(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    data = "data={name: diabetes, batch_size: 32, val_size: 100, normalize: dataset}"
    run = train(path, data, "loss={name: 'torch.nn:PoissonNLLLoss', full: false}", "optimizer.lr=1e-3")
    assert len({row["loss"] for row in rows(run / "steps.csv")}) > 1


OF_CLASSES = ["CrossEntropyLoss", "MultiMarginLoss", "NLLLoss"]
OF_REAL_VALUES = ["HuberLoss", "L1Loss", "MSELoss", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss"]


@pytest.mark.parametrize("name", [*OF_CLASSES, *OF_REAL_VALUES, "GaussianNLLLoss"])
def test_losses_of_torch_by_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, "")
    regression = name not in OF_CLASSES
    data = ["data={name: diabetes, batch_size: 32, val_size: 100, normalize: dataset}"] if regression else []
    run = tmp_path / "run"
    overrides = (*data, f"loss=torch.nn:{name}", "optimizer.lr=1e-3", "--run-dir", run, "--quiet")
    done = optlab("train", path, *overrides)
    if name == "GaussianNLLLoss":  # it needs a variance as well
        assert done.code == 2
        assert "loss.name" in done.err
        return
    assert done.code == 0, done.err
    assert len({row["loss"] for row in rows(run / "steps.csv")}) > 1


def test_the_number_of_class_weights_is_checked(tmp_path: Path) -> None:
    done = optlab("validate", write(tmp_path, ""), "loss={name: cross_entropy, class_weights: [1, 2]}")
    assert done.code == 2
    assert "loss.class_weights: got 2 weights for 10 classes" in done.err


# ---- sizes of models

MODELS = """\
class Features(nn.Module):
    def __init__(self, in_features, n_classes, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, n_classes)
        )

    def forward(self, images):
        return self.layers(images)

class Channels(nn.Module):
    def __init__(self, in_chans: int = 3, n_classes: int = 1000, in_features: int = 16):
        super().__init__()
        self.convolution = nn.Conv2d(in_chans, in_features, 3)
        self.head = nn.Linear(in_features, n_classes)

    def forward(self, images):
        return self.head(self.convolution(images).mean((2, 3)))

def channels(**kwargs):
    return Channels(**kwargs)

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("{name: 'own.py:Features', width: 6}", [6, 64]),
        ("{name: 'own.py:Channels'}", [16, 1, 3, 3]),
        ("{name: 'own.py:Channels', in_features: 5}", [5, 1, 3, 3]),
        ("{name: 'own.py:channels', in_chans: 1, n_classes: 10}", [16, 1, 3, 3]),
        ("{name: 'own.py:fixed'}", [10, 64]),
    ],
)
def test_sizes_of_the_data_are_passed_by_name(model: str, shape: list[int], tmp_path: Path) -> None:
    path = write(tmp_path, MODELS)
    run = train(path, f"model={model.replace('own.py', str(tmp_path / 'own.py'))}")
    saved = load_config(run / "config.yaml")
    assert list(next(build_experiment(saved).model.parameters()).shape) == shape


ZOO = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, stages, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0):
        super().__init__()
        self.stem, self.drop = nn.Conv2d(in_chans, stages[0], 3), nn.Dropout(drop_rate)
        self.head = nn.Linear(stages[0], num_classes)
    def forward(self, images):
        return self.head(self.drop(self.stem(images).mean((2, 3))))

def net_small(pretrained: bool = False, **kwargs) -> "Net":
    return Net((4,), **kwargs)
"""


def test_a_model_of_a_package_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function takes `**kwargs`, and is in the module `models` of the package."""
    (tmp_path / "zoolib").mkdir()
    (tmp_path / "zoolib" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "zoolib" / "models.py").write_text(ZOO, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path, "")
    run = train(path, "model={name: 'zoolib:net_small', drop_rate: 0.5}")
    model = build_experiment(load_config(run / "config.yaml")).model
    assert [list(p.shape) for p in model.parameters()] == [[4, 1, 3, 3], [4], [10, 4], [10]]
    assert model.drop.p == 0.5
    shown = {row["option"] for row in optlab("show", "model", "zoolib:net_small", "--json").json["options"]}
    assert {"pretrained", "in_chans", "drop_rate"} == shown
    assert kind_of("zoolib:net_small") == "model"
    done = optlab("validate", path, "model=zoolib:net_smal")
    assert done.code == 2
    assert "did you mean net_small?" in done.err


@pytest.mark.parametrize(
    "model",
    [
        "timm:resnet18",
        "{name: 'timm:convnext_tiny', depths: [1, 1, 1, 1], dims: [8, 8, 16, 16], drop_path_rate: 0.1}",
    ],
)
def test_models_of_timm(model: str, tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    path = write(tmp_path, "")
    run = train(path, f"model={model}", "data.limit=32", "data.val_size=0", "data.resize=32")
    assert load_config(run / "config.yaml").config.model.options.get("num_classes") is None


def test_a_size_that_the_config_sets_is_used(tmp_path: Path) -> None:
    path = write(tmp_path, MODELS)
    done = optlab("validate", path, f"model={{name: '{tmp_path / 'own.py'}:Features', n_classes: 7}}")
    assert done.code == 2
    assert "logits [N, 10]" in done.err


# ---- models that return more than the prediction, losses that need more

MORE = """\
from collections import namedtuple
from torch.nn import functional

Returned = namedtuple("Returned", ["features", "logits"])

class Net(nn.Module):
    def __init__(self, returns: str = "tuple"):
        super().__init__()
        self.hidden, self.last, self.returns = nn.Linear(64, 8), nn.Linear(8, 10), returns

    def forward(self, images):
        features = self.hidden(images.flatten(1)).relu()
        logits = self.last(features)
        return {
            "tensor": logits,
            "tuple": (features, logits),
            "named": Returned(features, logits),
            "dict": {"features": features, "logits": logits},
            "output": {"output": logits, "features": features},
            "nothing": {"output": None},
        }[self.returns]

def plain(a, b):
    return functional.cross_entropy(a, b)

def with_model(a, b, model, strength: float = 0.1):
    return functional.cross_entropy(a, b) + strength / 2 * sum(
        p.square().sum() for p in model.parameters() if p.ndim > 1
    )

def with_all(a, b, *, inputs, outputs, model):
    features, logits = outputs
    assert logits is a and len(inputs) == len(b)
    return functional.cross_entropy(model(inputs)[1], b)

class Module(nn.Module):
    def forward(self, a, b, outputs):
        return functional.cross_entropy(outputs["logits"], b)

def built(scale: float = 1.0):
    return lambda a, b, outputs: scale * functional.cross_entropy(outputs[1], b)
"""


def more(folder: Path, returns: str, loss: str, output: str | None = None, engine: str = "eager") -> Path:
    """Train with a model that returns more than the prediction."""
    own = write(folder, MORE).with_name("own.py")
    model = f"model={{name: '{own}:Net', returns: {returns}, output: {output or 'null'}}}"
    loss = f"loss={loss.replace('own.py', str(own))}"
    run = train(own.with_name("own.yaml"), model, loss, f"train.engine={engine}")
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["engine"] == engine
    return run


def losses_of(run: Path) -> list[str]:
    return [row["loss"] for row in rows(run / "steps.csv")]


@pytest.mark.parametrize(
    ("returns", "loss", "output"),
    [
        ("tuple", "own.py:plain", "1"),
        ("named", "own.py:plain", "logits"),
        ("named", "cross_entropy", "1"),
        ("dict", "own.py:plain", "logits"),
        ("output", "cross_entropy", None),
        ("tuple", "own.py:with_all", "1"),
        ("dict", "own.py:Module", "logits"),
        ("tuple", "{name: 'own.py:built', scale: 1}", "1"),
    ],
)
def test_a_model_that_returns_more_trains_as_one_that_returns_the_prediction(
    returns: str, loss: str, output: str | None, tmp_path: Path
) -> None:
    plain = losses_of(more(tmp_path, "tensor", "cross_entropy"))
    assert losses_of(more(tmp_path, returns, loss, output)) == plain


COMPILED = pytest.param(
    "compiled",
    marks=[pytest.mark.nightly, pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")],
)


@pytest.mark.parametrize("engine", ["eager", COMPILED])
def test_a_loss_that_uses_the_model_has_its_gradient(engine: str, tmp_path: Path) -> None:
    def weights(run: Path) -> dict[str, torch.Tensor]:
        state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
        model: dict[str, torch.Tensor] = state["experiment"]["model"]
        return model

    expected = weights(more(tmp_path, "tensor", "{name: cross_entropy, l2: 0.1}"))
    for name, value in weights(more(tmp_path, "tensor", "own.py:with_model", engine=engine)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("returns", "output", "says"),
    [
        ("tuple", None, "returns a tuple of 2 entries"),
        ("named", None, "with the fields features, logits"),
        ("dict", "logit", "with the keys features, logits"),
        ("tuple", "2", "returns a tuple of 2 entries"),
        ("nothing", None, "with the keys output"),
        ("tensor", "0", "leave out `output`"),
        ("tuple", "0", "shape [N, 8]"),
    ],
)
def test_a_prediction_that_is_not_there_is_reported(
    returns: str, output: str | None, says: str, tmp_path: Path
) -> None:
    own = write(tmp_path, MORE).with_name("own.py")
    model = f"{{name: '{own}:Net', returns: {returns}, output: {output or 'null'}}}"
    done = optlab("validate", own.with_name("own.yaml"), f"model={model}")
    assert done.code == 2
    assert says in done.err


def test_what_a_loss_gets_is_no_option(tmp_path: Path) -> None:
    write(tmp_path, MORE)
    shown = optlab("show", "loss", f"{tmp_path}/own.py:with_model", "--json").json["options"]
    assert [row["option"] for row in shown] == ["strength"]
