"""The eager engine is bit-identical to hand-written loops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.device import autocast
from trainer.losses import penalty
from trainer.training.engines.eager import EagerEngine
from trainer.training.forward import ForwardPass

Batch = tuple[Tensor, Tensor]


def make_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def make_batches(count: int, size: int = 8) -> list[Batch]:
    source = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=source), torch.randint(3, (size,), generator=source))
        for _ in range(count)
    ]


def engine_for(model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> EagerEngine:
    defaults: dict[str, Any] = {"autocast": nullcontext()}
    forward = ForwardPass(functional.cross_entropy)
    return EagerEngine(model, forward, [optimizer], **(defaults | options))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("clip", [None, "norm", "value"])
@pytest.mark.parametrize("zero_grad", [True, False])
def test_steps_equal_a_hand_written_loop(clip: str | None, zero_grad: bool) -> None:
    ours, theirs = make_model(), make_model()
    options = {
        "clip_grad_norm": 0.1 if clip == "norm" else None,
        "clip_grad_value": 0.01 if clip == "value" else None,
    }
    engine = engine_for(
        ours, torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9), zero_grad=zero_grad, **options
    )
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for inputs, targets in make_batches(10):
        output = engine.step([(inputs, targets)])
        loss = functional.cross_entropy(theirs(inputs), targets)
        if zero_grad:
            optimizer.zero_grad()
        loss.backward()
        if clip == "norm":
            nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        if clip == "value":
            nn.utils.clip_grad_value_(theirs.parameters(), 0.01)
        optimizer.step()
        assert output.loss.item() == loss.item()
    assert same_weights(ours, theirs)


@pytest.mark.parametrize("by_instance", [False, True])
def test_an_optimizers_own_zero_grad_is_kept(by_instance: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clears the gradients at every second call only, so that they accumulate in between."""

    class Hesitating(torch.optim.SGD):
        calls = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.calls += 1
            if self.calls % 2:
                super().zero_grad(set_to_none)

    ours, theirs = make_model(), make_model()
    optimizer = Hesitating(theirs.parameters(), lr=0.1)
    if by_instance:
        own = torch.optim.SGD(ours.parameters(), lr=0.1)
        twin = Hesitating(ours.parameters(), lr=0.1)
        monkeypatch.setattr(own, "zero_grad", twin.zero_grad)
        engine = engine_for(ours, own)
    else:
        engine = engine_for(ours, Hesitating(ours.parameters(), lr=0.1))
    for inputs, targets in make_batches(5):
        engine.step([(inputs, targets)])
        optimizer.zero_grad()
        functional.cross_entropy(theirs(inputs), targets).backward()
        optimizer.step()
    assert same_weights(ours, theirs)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 3)])
def test_accumulated_batches_are_one_large_batch(sizes: tuple[int, int]) -> None:
    ours, theirs = make_model(), make_model()
    (first,), (second,) = make_batches(1, sizes[0]), make_batches(1, sizes[1])
    output = engine_for(ours, torch.optim.SGD(ours.parameters(), lr=0.5)).step([first, second])
    whole = (torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]))
    expected = engine_for(theirs, torch.optim.SGD(theirs.parameters(), lr=0.5)).step([whole])
    assert output.grad_evals == 2
    assert [len(outputs) for outputs in output.outputs] == list(sizes)
    torch.testing.assert_close(output.loss, expected.loss)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradient_norms_are_measured_before_clipping() -> None:
    model = make_model()
    (batch,) = make_batches(1)
    engine = engine_for(model, torch.optim.SGD(model.parameters(), lr=0.0), clip_grad_norm=1e-3)
    norms = engine.step([batch], measure=True).grad_norms
    twin = make_model()
    functional.cross_entropy(twin(batch[0]), batch[1]).backward()
    expected = torch.stack([p.grad.norm() for p in twin.parameters() if p.grad is not None])
    assert norms is not None
    torch.testing.assert_close(norms, expected)
    clipped = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(clipped, torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_a_penalty_is_added_to_the_objective_and_not_to_the_loss() -> None:
    ours, theirs = make_model(), make_model()
    (batch,) = make_batches(1)
    weights = [p for p in ours.parameters() if p.ndim > 1]
    output = engine_for(
        ours, torch.optim.SGD(ours.parameters(), lr=0.1), penalty=lambda: penalty(weights, l2=0.5)
    ).step([batch])
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    rest = [p for p in theirs.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 0.5}, {"params": rest}], lr=0.1)
    loss = functional.cross_entropy(theirs(batch[0]), batch[1])
    expected = 0.25 * sum(float(p.detach().square().sum()) for p in decayed)
    loss.backward()
    optimizer.step()
    assert output.loss.item() == loss.item()
    assert output.penalty is not None
    assert output.penalty.item() == pytest.approx(expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_lbfgs_sees_one_batch_and_one_dropout_mask_in_all_its_evaluations() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    model = make_model(dropout=0.5)
    model[2].register_forward_hook(
        lambda _module, inputs, output: seen.append(((output == 0) & (inputs[0] != 0), output))
    )
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    engine = engine_for(model, optimizer, step_mode="closure")
    (first, second) = make_batches(2, size=64)
    output = engine.step([first])
    assert output.grad_evals == len(seen) > 2
    # The mask of a unit that is 0 before dropout cannot be seen; those seen in both evaluations agree.
    torch.manual_seed(5)
    evaluations = len(seen)
    engine.step([second])
    alive = [values != 0 for _, values in seen[evaluations:]]
    dropped = [mask for mask, _ in seen[evaluations:]]
    assert len(alive) > 2
    for other_alive, other_dropped in zip(alive[1:], dropped[1:], strict=True):
        assert not (alive[0] & other_dropped).any()
        assert not (dropped[0] & other_alive).any()


def test_lbfgs_equals_torch_used_by_hand_and_clips_inside_its_closure() -> None:
    ours, theirs = make_model(), make_model()
    (batch,) = make_batches(1, size=64)
    engine = engine_for(
        ours, torch.optim.LBFGS(ours.parameters(), lr=0.5), step_mode="closure", clip_grad_norm=0.05
    )
    optimizer = torch.optim.LBFGS(theirs.parameters(), lr=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(theirs(batch[0]), batch[1])
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        return loss

    for _ in range(3):
        expected = optimizer.step(closure)
        assert engine.step([batch]).loss.item() == expected.item()
    assert same_weights(ours, theirs)


@pytest.mark.parametrize(
    "make", [lambda ps: torch.optim.SGD(ps, lr=0.1), lambda ps: torch.optim.Adam(ps, lr=0.01)]
)
def test_float16_with_a_scaler_follows_float32(make: Callable[..., torch.optim.Optimizer]) -> None:
    ours, theirs = make_model(), make_model()
    cpu = torch.device("cpu")
    scaled = engine_for(
        ours,
        make(ours.parameters()),
        autocast=autocast(cpu, "float16"),
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0),
    )
    plain = engine_for(theirs, make(theirs.parameters()))
    for batch in make_batches(20):
        a, b = scaled.step([batch]), plain.step([batch])
        torch.testing.assert_close(a.loss.float(), b.loss, rtol=0.05, atol=0.02)
    assert not same_weights(ours, make_model())


def test_an_overflowing_float16_step_is_skipped_and_the_scale_falls() -> None:
    model = make_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    engine = engine_for(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        autocast=autocast(torch.device("cpu"), "float16"),
        scaler=scaler,
    )
    engine.step(make_batches(1))
    assert same_weights(model, make_model())
    assert scaler.get_scale() < 2.0**40
