"""List the layers of a model, and check that it accepts the samples of a data set.

Both run a forward pass of a copy, if possible on torch's meta device, where tensors have shapes but no
values. They do not change the model's weights, buffers, attributes and generators, and restore the state of
the global random number generators.
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
from trainer.models.outputs import prediction
from trainer.seeding import preserved
from trainer.user_code import describe_with_line

BATCH = 2
"""Batch size of the forward pass: batch normalization cannot train on one sample."""


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of a network.

    Args:
        name: dotted name in the model; empty for the model itself.
        kind: class of the layer, as `Conv2d`.
        output_shape: of one sample, without N; None if the layer is not called or does not return a tensor.
        parameters: number of its own parameters, without those of its children; shared ones count once.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int


def takes_tokens(model: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Return whether samples of this shape are probably tokens for the model: it has an embedding."""
    return len(input_shape) == 1 and any(isinstance(layer, nn.Embedding) for layer in model.modules())


def layer_table(model: nn.Module, input_shape: tuple[int, ...], *, tokens: bool = False) -> list[LayerRow]:
    """Return all layers without children and all layers with own parameters, in the order of the model.

    The parameters of the rows add up to those of the model. A layer called several times has its last output.

    Raises:
        ConfigError: samples of `input_shape` do not pass through the model; it names the layer.
    """
    trace = _probe(model, input_shape, training=False, batch=BATCH, tokens=tokens)
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
    model: nn.Module,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    batch: int = BATCH,
    tokens: bool = False,
    output: str | int | None = None,
) -> None:
    """Check that the model in training mode returns outputs of the required shape for `batch` samples.

    These are [N, num_classes], or for tokens [N, T, num_classes]. `output` says which entry of a tuple or a
    dict they are, see `outputs.prediction`.

    Raises:
        ConfigError: it does not; the error names the layer, its input and what it accepts.
    """
    returned = _probe(model, input_shape, training=True, batch=batch, tokens=tokens).result
    shape = (*input_shape, num_classes) if tokens else (num_classes,)
    expected = f"logits [{', '.join(['N', *map(str, shape)])}]"
    predicted = prediction(returned, output)
    if tuple(predicted.shape) != (batch, *shape):
        found = ", ".join(["N" if predicted.shape[:1] == (batch,) else "?", *map(str, predicted.shape[1:])])
        raise ConfigError(f"the model's output has the shape [{found}]", key="name", expected=expected)


@dataclass(slots=True)
class _Trace:
    """The record of a forward pass.

    Args:
        outputs: shape of one sample's output by layer.
        inside: the layers that are being executed, with the shapes of their inputs.
        result: what the model returned.
    """

    outputs: dict[str, tuple[int, ...] | None]
    inside: list[tuple[str, nn.Module, list[tuple[int, ...]]]]
    result: object = None


def materialize(model: nn.Module, input_shape: tuple[int, ...], *, tokens: bool = False) -> None:
    """Initialize lazy layers (`nn.LazyLinear` ...) by one forward pass in evaluation mode.

    As in torch, their initial values are drawn from torch's global generator.

    Raises:
        ConfigError: samples of `input_shape` do not pass through the model, or it does not call a lazy layer.
    """
    if not any(is_lazy(tensor) for tensor in _tensors(model)):
        return
    trace = _Trace({}, [])
    try:
        with _mode(model, training=False), _watched(model, trace), torch.no_grad():
            model(_zeros((BATCH, *input_shape), tokens))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _shape_error(input_shape, trace, error) from error
    left = [name for name, layer in model.named_modules() if any(map(is_lazy, _tensors(layer)))]
    if left:
        raise ConfigError(
            f"layer {left[-1]} is lazy, and the model's forward function does not call it: its parameters "
            "have no shape",
            key="name",
            fix="call the layer in forward, or use a layer that is not lazy (nn.Linear for nn.LazyLinear)",
        )


def sparse_gradients(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    tokens: bool = False,
    output: str | int | None = None,
) -> set[str]:
    """Return the names of the parameters whose gradients are sparse (`nn.Embedding(sparse=True)`).

    They are found by a backward pass of a copy or, if that fails, by the layers' `sparse` attribute.
    """
    names = {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in model.named_modules()
        if getattr(layer, "sparse", False) is True
        for name, _ in layer.named_parameters(recurse=False)
    }
    try:
        model_copy = copy_model(model)
        with preserved(), torch.enable_grad():
            returned = model_copy(_zeros((BATCH, *input_shape), tokens))
            torch.autograd.backward(prediction(returned, output).real.sum())
    except KeyboardInterrupt:
        raise
    except BaseException:  # the run reports the error
        return names
    gradients = {name: parameter.grad for name, parameter in model_copy.named_parameters()}
    return names | {
        name for name, gradient in gradients.items() if gradient is not None and gradient.is_sparse
    }


def _zeros(shape: tuple[int, ...], tokens: bool) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64 if tokens else torch.float32)


def _probe(
    model: nn.Module, input_shape: tuple[int, ...], *, training: bool, batch: int, tokens: bool
) -> _Trace:
    """Run the forward pass of a copy on the CPU or, if that fails, on the meta device.

    On the meta device there are no values, so code that fails only for the zeros of this pass runs there. If
    both fail, the error on the CPU is reported.
    """
    shape = (batch, *input_shape)
    trace = _Trace({}, [])
    try:
        with temporary_copy(model) as model_copy:
            _forward(model_copy, shape, trace, training=training, tokens=tokens)
        return trace
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = error
    without_values = _Trace({}, [])
    try:
        model_copy = copy_model(model, device="meta")
        _forward(model_copy, shape, without_values, training=training, tokens=tokens, device="meta")
        return without_values
    except KeyboardInterrupt:
        raise
    except BaseException:
        raise _shape_error(input_shape, trace, failure) from failure


def _forward(
    model: nn.Module,
    shape: tuple[int, ...],
    trace: _Trace,
    *,
    training: bool,
    tokens: bool,
    device: str = "cpu",
) -> None:
    # The states of generators are tensors, so save them before switching to the meta device.
    with preserved(), torch.device(device), _mode(model, training), _watched(model, trace), torch.no_grad():
        trace.result = model(_zeros(shape, tokens))


def copy_model(model: nn.Module, device: str = "") -> nn.Module:
    """Return a deep copy of the model, with parameters and buffers on `device` if it is given."""
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Generator):  # not supported by deepcopy
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
def temporary_copy(model: nn.Module) -> Iterator[nn.Module]:
    """Provide a copy for the block, or the model itself if it cannot be copied (it has a lock, a file ...).

    In the second case, restore the tensors and the attributes of all modules, but not the objects that these
    refer to.
    """
    try:
        model_copy = copy_model(model)
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass
    else:
        yield model_copy
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
    """Set training or evaluation mode for the block, and restore the mode of every module afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def _watched(model: nn.Module, trace: _Trace) -> Iterator[None]:
    """Record in `trace` which layers run, and the shapes of their inputs and outputs."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, inputs: tuple[object, ...]) -> None:
        shapes = [tuple(value.shape) for value in inputs if isinstance(value, Tensor)]
        trace.inside.append((names.get(id(module), "?"), module, shapes))

    def leave(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        trace.inside.pop()
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
        trace.outputs[names.get(id(module), "?")] = shape

    handles = [module.register_forward_pre_hook(enter) for module in model.modules()]
    handles += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shape_error(input_shape: tuple[int, ...], trace: _Trace, error: BaseException) -> ConfigError:
    """Return the error with the name of the innermost layer that was running."""
    name, layer, shapes = trace.inside[-1] if trace.inside else ("", None, [])
    location = f"layer {name} ({type(layer).__name__})" if name else "its forward function"
    received = f", which received {' and '.join(_readable(shape) for shape in shapes)}" if shapes else ""
    return ConfigError(
        f"samples of shape {list(input_shape)} do not pass through the model: {location}{received}, "
        f"{describe_with_line(error)}",
        key="name",
        expected=_takes(layer),
        fix="change the size of the images (data.resize, data.pad) or choose another model"
        if len(input_shape) == 3
        else "choose another model",
    )


def _readable(shape: Sequence[int]) -> str:
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"


def _takes(layer: nn.Module | None) -> str:
    """Return a description of the input that a torch layer accepts; empty if unknown."""
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        return f"[N, {layer.in_channels}, H, W], at least {height} x {width} with its padding {layer.padding}"
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return f"images of at least {layer.kernel_size} pixels with its padding {layer.padding}"
    if isinstance(layer, nn.Linear):
        return f"[N, {layer.in_features}]"
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return f"{layer.num_features} channels, and more than one value per channel"
    return ""
