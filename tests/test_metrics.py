"""Metrics agree with scikit-learn and with their formulas, over one batch and over many."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as reference
from torch import Tensor
from torch.nn import functional

from trainer.errors import ConfigError
from trainer.metrics import (
    BUILT_IN,
    LOSS,
    Metric,
    described,
    find,
    leading,
    metric_name,
    of_function,
)
from trainer.training.evaluation import RunningMean

N, K = 200, 7
CLASSIFYING = [name for name, metric in BUILT_IN.items() if metric.counts]
LIKELIHOODS = ["perplexity", "bits_per_char"]
REGRESSING = ["mse", "rmse", "mae", "r2"]


def classes(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(N, K, generator=draw), torch.randint(K, (N,), generator=draw)


def values(outputs: int = 1, seed: int = 0, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    targets = offset + torch.randn(N, outputs, generator=draw)
    return targets + 0.5 * torch.randn(N, outputs, generator=draw), targets


def in_batches(metric: Metric, outputs: Tensor, targets: Tensor, size: int) -> float:
    running = RunningMean([metric])
    for part in zip(outputs.split(size), targets.split(size), strict=True):
        running.add(torch.tensor(0.0), [part[1]], [part[0]])
    value = running.values()[f"train_{metric.name}"]
    assert value is not None
    return value


def expected(name: str, outputs: Tensor, targets: Tensor) -> float:
    y, out = targets.double().numpy(), outputs.double().numpy()
    match name:
        case "accuracy":
            return float(reference.accuracy_score(y, out.argmax(1)))
        case "error_rate":
            return float(reference.zero_one_loss(y, out.argmax(1)))
        case "top5_accuracy":
            return float(reference.top_k_accuracy_score(y, out, k=5, labels=range(K)))
        case "mse":
            return float(reference.mean_squared_error(y, out))
        case "rmse":
            return math.sqrt(reference.mean_squared_error(y, out))
        case "mae":
            return float(reference.mean_absolute_error(y, out))
        case "r2":
            return float(reference.r2_score(y, out))
        case "perplexity" | "bits_per_char":
            nats = float(reference.log_loss(y, special.softmax(out, axis=1), labels=range(K)))
            return math.exp(nats) if name == "perplexity" else nats / math.log(2)
    raise AssertionError(name)


def test_every_metric_is_compared_with_scikit_learn() -> None:
    assert {*CLASSIFYING, *LIKELIHOODS, *REGRESSING, "suboptimality", "loss"} == set(BUILT_IN)


@pytest.mark.parametrize("name", CLASSIFYING)
def test_classification_agrees_with_scikit_learn(name: str) -> None:
    outputs, targets = classes()
    wanted = expected(name, outputs, targets)
    assert BUILT_IN[name](outputs, targets) == pytest.approx(wanted, abs=1e-12)
    assert in_batches(BUILT_IN[name], outputs, targets, 3) == BUILT_IN[name](outputs, targets)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_agree_with_scikit_learn(name: str) -> None:
    outputs, targets = classes()
    wanted = pytest.approx(expected(name, outputs, targets), rel=1e-5)
    assert BUILT_IN[name](outputs, targets) == wanted
    assert BUILT_IN[name](outputs, functional.one_hot(targets, K).float()) == wanted
    assert in_batches(BUILT_IN[name], outputs, targets, 3) == wanted


@pytest.mark.parametrize("name", REGRESSING)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 3.0, 2000.0])
def test_regression_agrees_with_scikit_learn(name: str, outputs: int, offset: float) -> None:
    predicted, targets = values(outputs, offset=offset)
    wanted = pytest.approx(expected(name, predicted, targets), rel=1e-8)
    assert BUILT_IN[name](predicted, targets) == wanted
    assert in_batches(BUILT_IN[name], predicted, targets, 11) == wanted  # the last batch is smaller
    if outputs == 1:
        assert BUILT_IN[name](predicted, targets.squeeze(1)) == wanted


def test_root_mean_squared_error_of_one_output_agrees_with_scikit_learn() -> None:
    predicted, targets = values()
    wanted = reference.root_mean_squared_error(targets.double().numpy(), predicted.double().numpy())
    assert BUILT_IN["rmse"](predicted, targets) == pytest.approx(wanted)


@pytest.mark.parametrize("exact", [True, False])
def test_r2_of_equal_targets_is_that_of_scikit_learn(exact: bool) -> None:
    targets = torch.full((50, 1), 0.1)
    predicted = targets.clone() if exact else targets + 1
    wanted = reference.r2_score(targets.numpy(), predicted.numpy())
    assert in_batches(BUILT_IN["r2"], predicted, targets, 7) == wanted == float(exact)


def test_classes_become_one_hot_rows_for_errors() -> None:
    outputs, targets = classes()
    rows = functional.one_hot(targets, K)
    assert BUILT_IN["mse"](outputs, targets) == pytest.approx(
        float((outputs.double() - rows).square().mean())
    )
    assert BUILT_IN["mae"](outputs, targets) == pytest.approx(float((outputs.double() - rows).abs().mean()))


def test_the_class_of_probability_targets_is_the_most_probable_one() -> None:
    outputs, targets = classes()
    rows = 0.6 * functional.one_hot(targets, K) + 0.4 / K
    for name in CLASSIFYING:
        assert BUILT_IN[name](outputs, rows) == BUILT_IN[name](outputs, targets)


def test_accuracy_counts_the_largest_output() -> None:
    outputs = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 5.0, 1.0]])
    assert BUILT_IN["accuracy"](outputs, torch.tensor([0, 0, 1, 0])) == 0.25
    assert BUILT_IN["accuracy"](outputs, torch.tensor([1, 0, 2, 1])) == 1.0


def test_a_metric_of_sufficient_statistics_is_exact_over_a_split() -> None:
    """Perplexity, exp of the mean loss, is not the mean of the perplexities of batches."""
    perplexity = Metric(
        "perplexity",
        "min",
        sums=lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="sum").double(),
        value=lambda sums, samples: math.exp(sums.item() / samples),
    )
    outputs, targets = classes()
    wanted = math.exp(reference.log_loss(targets.numpy(), outputs.double().softmax(1).numpy()))
    assert in_batches(perplexity, outputs, targets, 9) == pytest.approx(wanted, rel=1e-6)


def test_a_function_returns_values_per_sample_or_their_mean() -> None:
    outputs, targets = classes()

    def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets

    def batch_mean(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).double().mean())

    wanted = pytest.approx(BUILT_IN["accuracy"](outputs, targets))
    for function in (per_sample, batch_mean):
        assert in_batches(of_function("own", "max", function), outputs, targets, 7) == wanted


def test_a_function_is_called_once_per_batch() -> None:
    sizes: list[int] = []

    def counted(outputs: Tensor, targets: Tensor) -> float:
        sizes.append(len(targets))
        return float(len(targets))

    outputs, targets = classes()
    assert in_batches(of_function("own", "max", counted), outputs, targets, 64) == (3 * 64**2 + 8**2) / N
    assert sizes == [64, 64, 64, 8]


@pytest.mark.parametrize("returned", [[1.0], torch.zeros(3), torch.zeros(4, 1), torch.zeros(4) + 1j, "text"])
def test_other_returned_values_are_refused(returned: object) -> None:
    metric = of_function("own", "max", lambda outputs, targets: returned)
    with pytest.raises(ConfigError, match="own returned a"):
        metric(torch.zeros(4, 2), torch.zeros(4))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=70), st.integers(0, 70))
def test_running_values_do_not_depend_on_when_the_state_is_saved(sizes: list[int], saved: int) -> None:
    draw = torch.Generator().manual_seed(0)
    found = [BUILT_IN[name] for name in ("accuracy", "mse", "r2")]
    steps = [(torch.rand(n, 3, generator=draw), torch.randint(3, (n,), generator=draw)) for n in sizes]
    whole, resumed = RunningMean(found), RunningMean(found)
    for place, (outputs, targets) in enumerate(steps):
        for running in (whole, resumed):
            running.add(outputs.mean(), [targets], [outputs])
        if place == saved:
            state = resumed.state_dict()
            resumed = RunningMean(found)
            resumed.load_state_dict(state)
    assert whole.values() == resumed.values()


def test_a_state_of_an_earlier_release_is_loaded() -> None:
    running = RunningMean([BUILT_IN["accuracy"]])
    running.load_state_dict({"losses": torch.tensor([0.5]), "samples": torch.tensor([4]), "right": 3})
    assert running.values() == {"train_loss": 0.5, "train_accuracy": 0.75}


def test_without_steps_nothing_is_known() -> None:
    assert RunningMean([BUILT_IN["r2"]]).values() == {"train_loss": None, "train_r2": None}


# Names and texts


@pytest.mark.parametrize(
    "column",
    ["accuracy", "val_accuracy", "train_eval_accuracy", "final_train_accuracy", "best_val_accuracy"],
)
def test_columns_name_their_metric(column: str) -> None:
    assert metric_name(column) == "accuracy"
    assert find(column) is BUILT_IN["accuracy"]


def test_unknown_metrics_are_lower_is_better() -> None:
    own = Metric("f1", "max")
    assert find("val_f1", [own]) is own
    assert find("val_f1").mode == "min"
    assert find("val_1 2\n").mode == "min"


def test_runs_are_compared_by_accuracy_if_it_was_measured() -> None:
    assert leading(["mse", "accuracy"]) == "accuracy"
    assert leading(["mse"]) == leading([]) == "loss"


def test_a_description_has_everything_but_the_functions() -> None:
    for metric in (*BUILT_IN.values(), Metric("own", "max", label="my own", unit="m", format=".1f")):
        read = described(metric.description())
        assert read.description() == metric.description()
        assert (read.scale, read.log, read.heading("test")) == (
            metric.scale, metric.log, metric.heading("test"),
        )  # fmt: skip


def test_values_are_shown_in_the_unit_of_the_metric() -> None:
    accuracy = BUILT_IN["accuracy"]
    assert (format(0.12345, accuracy.spec), LOSS.spec) == ("12.35%", "")
    assert accuracy.with_unit("accuracy") == "accuracy (%)"
    assert (accuracy.heading("test"), LOSS.heading("test")) == ("test acc %", "test loss")
    assert (accuracy.scale, accuracy.log, LOSS.scale, LOSS.log) == (100, False, 1, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a-b"},
        {"name": "eval_x"},
        {"name": ""},
        {"name": "x" * 61},
        {"mode": "up"},
        {"format": "9999999999f"},
        {"label": "$x$"},
        {"unit": "a\nb"},
    ],
)
def test_metrics_that_cannot_be_shown_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        described({"name": "own", "mode": "max"} | wrong)
