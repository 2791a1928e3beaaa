"""Derive a strict pydantic model of a builder's options from its signature.

This works for any class or function, including those of torch, without importing torch: every type that is
not known to be representable in YAML counts as not representable.
"""

from __future__ import annotations

import builtins
import collections.abc
import enum
import inspect
import math
import operator
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, Strict, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import ValidationError

from trainer.config.paths import split_import_path
from trainer.errors import ConfigError

DROPPED = ("self", "params", "optimizer", "tensor", "generator", "last_epoch")

_PLAIN = (bool, int, float, str)
_LISTS = (
    list,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
    collections.abc.MutableSequence,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SETS = (set, frozenset, collections.abc.Set)


@dataclass(frozen=True, slots=True)
class ImportPathText:
    """Marks an option that is an import path, whose file is relative to the folder of the YAML file."""


@dataclass(frozen=True, slots=True)
class BuilderDefault:
    """Marks an option whose default YAML cannot represent: if it is unset, the builder uses its default."""


class _AnyAttribute(type):
    """Allows `torch.Tensor` in an annotation when `torch` is not imported."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Unrepresentable(metaclass=_AnyAttribute):
    """Represents a type whose values YAML cannot represent (a tensor, a generator, an unknown name)."""

    def __class_getitem__(cls, item: object) -> type:
        return cls


def _check_import_path(text: str) -> str:
    if split_import_path(text) is None:
        raise ValueError("expected an import path, as my_file.py:thing or package.module:thing")
    return text


def _check_not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("NaN is not allowed")
    return value


ImportPathOption = Annotated[str, AfterValidator(_check_import_path), ImportPathText()]
_UnboundedFloat = Annotated[float, AllowInfNan(True), AfterValidator(_check_not_nan)]


class Options(BaseModel):
    """The options of a component. Unknown keys are errors, types are strict, numbers are finite."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        validate_default=True,
    )


class OpenOptions(Options):
    """The options of a component that takes further ones as `**kwargs`."""

    model_config = ConfigDict(extra="allow")


def schema_from_signature(
    builder: Callable[..., Any],
    *,
    drop: Collection[str] = DROPPED,
    optional: Collection[str] = (),
    unset: Collection[str] = (),
    reserved: Collection[str] = (),
    open_ended: bool = False,
) -> type[BaseModel]:
    """Derive the option model of a builder from its signature and docstring.

    Types that YAML cannot represent, such as tensors, are removed from unions. A `Callable` becomes an import
    path. Tuples accept lists; `Iterable[int]` and similar types are lists. Numbers must be finite unless the
    default is infinite. An option without annotation accepts any value.

    Args:
        builder: a class, a function or a `functools.partial` of one.
        drop: parameters that the caller passes itself.
        optional: required parameters that may be unset, because the caller fills them in.
        unset: the same for parameters with or without a default.
        reserved: names that a config cannot use for an option; the builder uses its default for them. A
            required parameter with such a name stays in the model, so that the caller can reject it.
        open_ended: whether a builder with `**kwargs` accepts any other option as well.

    Raises:
        ConfigError: the signature of the builder cannot be read; `key` is "name".
    """
    descriptions = parse_args_section(_docstring(builder))
    fields: dict[str, tuple[Any, FieldInfo]] = {}
    for parameter, namespace, is_inherited in _parameters(builder):
        if parameter.name in drop or parameter.name.startswith("_") or parameter.name in fields:
            continue
        is_required = parameter.default is parameter.empty
        if (parameter.name in reserved and not is_required) or (is_inherited and is_required):
            continue
        field = _field(parameter, namespace, descriptions.get(parameter.name, ""))
        to_fill = parameter.name in unset or (parameter.name in optional and is_required)
        if field is not None and (is_inherited or to_fill):
            field = _unset(field[0], descriptions.get(parameter.name, ""))
        if field is not None:
            fields[parameter.name] = field
    name = getattr(_unwrap(builder), "__name__", "Component")
    kinds = {parameter.kind for parameter in _signature(builder).parameters.values()}
    base = OpenOptions if open_ended and inspect.Parameter.VAR_KEYWORD in kinds else Options
    model = _create(name, fields, base)
    misfits = _misfitting_defaults(model)
    for key in misfits:
        annotation, info = fields[key]
        fields[key] = (_union([annotation, _plain_type(info.default)]), info)
    return _create(name, fields, base) if misfits else model


def accepted_names(builder: Callable[..., Any]) -> set[str]:
    """Return the names of the parameters that a builder takes, also those that it passes on as `**kwargs`."""
    return {parameter.name for parameter, _, _ in _parameters(builder)}


def _create(name: str, fields: Mapping[str, tuple[Any, FieldInfo]], base: type[BaseModel]) -> type[BaseModel]:
    def create(chosen: Mapping[str, tuple[Any, FieldInfo]]) -> type[BaseModel]:
        with warnings.catch_warnings():
            # A user's option may have the name of a pydantic method, as `copy` or `json`.
            warnings.simplefilter("ignore", UserWarning)
            definitions: dict[str, Any] = dict(chosen)
            return create_model(name, __base__=base, **definitions)

    def understood(key: str) -> bool:
        try:
            create({key: fields[key]})
        except (PydanticUserError, TypeError):
            return False
        return True

    try:
        return create(fields)
    except (PydanticUserError, TypeError):
        # Pydantic does not support a type: options of that type accept any value.
        return create({key: field if understood(key) else (Any, field[1]) for key, field in fields.items()})


def _misfitting_defaults(model: type[BaseModel]) -> set[str]:
    """Return the options whose default does not match the annotation, as in `eps: int = 1e-8`."""
    try:
        model.model_validate({})
    except ValidationError as error:
        optional = {key for key, info in model.model_fields.items() if not info.is_required()}
        return {
            str(problem["loc"][0]) for problem in error.errors(include_url=False) if problem["loc"]
        } & optional
    return set()


def _field(parameter: inspect.Parameter, names: _Names, description: str) -> tuple[Any, FieldInfo] | None:
    """Return the pydantic field of a parameter; None if it is optional and YAML cannot represent it."""
    required = parameter.default is inspect.Parameter.empty
    unbounded = not required and any(
        isinstance(x, float) and math.isinf(x) for x in _leaves(parameter.default)
    )
    annotation = _represent(parameter.annotation, names, unbounded)
    if annotation is _Unrepresentable:
        if not required:
            return None
        annotation = Any
    if required:
        return annotation, _info(..., description)
    if all(item is None or isinstance(item, _PLAIN) for item in _leaves(parameter.default)):
        if parameter.default is None:
            annotation = _union([annotation, None])
        return annotation, _info(_without_tuples(parameter.default), description)
    return _unset(annotation, description)


def _info(default: Any, description: str) -> FieldInfo:
    # An empty description would replace one that the builder has set with `Field`.
    info: FieldInfo = Field(default, description=description) if description else Field(default)
    return info


def _unset(annotation: Any, description: str) -> tuple[Any, FieldInfo]:
    """Return a field that may be unset, for which the builder then uses its default."""
    left_open: Any = Annotated[_union([annotation, None]), BuilderDefault()]
    return left_open, _info(None, description)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    else:
        yield value


def _without_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_tuples(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return value


def _plain_type(value: object) -> Any:
    if value is None:
        return None
    return list[Any] if isinstance(value, list) else type(value)


def _union(members: list[Any]) -> Any:
    return reduce(operator.or_, [types.NoneType if member is None else member for member in members])


def _represent(annotation: Any, names: _Names, unbounded: bool) -> Any:
    """Return the pydantic type of the values of an annotation that YAML can represent, or `_Unrepresentable`.

    Args:
        annotation: a type, a string that names one, or `inspect.Parameter.empty`.
        names: the names in which strings are looked up.
        unbounded: whether floats may be infinite.
    """

    def inner(part: Any) -> Any:
        represented = _represent(part, names, unbounded)
        return Any if represented is _Unrepresentable else represented

    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return _represent(names.evaluate(annotation), names, unbounded)
    if annotation in (inspect.Parameter.empty, Any, object) or isinstance(annotation, typing.TypeVar):
        return Any
    if annotation is None or annotation is types.NoneType:
        return None
    if hasattr(annotation, "__supertype__"):
        return _represent(annotation.__supertype__, names, unbounded)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return annotation
    if origin is Annotated:
        represented = _represent(args[0], names, unbounded)
        return represented if represented is _Unrepresentable else Annotated[(represented, *args[1:])]
    if origin in (Union, types.UnionType):
        members = [_represent(arg, names, unbounded) for arg in args]
        known = [member for member in members if member is not _Unrepresentable]
        return _union(known) if known else _Unrepresentable
    kind = origin or annotation
    if kind is tuple:
        items = tuple(arg if arg is Ellipsis else inner(arg) for arg in args) or (Any, ...)
        return Annotated[types.GenericAlias(tuple, items), Strict(False)]
    if kind in _LISTS:
        return types.GenericAlias(list, (inner(args[0]) if args else Any,))
    if kind in _SETS:
        return Annotated[types.GenericAlias(set, (inner(args[0]) if args else Any,)), Strict(False)]
    if kind in _MAPPINGS:
        return types.GenericAlias(dict, tuple(inner(arg) for arg in args) or (Any, Any))
    if kind in (collections.abc.Callable, type):
        return ImportPathOption
    if kind is float:
        return _UnboundedFloat if unbounded else float
    if kind in _PLAIN:
        return kind
    if isinstance(kind, type) and issubclass(kind, PurePath | os.PathLike):
        return Annotated[Path, Strict(False)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return Annotated[kind, Strict(False)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return _Unrepresentable


class _Names(dict[str, Any]):
    """The names available to a builder's annotations: those of its module, then common names for types."""

    def __init__(self, module: Mapping[str, Any]) -> None:
        super().__init__()
        self._module = module

    def __missing__(self, name: str) -> Any:
        for space in (self._module, vars(builtins), vars(typing), vars(collections.abc), {"Path": Path}):
            if name in space:
                return space[name]
        return _Unrepresentable

    def evaluate(self, text: str) -> Any:
        """Return the type that a string names, or Any if it cannot be evaluated."""
        try:
            return eval(text, {}, self)
        except Exception:
            return Any


def _unwrap(builder: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(builder, partial):
        builder = builder.func
    unwrapped: Callable[..., Any] = inspect.unwrap(builder)
    return unwrapped


def _inits(cls: type) -> list[Callable[..., Any]]:
    """Return the `__init__` methods of a class and its base classes, in resolution order."""
    return [
        vars(above)["__init__"] for above in cls.__mro__ if "__init__" in vars(above) and above is not object
    ]


def _parameters(builder: Callable[..., Any]) -> Iterator[tuple[inspect.Parameter, _Names, bool]]:
    """Yield a builder's keyword parameters with the names available to their annotations.

    A class that accepts `**kwargs` also has the parameters of its base class, and a function those of the
    class that is its annotated return type; the third item is true for these. Their defaults are not passed:
    the class or the function may give others.
    """
    signature = _signature(builder)
    function = _unwrap(builder)
    for parameter, names in _keywords(signature, _names_of(function)):
        yield parameter, names, False
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    if isinstance(function, type):
        inits = _inits(function)[1:]
    else:
        returned = signature.return_annotation
        if isinstance(returned, str):
            returned = _names_of(function).evaluate(returned)
        inits = _inits(returned) if isinstance(returned, type) else []
    for init in inits:
        above = _signature(init)
        for parameter, names in list(_keywords(above, _names_of(init)))[1:]:
            yield parameter, names, True
        if not any(p.kind is p.VAR_KEYWORD for p in above.parameters.values()):
            return


def _keywords(signature: inspect.Signature, names: _Names) -> Iterator[tuple[inspect.Parameter, _Names]]:
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            yield parameter, names


def _signature(builder: Callable[..., Any]) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(builder, annotation_format=Format.FORWARDREF)
        return inspect.signature(builder)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"cannot read the options of {builder!r} from its signature: {error}",
            key="name",
            expected="a class or a function written in Python",
        ) from error


def _names_of(function: Callable[..., Any]) -> _Names:
    if isinstance(function, type):
        function = next(iter(_inits(function)), function)
    return _Names(getattr(inspect.unwrap(function), "__globals__", {}))


def _docstring(builder: Callable[..., Any]) -> str:
    """Return the docstring that describes a builder's arguments: that of the class or of its `__init__`."""
    function = _unwrap(builder)
    docs = [function.__doc__ or ""]
    if isinstance(function, type):
        docs += [init.__doc__ or "" for init in _inits(function)[:1]]
    docs = [inspect.cleandoc(doc) for doc in docs]
    return next((doc for doc in docs if parse_args_section(doc)), "")


_HEADING = re.compile(r"(Args|Arguments|Parameters|Keyword Args|Keyword Arguments):\s*\Z")
_ENTRY = re.compile(
    r"(?P<names>\*{0,2}\w+(\s*,\s*\w+)*)\s*(?P<type>\((?:[^()]|\([^()]*\))*\))?\s*:(?:\s+|\Z)(?P<text>.*)"
)


def parse_args_section(doc: str) -> dict[str, str]:
    """Return the description of each argument in a docstring's `Args:` section, on one line, without markup.

    Entries may be `name: text` or, as in torch, `name (type, optional): text`, and span several lines.
    """
    entries: dict[str, list[str]] = {}
    section_indent: int | None = None
    entry_indent: int | None = None
    current: list[str] = []
    for line in doc.expandtabs().splitlines():
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if _HEADING.match(text):
            section_indent, entry_indent, current = indent, None, []
            continue
        if section_indent is None or not text:
            continue
        if indent <= section_indent:
            section_indent = None
            continue
        entry_indent = indent if entry_indent is None else entry_indent
        entry = _ENTRY.match(text) if indent == entry_indent else None
        if entry:
            current = [entry["text"]]
            for name in entry["names"].replace("*", "").split(","):
                entries.setdefault(name.strip(), current)
        elif indent > entry_indent:
            current.append(text)
    return {name: _plain_text(" ".join(lines)) for name, lines in entries.items()}


def _plain_text(text: str) -> str:
    """Remove RST markup, backslashes of formulas and the default from a description."""
    text = re.split(r"\s\.\. \w+::", " " + text)[0]
    text = re.sub(r":math:`([^`]*)`", lambda match: re.sub(r"\\(?:text|mathrm)?|[{}]", "", match[1]), text)
    text = re.sub(r":[a-z:]+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"`([^`<]*?)\s*<[^`>]*>`_+", r"\1", text)
    text = re.sub(r"`+([^`]*)`+_*", r"`\1`", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"\1", text)
    text = re.sub(
        r"\s*\(default: (?:[^()]|\([^()]*\))*\)\.?|\s*Default: \S+\Z", "", text, flags=re.IGNORECASE
    )
    return " ".join(text.split())


def is_path(info: FieldInfo) -> bool:
    """Return whether the values of an option are file system paths."""
    return any(part is Path for part in _parts(info.annotation))


def is_import_path(info: FieldInfo) -> bool:
    """Return whether the values of an option are import paths."""
    marks = (*info.metadata, *_parts(info.annotation))
    return any(isinstance(mark, ImportPathText) for mark in marks)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    if get_origin(annotation) is not Literal:
        for part in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
            yield from _parts(part)
