"""The contract of every component in a complete run: it trains, is deterministic and uses its options.

Tests of the single packages compare each component with torch and the papers. These tests cover config,
building and training loop, for every name and option in `optlab list` and `optlab show`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import yaml
from sampling import one_in

from trainer.catalog import REGISTRIES, load_config, option_model
from trainer.data.dataset import split_dataset
from trainer.data.digits import digits
from trainer.data.noise import quadratic
from trainer.data.text import text_dataset
from trainer.optimizers.rules import REFUSED
from trainer.records import EvalRecord, StepRecord
from trainer.training.building import build_experiment
from trainer.training.loaded_data import LoadedData
from trainer.training.loop import train

BASE: Mapping[str, Any] = {
    "name": "contract",
    "data": {"name": "digits", "batch_size": 16, "limit": 64, "val_size": 40, "normalize": "dataset"},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.9},
    "train": {"epochs": 2, "threads": 1, "device": "cpu"},
    "log": {"every": 1},
}
STEPS = 8
FACTORS = "def falling(step):\n    return 0.9**step\n\n\ndef rising(step):\n    return 1.1**step\n"

# ---- the components, with what each needs beside its name

ONLY_MATRICES = {"match": {"ndim": 2}}
OTHER_OPTIMIZER = {"name": "SGD", "label": "rest", "lr": 0.05}
# The options without which a component cannot be, or does nothing.
REQUIRED: Mapping[str, Mapping[str, Any]] = {
    "constant_": {"val": 0.1},
    "sparse_": {"sparsity": 0.5},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "step_size_up": 3},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": "own.py:falling"},
    "MultiplicativeLR": {"lr_lambda": "own.py:falling"},
    "MultiStepLR": {"milestones": [2, 5]},
    "StepLR": {"step_size": 3},
    "inverse_time": {"decay": 0.1},
    "piecewise": {"table": {0: 0.1, 4: 0.01}},
    "ReduceLROnPlateau": {"patience": 0},
    "resnet18": {"width": 8},  # of 64, to be quick
    "color_jitter": {"brightness": 0.2},
    "transformer": {"layers": 1, "heads": 2, "width": 8},
    **{name: {"hidden": 8, "embedding": 8} for name in ("rnn", "gru", "lstm")},
}
NOISE = {"name": "quadratic", "dim": 4, "samples": 64, "batch_size": 16}
BIGGER = {"lenet5": 16, "3c3d": 12}  # they do not take 8 x 8 pixels
RECONSTRUCTING = ("autoencoder", "conv_autoencoder", "vae", "conv_vae", "elbo")
OF_TOKENS = ("transformer", "rnn", "gru", "lstm")
VERSES = "Shall I compare thee to a summer's day?\n" * 20
CONVOLUTIONS = {"dirac_": "cnn"}  # an init function that only convolutions take


def names(kind: str) -> list[str]:
    found = [name for name in REGISTRIES[kind] if not name.startswith("torchvision.")]
    return [name for name in found if name not in REFUSED]


KINDS = ("augmentation", "model", "init", "loss", "optimizer", "scheduler")
ALL = [(kind, name) for kind in KINDS for name in names(kind)]


def config(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment with this component."""
    text: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(BASE)))  # a deep copy
    if name in RECONSTRUCTING:
        text["task"], text["model"] = "reconstruction", "vae"
        text["data"]["normalize"] = None
    component = {"name": name, **REQUIRED.get(name, {}), **options}
    if kind == "augmentation":
        text["data"]["augment"] = [component]
    elif kind == "init":
        layers = [{"match": {"min_ndim": 4}, "weight": component}]
        text["init"] = {"layers": layers} if name in CONVOLUTIONS else {"weight": component}
        text["model"] = {"name": CONVOLUTIONS.get(name, "mlp")}
    elif kind == "optimizer" and name == "Muon":
        text["optimizer"] = [component | ONLY_MATRICES, OTHER_OPTIMIZER]
    elif kind == "scheduler":
        text["scheduler"] = component if name == "ReduceLROnPlateau" else component | {"interval": "step"}
        text["train"]["eval_every"] = {"steps": 1}
    else:
        text[kind] = component
    if name in OF_TOKENS:
        text["data"] = {"name": "text", "path": "verses.txt", "context": 6, "batch_size": 16, "limit": 64}
    if (kind, name) == ("model", "quadratic"):
        text["data"] = NOISE
    if name in BIGGER:
        text["data"]["resize"] = BIGGER[name]
    return text


# ---- a run


@dataclass(frozen=True)
class Trained:
    """The result of a run: every record, and the final weights."""

    steps: tuple[StepRecord, ...]
    evaluations: tuple[EvalRecord, ...]
    weights: tuple[torch.Tensor, ...]

    def numbers(self) -> tuple[Any, ...]:
        """Return every number but the seconds."""
        measured = [(r.step, r.samples, r.grad_evals, *r.values.values()) for r in self.steps]
        measured += [(r.step, r.samples, r.grad_evals, *r.values.values()) for r in self.evaluations]
        return tuple(measured), tuple(weight.numpy().tobytes() for weight in self.weights)


@pytest.fixture(scope="module")
def loaded_data() -> LoadedData:
    dataset = digits()
    return LoadedData(dataset, split_dataset(dataset, val_size=40, limit=64))


@pytest.fixture(scope="module")
def loaded_text() -> LoadedData:
    dataset = text_dataset(
        VERSES.encode(), where="verses", context=6, unit="characters", parts=(0.8, 0.1, 0.1)
    )
    return LoadedData(dataset, split_dataset(dataset, limit=64))


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, loaded_data: LoadedData, loaded_text: LoadedData
) -> Iterator[Any]:
    """Train a component with options; results are cached, unless `again`."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "own.py").write_text(FACTORS)
    path = folder / "config.yaml"
    objective = quadratic(dim=4, samples=64)
    noise = LoadedData(objective, split_dataset(objective))
    kept: dict[str, Trained] = {}
    threads = torch.get_num_threads()

    def trained(kind: str, name: str, options: Mapping[str, Any] = {}, *, again: bool = False) -> Trained:
        text = yaml.safe_dump(config(kind, name, options))
        if again or text not in kept:
            path.write_text(text)
            data = loaded_text if name in OF_TOKENS else noise if name == "quadratic" else loaded_data
            experiment = build_experiment(load_config(path), loaded_data=data)
            records = list(train(experiment))
            kept[text] = Trained(
                tuple(record for record in records if isinstance(record, StepRecord)),
                tuple(record for record in records if isinstance(record, EvalRecord)),
                tuple(parameter.detach().clone() for parameter in experiment.model.parameters()),
            )
        return kept[text]

    yield trained
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_it_trains_and_repeats_itself(kind: str, name: str, run: Any) -> None:
    found = run(kind, name)
    assert [record.step for record in found.steps] == list(range(1, STEPS + 1))
    assert [record.samples for record in found.steps] == [16 * step for step in range(1, STEPS + 1)]
    assert (found.evaluations[0].step, found.evaluations[-1].step) == (0, STEPS)
    for record in found.steps:
        assert all(value is not None and math.isfinite(value) for value in record.values.values())
    for record in found.evaluations:
        assert 0 <= record.values.get("val_accuracy", 1) <= 1
    seconds = [record.train_seconds for record in found.steps]
    assert seconds == sorted(seconds)
    assert run(kind, name, again=True).numbers() == found.numbers()


# ---- options

# Another value for every option, by (component, option), else by option; then what else must be set.
OTHER: Mapping[str, Any] = {
    # optimizers
    "adjust_lr_fn": "match_rms_adamw",
    "amsgrad": True,
    "beta2_decay": -0.3,
    "betas": [0.5, 0.9],
    "centered": True,
    "d": 5.0,
    "dampening": 0.3,
    "decoupled_weight_decay": True,
    "eps": 1e-2,
    "eps_inside_root": True,
    "etas": [0.3, 1.5],
    "history_size": 1,
    "initial_accumulator_value": 0.5,
    "lambd": 0.5,
    "line_search_fn": "strong_wolfe",
    "lr": 0.007,
    "lr_decay": 0.5,
    "max_eval": 2,
    "max_iter": 3,
    "maximize": True,
    "momentum": 0.5,
    "momentum_decay": 0.5,
    "nesterov": True,
    "ns_coefficients": [3.0, -4.0, 2.0],
    "ns_steps": 2,
    "rho": 0.5,
    "step_sizes": [1e-3, 0.02],
    "textbook": True,
    "tolerance_change": 0.5,
    "tolerance_grad": 0.5,
    "weight_decay": 0.3,
    "alpha": 0.5,
    # schedules
    "base_momentum": 0.5,
    "max_momentum": 0.6,
    "cycle_momentum": False,
    "total_iters": 3,
    "factor": 0.5,
    "T_max": 20,
    "eta_min": 0.01,
    "T_0": 4,
    "T_mult": 2,
    "base_lr": 0.02,
    "max_lr": 0.2,
    "step_size_up": 2,
    "step_size_down": 2,
    "mode": "triangular2",
    "gamma": 0.5,
    "start_factor": 0.1,
    "end_factor": 0.5,
    "milestones": [3],
    "lr_lambda": "own.py:rising",
    "total_steps": 20,
    "pct_start": 0.6,
    "anneal_strategy": "linear",
    "div_factor": 5.0,
    "final_div_factor": 10.0,
    "three_phase": True,
    "power": 2.0,
    "patience": 3,
    "threshold": 0.9,
    "threshold_mode": "abs",
    "cooldown": 2,
    "min_lr": 0.04,
    "step_size": 2,
    "decay": 0.5,
    "table": {0: 0.1, 2: 0.01},
    # augmentations
    "padding": 1,
    "p": 0.9,
    "degrees": 40.0,
    "interpolation": "nearest",
    "translate": [0.4, 0.0],
    "scale": [0.5, 0.6],
    "shear": 30.0,
    "brightness": 0.9,
    "contrast": 0.9,
    "size": 3,
    "fill": 0.7,
    # models
    "hidden": [5],
    "activation": "gelu",
    "dropout": 0.4,
    "batch_norm": True,
    "channels": [4, 4],
    "pool": "max",
    "width": 8,
    "norm": "none",
    "stem": "7x7",
    "bias": False,
    "layers": 2,
    "embedding": 5,
    "tied": False,
    "eigenvalues": [1.0, 2.0, 3.0, 4.0],
    "rotate": False,
    "start": 2.0,
    "problem_seed": 1,
    # init
    "a": 0.3,
    "b": 0.5,
    "mean": 0.2,
    "std": 0.3,
    "val": 0.3,
    "gain": 0.3,
    "nonlinearity": "tanh",
    "sparsity": 0.2,
    "latent": 3,
    "output_activation": "sigmoid",
    "likelihood": "gaussian",
    # losses
    "label_smoothing": 0.3,
    "beta": 0.3,
    "delta": 0.1,
    "reduction": "sum_outputs",
    "margin": 0.3,
}
OTHER_OF: Mapping[tuple[str, str], Any] = {
    ("Adafactor", "eps"): [1e-2, 1e-1],
    ("Muon", "nesterov"): False,
    ("Muon", "eps"): 1.0,
    ("ASGD", "alpha"): 0.1,
    ("ReduceLROnPlateau", "mode"): "max",
    ("kaiming_uniform_", "mode"): "fan_out",
    ("kaiming_normal_", "mode"): "fan_out",
    ("multi_margin", "p"): 2,
    ("cross_entropy", "class_weights"): [2.0] + [1.0] * 9,
    ("cnn", "hidden"): 5,
    **{(name, "hidden"): 5 for name in ("rnn", "gru", "lstm")},
    ("rnn", "activation"): "relu",
    ("transformer", "heads"): 1,
    ("transformer", "width"): 16,
    ("transformer", "bias"): True,
    ("resnet18", "width"): 4,
    ("resnet18", "shortcut"): "pad",
    **{(name, "shortcut"): "projection" for name in ("resnet8", "resnet14", "resnet20")},
    ("trunc_normal_", "a"): -0.1,
    ("trunc_normal_", "b"): 0.1,
    ("cutout", "size"): 2,
    ("mixup", "alpha"): 2.0,
    ("lenet5", "padding"): 0,
    ("dirac_", "groups"): 2,
    ("ReduceLROnPlateau", "eps"): 1.0,
}
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "dampening": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "decoupled_weight_decay": {"weight_decay": 0.3},
    "textbook": {"lr": 0.3},
    "fill": {"size": 3},
    "threshold_mode": {"threshold": 1.0},
    **{option: {"threshold": 0.9} for option in ("cooldown", "min_lr", "factor", "patience", "eps")},
}
SAME_NUMBERS: Mapping[tuple[str, str], str] = {
    ("ASGD", "t0"): "when averaging starts; the average lies in the state, the weights walk on",
    ("OneCycleLR", "epochs"): "with steps_per_epoch it says total_steps in two parts",
    ("OneCycleLR", "steps_per_epoch"): "with epochs it says total_steps in two parts",
    ("CyclicLR", "scale_fn"): "an import path; tried below",
    ("CyclicLR", "scale_mode"): "what scale_fn is given; tried below with it",
    ("CyclicLR", "gamma"): "of mode exp_range only; tried below with it",
    ("color_jitter", "saturation"): "grey images have none (tests/data tries it on colour)",
    ("color_jitter", "hue"): "grey images have none (tests/data tries it on colour)",
    ("elbo", "std"): "of a normal likelihood only (tests/models/test_models_autoencoders.py)",
    ("ASGD", "alpha"): "the power of the averaging's start, felt after t0 steps",
}
IMPLEMENTATION = {
    "foreach": "another implementation of the same rule, chosen per device (tests/test_golden.py)",
    "fused": "another implementation of the same rule, chosen per device (tests/test_golden.py)",
    "capturable": "for CUDA graphs; refused on the CPU",
    "differentiable": "refused: it updates leaves in place",
}
OPTIONS = [(kind, name, option) for kind, name in ALL for option in option_model(kind, name).model_fields]


def changed(name: str, option: str, known: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return further settings, and the alternative value."""
    needed = {key: value for key, value in NEEDED.get(option, {}).items() if key in known}
    return needed, OTHER_OF[name, option] if (name, option) in OTHER_OF else OTHER[option]


@pytest.mark.parametrize(
    ("kind", "name", "option"),
    one_in(
        4,
        (
            (kind, name, option)
            for kind, name, option in OPTIONS
            if option not in IMPLEMENTATION and (name, option) not in SAME_NUMBERS
        ),
    ),
)
def test_every_option_changes_the_run(kind: str, name: str, option: str, run: Any) -> None:
    needed, value = changed(name, option, option_model(kind, name).model_fields)
    default, other = run(kind, name, needed), run(kind, name, {**needed, option: value})
    same = default.numbers() == other.numbers()  # apart, so that pytest does not print all the numbers
    assert not same


def test_the_exceptions_are_options_that_there_are() -> None:
    there = {(name, option) for _, name, option in OPTIONS}
    assert set(SAME_NUMBERS) <= there
    assert set(OTHER_OF) <= there
    assert set(IMPLEMENTATION) <= {option for _, option in there}


def test_every_option_has_an_alternative_value() -> None:
    tried = {pair for pair in ((name, option) for _, name, option in OPTIONS) if pair not in SAME_NUMBERS}
    without = {(name, option) for name, option in tried - set(OTHER_OF) if option not in OTHER}
    assert {option for _, option in without} <= set(IMPLEMENTATION)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"mode": "exp_range", "gamma": 0.9}, {"mode": "exp_range", "gamma": 0.5}),
        ({}, {"scale_fn": "own.py:falling"}),
        (
            {"scale_fn": "own.py:falling", "scale_mode": "cycle"},
            {"scale_fn": "own.py:falling", "scale_mode": "iterations"},
        ),
    ],
)
def test_options_of_the_cyclic_schedule_that_go_together(first: Any, second: Any, run: Any) -> None:
    assert run("scheduler", "CyclicLR", first).numbers() != run("scheduler", "CyclicLR", second).numbers()


def test_the_length_of_one_cycle_in_two_parts(run: Any) -> None:
    parts = run("scheduler", "OneCycleLR", {"epochs": 4, "steps_per_epoch": 5})
    assert parts.numbers() == run("scheduler", "OneCycleLR", {"total_steps": 20}).numbers()
    assert parts.numbers() != run("scheduler", "OneCycleLR").numbers()
