"""What a network looks like from outside: its layers, and whether it fits the data (room: models).

Both questions are answered by a forward pass of a copy, on torch's meta device where that is possible:
tensors have shapes there and no numbers. The model itself stays as it is: weights, buffers, attributes and
generators. The global random number generators are put back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainer.errors import ConfigError
from trainer.seeding import preserved
from trainer.user_code import place_of, what_happened

BATCH = 2
"""Samples of the probe: batch normalisation refuses to train on one."""

_COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of a network.

    Args:
        name: dotted name in the model; empty for the model itself.
        kind: class of the layer, as `Conv2d`.
        output_shape: of one sample, without N; None when it is not called as a layer, or returns no tensor.
        parameters: numbers it holds itself (without its children's; shared ones count where they come first).
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int


def layer_table(model: nn.Module, input_shape: tuple[int, ...]) -> list[LayerRow]:
    """Return the innermost layers in the model's order, and those around them that own parameters themselves.

    The rows' parameters add up to the model's. A layer called several times shows its last output.

    Raises:
        ConfigError: samples of `input_shape` do not pass through the model; it names the layer.
    """
    trace = _probe(model, input_shape, training=False, batch=BATCH)
    counted: set[int] = set()
    rows = []
    for name, layer in model.named_modules():
        own = [parameter for parameter in layer.parameters(recurse=False) if id(parameter) not in counted]
        if own or not any(True for _ in layer.children()):
            counted.update(id(parameter) for parameter in own)
            shape = trace.outputs.get(name)
            rows.append(LayerRow(name, type(layer).__name__, shape, sum(p.numel() for p in own)))
    return rows


def check_shapes(
    model: nn.Module, input_shape: tuple[int, ...], num_classes: int, *, batch: int = BATCH
) -> None:
    """Check that `batch` samples of `input_shape` become logits [N, num_classes] while training.

    Raises:
        ConfigError: it does not; names the layer, what reached it and what it takes.
    """
    output = _probe(model, input_shape, training=True, batch=batch).result
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"the model returns a {type(output).__name__}",
            key="name",
            expected=f"one tensor of logits [N, {num_classes}]",
            fix="wrap the model so that its forward returns the logits alone",
        )
    if tuple(output.shape) != (batch, num_classes):
        shape = ", ".join(["N" if output.shape[:1] == (batch,) else "?", *map(str, output.shape[1:])])
        raise ConfigError(
            f"the model's output has the shape [{shape}]", key="name", expected=f"logits [N, {num_classes}]"
        )


def multiplications(model: nn.Module, input_shape: tuple[int, ...]) -> int | None:
    """Return how many multiplications by weights a forward pass makes per sample.

    None where that is not known: for other layers with matrices than linear and convolutional ones, and for
    weights of layers that are not called.

    Raises:
        ConfigError: samples of `input_shape` do not pass through the model.
    """
    trace = _probe(model, input_shape, training=True, batch=BATCH)
    for name, module in model.named_modules():
        has_matrices = any(weight.ndim >= 2 for weight in module.parameters(recurse=False))
        if has_matrices and (type(module) not in _COUNTED or name not in trace.outputs):
            return None
    return trace.multiplications // BATCH


@dataclass(slots=True)
class _Trace:
    """What a probing forward pass saw.

    Args:
        outputs: shape of one sample's output by layer.
        inside: the layers entered and not left, with the shapes that they received.
        multiplications: by the weights of linear and convolutional layers, of the whole batch.
        result: what the model returned.
    """

    outputs: dict[str, tuple[int, ...] | None]
    inside: list[tuple[str, nn.Module, list[tuple[int, ...]]]]
    multiplications: int = 0
    result: object = None


def materialize(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Give lazy layers (`nn.LazyLinear` ...) their parameters, by one forward pass in evaluation mode.

    Draws their initial values from torch's global generator, as torch does.

    Raises:
        ConfigError: samples of `input_shape` do not pass through the model, or it does not call a lazy layer.
    """
    if not any(is_lazy(tensor) for tensor in _tensors(model)):
        return
    trace = _Trace({}, [])
    try:
        with _mode(model, training=False), _watched(model, trace), torch.no_grad():
            model(torch.zeros((BATCH, *input_shape), dtype=torch.float32))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _misfit(input_shape, trace, error) from error
    left = [name for name, layer in model.named_modules() if any(map(is_lazy, _tensors(layer)))]
    if left:
        raise ConfigError(
            f"layer {left[-1]} is lazy, and the model's forward function does not call it: its parameters "
            "have no shape",
            key="name",
            fix="call the layer in forward, or give it its number of inputs (nn.Linear for nn.LazyLinear)",
        )


def sparse_gradients(model: nn.Module, input_shape: tuple[int, ...]) -> set[str]:
    """Return the names of the parameters whose gradients are sparse (`nn.Embedding(sparse=True)`).

    Found by a backward pass of a copy; where that cannot be made, by the layers' `sparse` attribute.
    """
    names = {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in model.named_modules()
        if getattr(layer, "sparse", False) is True
        for name, _ in layer.named_parameters(recurse=False)
    }
    try:
        twin = _copy(model)
        with preserved(), torch.enable_grad():
            output = twin(torch.zeros((BATCH, *input_shape), dtype=torch.float32))
            output.real.sum().backward()
    except KeyboardInterrupt:
        raise
    except BaseException:  # what does not work shows in the run
        return names
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
    return names | {
        name for name, gradient in gradients.items() if gradient is not None and gradient.is_sparse
    }


def _probe(model: nn.Module, input_shape: tuple[int, ...], *, training: bool, batch: int) -> _Trace:
    """Run a copy's forward pass without numbers; where that fails, with numbers, and then its error counts.

    Code that looks at values cannot run on the meta device, so a refusal there alone proves nothing.
    """
    shape = (batch, *input_shape)
    trace = _Trace({}, [])
    try:
        twin = _copy(model, device="meta")
        _forward(twin, shape, trace, training=training, device="meta")
        return trace
    except KeyboardInterrupt:
        raise
    except BaseException:
        trace = _Trace({}, [])
    with _copied(model) as twin:
        try:
            _forward(twin, shape, trace, training=training)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _misfit(input_shape, trace, error) from error
    return trace


def _forward(
    model: nn.Module, shape: tuple[int, ...], trace: _Trace, *, training: bool, device: str = "cpu"
) -> None:
    # The generators' states are tensors: they are taken outside of the meta device.
    with preserved(), torch.device(device), _mode(model, training), _watched(model, trace), torch.no_grad():
        trace.result = model(torch.zeros(shape, dtype=torch.float32))


def _copy(model: nn.Module, device: str = "") -> nn.Module:
    """Return a copy that shares nothing with the model, with parameters and buffers on `device`."""
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Generator):  # which Python's copy refuses
                memo[id(value)] = value.clone_state()
            elif isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    if device:
        for parameter in model.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for buffer in model.buffers():
            memo[id(buffer)] = buffer.detach().to(device)
    return copy.deepcopy(model, memo)


@contextmanager
def _copied(model: nn.Module) -> Iterator[nn.Module]:
    """Give a copy for the block; of a model that cannot be copied (it holds a lock, a file) itself.

    Its tensors and the attributes of its modules are put back then, but not what these refer to.
    """
    try:
        twin = _copy(model)
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass
    else:
        yield twin
        return
    tensors = [(tensor, tensor.detach().clone()) for tensor in _tensors(model)]
    kept = ("_parameters", "_buffers", "_modules")
    attributes = [
        (module, dict(vars(module)), {name: dict(vars(module)[name]) for name in kept})
        for module in model.modules()
    ]
    try:
        yield model
    finally:
        for module, values, holders in attributes:
            vars(module).clear()
            vars(module).update(values)
            for name, content in holders.items():
                vars(module)[name].clear()
                vars(module)[name].update(content)
        with torch.no_grad():
            for tensor, value in tensors:
                tensor.copy_(value)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module into training or evaluation mode, and each back into its own afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def _watched(model: nn.Module, trace: _Trace) -> Iterator[None]:
    """Note in `trace` which layers are entered and left, and with what shapes."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, inputs: tuple[object, ...]) -> None:
        shapes = [tuple(value.shape) for value in inputs if isinstance(value, Tensor)]
        trace.inside.append((names.get(id(module), "?"), module, shapes))

    def leave(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        trace.inside.pop()
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
        trace.outputs[names.get(id(module), "?")] = shape
        if type(module) in _COUNTED and isinstance(output, Tensor):
            # A weight [outputs, ...] is used at every place of the image or sequence that comes out.
            weight = module.weight
            assert isinstance(weight, Tensor)
            trace.multiplications += output.numel() // max(len(weight), 1) * weight.numel()

    handles = [module.register_forward_pre_hook(enter) for module in model.modules()]
    handles += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _misfit(input_shape: tuple[int, ...], trace: _Trace, error: BaseException) -> ConfigError:
    """Return the error that names the innermost layer that was entered and not left."""
    name, layer, shapes = trace.inside[-1] if trace.inside else ("", None, [])
    place = f"layer {name} ({type(layer).__name__})" if name else "its forward function"
    received = f", which received {' and '.join(_readable(shape) for shape in shapes)}" if shapes else ""
    line = place_of(error)
    return ConfigError(
        f"samples of shape {list(input_shape)} do not pass through the model: {place}{received}, "
        f"{what_happened(error)}{f' ({line})' if line else ''}",
        key="name",
        expected=_takes(layer),
        fix="change the images' size (data.resize, data.pad) or choose a model that fits them",
    )


def _readable(shape: Sequence[int]) -> str:
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"


def _takes(layer: nn.Module | None) -> str:
    """Return the input that a layer of torch takes, in words; empty when that is not known."""
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        return f"[N, {layer.in_channels}, H, W], at least {height} x {width} with its padding {layer.padding}"
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return f"images of at least {layer.kernel_size} pixels with its padding {layer.padding}"
    if isinstance(layer, nn.Linear):
        return f"[N, {layer.in_features}]"
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return f"{layer.num_features} channels, and more than one value of each"
    return ""
