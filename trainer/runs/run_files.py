"""The names of a run's files and the models of those that are read back. No torch here.

Every file is read whole, up to a size, and checked before anything of it is used. Keys that are not known
are kept or left out: a later release may have added them. A later `format` is refused by its number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic_core import from_json

from trainer.config.yaml_reader import MAX_BYTES
from trainer.config.models import Config
from trainer.errors import RunError
from trainer.reading import read_regular
from trainer.records import FORMAT, RunResult, Status

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
LOCK = "lock"
STATUS = "status.json"
STEPS = "steps.csv"
EPOCHS = "epochs.csv"
SUMMARY = "summary.json"
HISTOGRAMS = "histograms.json"
LOG = "train.log"
PLOTS = "plots"
CHECKPOINTS = "checkpoints"
COMPONENTS = "components"

_MIB = 1 << 20
_MOST_NODES = 100_000
_MOST_SHOWN = 200


class _Versioned(Protocol):
    @property
    def format(self) -> int: ...


Fields = TypeVar("Fields", bound=_Versioned)


class _AsRead(BaseModel):
    """Fields of a file of a run; keys of later releases are kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class StatusFields(_AsRead):
    """status.json."""

    format: int = Field(description="Version of the file's format.")
    status: Status = Field(description="How the run stands.")
    started: str | None = Field(None, description="When, in UTC.")
    ended: str | None = Field(None, description="When, in UTC; null = it has not, or is not known.")
    message: str = Field("", description="Why it ended, or its error.")
    optlab: str | None = Field(None, description="The release that wrote it; null = before 0.2.")
    uuid: str | None = Field(
        None, pattern=r"^[0-9a-f]{32}$", description="Random name of the run, which only optlab writes."
    )
    writer: str | None = Field(None, description="Random name of the process that wrote it last.")


class ComponentCopy(BaseModel):
    """The copy of a user's own Python file beside the config."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    source: str = Field(description="Where it was read from.")
    copied_to: str = Field(alias="copy", description="Its copy, relative to the run directory.")
    sha256: str = Field(description="Of its content.")

    @field_validator("copied_to")
    @classmethod
    def _stays_within(cls, value: str) -> str:
        parts = value.split("/")
        if len(parts) < 2 or parts[0] != COMPONENTS or {"", ".", ".."} & set(parts) or "\0" in value:
            raise ValueError(f"{value!r} is no file below {COMPONENTS}/")
        return value


class _Data(_AsRead):
    name: str | None = None
    sha256: str | None = None
    input_shape: list[int] | None = None
    num_classes: int | None = None


class EnvironmentFields(_AsRead):
    """environment.json: what is read of it again."""

    format: int = FORMAT
    versions: dict[str, str | None] = {}
    machine: dict[str, Any] = {}
    device: str | None = None
    threads: int | None = None
    data: _Data | None = None
    optimizer_defaults: dict[str, dict[str, Any]] | None = None
    components: list[ComponentCopy] = []
    resumed: list[dict[str, Any]] = []


class _Layer(_AsRead):
    edges: list[float]
    counts: list[int]


class _HistogramMoment(_AsRead):
    step: int
    epoch: float
    layers: dict[str, _Layer]


class HistogramsFields(_AsRead):
    """histograms.json."""

    format: int
    moments: list[_HistogramMoment]


_RESULT = TypeAdapter(RunResult)


def read_status(path: Path) -> StatusFields:
    """Read status.json of a run directory; errors as `_read`, and RunError when there is none."""
    try:
        return _read(path / STATUS, StatusFields.model_validate_json, 1 * _MIB)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not a run directory: it has no {STATUS}", fix="see `optlab runs`"
        ) from error


def read_result(path: Path) -> RunResult | None:
    """Read summary.json of a run directory; None when there is none yet; errors as `_read`."""
    try:
        return _read(path / SUMMARY, _RESULT.validate_json, 16 * _MIB)
    except FileNotFoundError:
        return None


def read_environment(path: Path) -> dict[str, Any]:
    """Read environment.json of a run directory; empty when there is none; errors as `_read`."""
    try:
        content = read_regular(path / ENVIRONMENT, 16 * _MIB)
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = {}

    def parse(text: bytes) -> EnvironmentFields:
        nonlocal found
        found = from_json(text)
        return EnvironmentFields.model_validate(found)

    _parse(path / ENVIRONMENT, parse, content)
    return found


def read_histograms(path: Path) -> list[dict[str, Any]]:
    """Read the moments of histograms.json; none when the run wrote none; errors as `_read`."""
    try:
        fields = _read(path / HISTOGRAMS, HistogramsFields.model_validate_json, 1024 * _MIB)
    except FileNotFoundError:
        return []
    moments: list[dict[str, Any]] = fields.model_dump()["moments"]
    return moments


def _read(path: Path, parse: Callable[[bytes], Fields], limit: int) -> Fields:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is none.
        RunError: it cannot be read, has another format, or is not what optlab writes.
    """
    return _parse(path, parse, read_regular(path, limit))


def _parse(path: Path, parse: Callable[[bytes], Fields], content: bytes) -> Fields:
    try:
        fields = parse(content)
    except (ValidationError, ValueError, RecursionError) as error:
        _refuse_format(path, content)
        raise RunError(f"{path} is damaged: {_reason(error)}") from error
    found = fields.format
    if found != FORMAT:
        _refuse_format(path, content)
        raise RunError(f"{path} has format {found}", expected=f"format {FORMAT}")
    return fields


def _refuse_format(path: Path, content: bytes) -> None:
    """Raise RunError when a file says that it is of another format, and by which release it was written."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(found, dict) or "format" not in found or found["format"] == FORMAT:
        return
    refuse_format(path, found["format"], found.get("optlab"))


def refuse_format(path: Path, found: Any, release: Any) -> None:
    """Raise the error for a format that is not this release's."""
    by = f"optlab {release[:40]}" if isinstance(release, str) else "a later release of optlab"
    raise RunError(
        f"{path} has format {found!r:.40}",
        expected=f"format {FORMAT}",
        fix=f"read it with {by}",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, ValidationError):
        return str(error)[:_MOST_SHOWN]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}"[:_MOST_SHOWN] if place else str(first["msg"])[:_MOST_SHOWN]


class _ConfigLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values; without `<<`, by which a small file grows without bound.

    libyaml where PyYAML has it: 0.4 ms per config instead of 2.7, and sweeps have thousands.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it has a merge key", node.start_mark)


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml of a run directory as plain values, as complete as it was written.

    Raises:
        RunError: there is none, it cannot be read, or it is no config.
    """
    place = path / CONFIG
    try:
        content = read_regular(place, MAX_BYTES)
        config = yaml.load(content, Loader=_ConfigLoader)
        _bounded(config)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not a run directory: it has no {CONFIG}", fix="see `optlab runs`"
        ) from error
    except (ValueError, RecursionError, OverflowError, yaml.YAMLError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(f"cannot read {place}: {reason[:_MOST_SHOWN]}") from error
    if not isinstance(config, dict):
        raise RunError(f"{place} is damaged: it is no mapping")
    if config.get("format", FORMAT) != FORMAT:
        refuse_format(place, config["format"], None)
    try:
        Config.model_validate(config)
    except ValidationError as error:
        faults = [one for one in error.errors(include_url=False) if one["type"] != "extra_forbidden"]
        if faults:  # a key alone that is not known is a later release's
            key = ".".join(map(str, faults[0]["loc"]))
            raise RunError(
                f"{place} is no resolved config: {key}: {faults[0]['msg']}"[:_MOST_SHOWN]
            ) from error
    return config


def _bounded(value: Any) -> None:
    """Raise ValueError when values with their aliases expanded are more than any config has."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        count += 1
        if count > _MOST_NODES:
            raise ValueError(f"it has more than {_MOST_NODES:,} values")
        if isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
