"""The names of the files of a run, and pydantic models of those that are read back. Does not import torch.

Every file is read whole, up to a maximum size, and validated before use. Unknown keys are allowed, because a
later release may have added them. A file with another `format` is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_core import from_json

from trainer.config.models import Config
from trainer.config.renamed_keys import rename_keys
from trainer.config.yaml_reader import MAX_BYTES, refuse_deep
from trainer.errors import ConfigError, RunError
from trainer.metrics import Metric, described
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
EXAMPLES = "examples.json"
LOG = "train.log"
PLOTS = "plots"
CHECKPOINTS = "checkpoints"
COMPONENTS = "components"

_MIB = 1 << 20
_MAX_NODES = 100_000
_MAX_ERROR_LENGTH = 200
_MAX_SHARED_BYTES = 1 << 14
_MAX_SECTIONS = 32


class _Versioned(Protocol):
    @property
    def format(self) -> int: ...


Fields = TypeVar("Fields", bound=_Versioned)


class _StrictModel(BaseModel):
    """Base of the models of files; unknown keys are kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class StatusFields(_StrictModel):
    """status.json."""

    format: int = Field(description="Version of the file's format.")
    status: Status = Field(description="Status of the run.")
    started: str | None = Field(None, description="Start time in UTC.")
    ended: str | None = Field(None, description="End time in UTC; null = running or unknown.")
    message: str = Field("", description="Why the run ended, or its error.")
    optlab: str | None = Field(None, description="Release that wrote the file; null = before 0.2.")
    uuid: str | None = Field(None, pattern=r"^[0-9a-f]{32}$", description="Random id of the run.")
    writer: str | None = Field(None, description="Random id of the last writer.")


class ComponentCopy(BaseModel):
    """A copy of a user's own Python file in the run directory."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    source: str = Field(description="Path of the original file.")
    copied_to: str = Field(alias="copy", description="Path of the copy, relative to the run directory.")
    sha256: str = Field(description="SHA-256 of its content.")

    @field_validator("copied_to")
    @classmethod
    def _stays_within(cls, value: str) -> str:
        parts = value.split("/")
        if len(parts) < 2 or parts[0] != COMPONENTS or {"", ".", ".."} & set(parts) or "\0" in value:
            raise ValueError(f"{value!r} is not a file in {COMPONENTS}/")
        return value


class _Data(_StrictModel):
    name: str | None = None
    sha256: str | None = None
    input_shape: list[int] | None = None
    num_classes: int | None = None


def _check_metric(fields: dict[str, Any]) -> dict[str, Any]:
    try:
        described(fields)
    except ConfigError as error:
        raise ValueError(error.problems[0].what) from error
    return fields


class EnvironmentFields(_StrictModel):
    """environment.json: the keys that are read back."""

    format: int = FORMAT
    versions: dict[str, str | None] = {}
    machine: dict[str, Any] = {}
    device: str | None = None
    threads: int | None = None
    data: _Data | None = None
    metrics: list[Annotated[dict[str, Any], AfterValidator(_check_metric)]] = []
    optimizer_defaults: dict[str, dict[str, Any]] | None = None
    components: list[ComponentCopy] = []
    resumed: list[dict[str, Any]] = []


class _Layer(_StrictModel):
    edges: list[float]
    counts: list[int]


class _HistogramSnapshot(_StrictModel):
    step: int
    epoch: float
    layers: dict[str, _Layer]


class HistogramsFields(_StrictModel):
    """histograms.json."""

    format: int
    moments: list[_HistogramSnapshot]


_Rows = list[list[float | None]]


class _Boundary(_StrictModel):
    x: Annotated[list[float], Field(min_length=2)]
    y: Annotated[list[float], Field(min_length=2)]
    classes: list[list[Annotated[int, Field(ge=0, lt=100_000)]]]
    probabilities: _Rows
    points: list[list[float]]
    labels: list[Annotated[int, Field(ge=0, lt=100_000)]]


class ExamplesFields(_StrictModel):
    """examples.json; see `training.examples.make_examples`."""

    format: int
    shape: list[int] | None = None
    inputs: _Rows | None = None
    reconstructions: _Rows | None = None
    samples: _Rows | None = None
    text: str | None = None
    boundary: _Boundary | None = None


_RESULT = TypeAdapter(RunResult)


def read_status(path: Path) -> StatusFields:
    """Read status.json of a run directory. Raise RunError if it is missing or as in `_read`."""
    try:
        return _read(path / STATUS, StatusFields.model_validate_json, 1 * _MIB)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not a run directory: it has no {STATUS}", fix="see `optlab runs`"
        ) from error


def read_result(path: Path) -> RunResult | None:
    """Read summary.json of a run directory; return None if missing. Raises as `_read`."""
    try:
        return _read(path / SUMMARY, _RESULT.validate_json, 16 * _MIB)
    except FileNotFoundError:
        return None


def read_environment(path: Path) -> dict[str, Any]:
    """Read environment.json of a run directory; return an empty dict if missing. Raises as `_read`."""
    try:
        content = read_regular(path / ENVIRONMENT, 16 * _MIB)
    except FileNotFoundError:
        return {}
    environment: dict[str, Any] = {}

    def parse(text: bytes) -> EnvironmentFields:
        nonlocal environment
        environment = from_json(text)
        return EnvironmentFields.model_validate(environment)

    _parse(path / ENVIRONMENT, parse, content)
    return environment


def recorded_metrics(environment: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics that an environment.json describes; none if an earlier release wrote it."""
    return [described(fields) for fields in environment.get("metrics", ())]


def read_histograms(path: Path) -> list[dict[str, Any]]:
    """Read the snapshots in histograms.json; return an empty list if missing. Raises as `_read`."""
    try:
        fields = _read(path / HISTOGRAMS, HistogramsFields.model_validate_json, 1024 * _MIB)
    except FileNotFoundError:
        return []
    moments: list[dict[str, Any]] = fields.model_dump()["moments"]
    return moments


def read_examples(path: Path) -> dict[str, Any]:
    """Read examples.json; return an empty dict if missing. Raises as `_read`."""
    try:
        fields = _read(path / EXAMPLES, ExamplesFields.model_validate_json, 64 * _MIB)
    except FileNotFoundError:
        return {}
    return fields.model_dump(exclude_none=True)


def _read(path: Path, parse: Callable[[bytes], Fields], limit: int) -> Fields:
    """Read a JSON file.

    Raises:
        FileNotFoundError: the file is missing.
        RunError: the file cannot be read, has another format, or is not valid.
    """
    return _parse(path, parse, read_regular(path, limit))


def _parse(path: Path, parse: Callable[[bytes], Fields], content: bytes) -> Fields:
    try:
        fields = parse(content)
    except (ValidationError, ValueError, RecursionError) as error:
        _refuse_format(path, content)
        raise RunError(f"{path} is damaged: {_reason(error)}") from error
    content_format = fields.format
    if content_format != FORMAT:
        _refuse_format(path, content)
        raise RunError(f"{path} has format {content_format}", expected=f"format {FORMAT}")
    return fields


def _refuse_format(path: Path, content: bytes) -> None:
    """Raise RunError if a file has another format; the error names the release that wrote it."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(fields, dict) or "format" not in fields or fields["format"] == FORMAT:
        return
    refuse_format(path, fields["format"], fields.get("optlab"))


def refuse_format(path: Path, actual: Any, release: Any) -> None:
    """Raise RunError for a file whose format this release does not read."""
    by = f"optlab {release[:40]}" if isinstance(release, str) else "a later release of optlab"
    raise RunError(
        f"{path} has format {actual!r:.40}",
        expected=f"format {FORMAT}",
        fix=f"read it with {by}",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, ValidationError):
        return str(error)[:_MAX_ERROR_LENGTH]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}"[:_MAX_ERROR_LENGTH] if key else str(first["msg"])[:_MAX_ERROR_LENGTH]


class _ConfigLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Loads plain values; refuses merge keys (`<<`), with which a small file can expand without bound.

    Uses libyaml if PyYAML has it: 0.4 ms per config instead of 2.7, and sweeps have thousands.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it has a merge key", node.start_mark)


class Sections(dict[str, dict[str, Any]]):
    """The sections of valid configs that were read, by their YAML text.

    `complete` has the keys of each of these configs. The checks of a config are those of its sections, so a
    config that consists of known sections under the keys of a valid config is valid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.complete: set[frozenset[str]] = set()


# A top-level key and the indented lines below it, without YAML's line breaks other than \n.
_SECTION = re.compile(
    r"^[a-z_]+:(?: [^\n\r\x85\u2028\u2029]*)?\n(?: [^\n\r\x85\u2028\u2029]*\n)*", re.MULTILINE
)


def read_config(path: Path, known: Sections | None = None) -> dict[str, Any]:
    """Read config.yaml of a run directory as plain values, without filling in defaults.

    Args:
        path: the run directory.
        known: sections of configs read before, and to which this one's are added. Configs that are read with
            the same `known` share their values, which must not be changed.

    Raises:
        RunError: the file is missing, cannot be read, or is not a config.
    """
    file = path / CONFIG
    try:
        content = read_regular(file, MAX_BYTES)
        refuse_deep(content)
        joined = None if known is None else _join_sections(content, known)
        if joined and known and not joined.new and frozenset(joined.config) in known.complete:
            return joined.config
        config = joined.config if joined else yaml.load(content, Loader=_ConfigLoader)
        _check_size(config)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not a run directory: it has no {CONFIG}", fix="see `optlab runs`"
        ) from error
    except (ValueError, RecursionError, OverflowError, yaml.YAMLError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(f"cannot read {file}: {reason[:_MAX_ERROR_LENGTH]}") from error
    if not isinstance(config, dict):
        raise RunError(f"{file} is damaged: it is not a mapping")
    if config.get("format", FORMAT) != FORMAT:
        refuse_format(file, config["format"], None)
    rename_keys(config)
    try:
        Config.model_validate(config)
    except ValidationError as error:
        faults = [one for one in error.errors(include_url=False) if one["type"] != "extra_forbidden"]
        if faults:  # unknown keys are allowed: a later release may have added them
            key = ".".join(map(str, faults[0]["loc"]))
            raise RunError(
                f"{file} is not a resolved config: {key}: {faults[0]['msg']}"[:_MAX_ERROR_LENGTH]
            ) from error
    if joined is not None and known is not None:
        known.update(joined.new)
        known.complete.add(frozenset(config))
    return config


@dataclass(frozen=True, slots=True)
class _Joined:
    """A config joined from its sections, and those sections that were not known, by their text."""

    config: dict[str, Any]
    new: dict[str, dict[str, Any]]


def _join_sections(content: bytes, known: Sections) -> _Joined | None:
    """Return a config joined from its sections; each distinct section text is parsed once.

    Return None if the whole file must be parsed: optlab did not write it, or a section cannot be parsed
    separately. Parsing 10,000 configs of a sweep takes 0.4 s this way instead of 5 s.
    """
    if len(content) > _MAX_SHARED_BYTES:
        return None
    try:
        text = content.decode()
        sections = _SECTION.findall(text)
        if "".join(sections) != text or len(sections) > _MAX_SECTIONS:
            return None
        config: dict[str, Any] = {}
        new: dict[str, dict[str, Any]] = {}
        for section in sections:
            parsed = known.get(section)
            if parsed is None:
                parsed = yaml.load(section, Loader=_ConfigLoader)
                if not isinstance(parsed, dict):
                    return None
                new[section] = parsed
            if parsed.keys() & config.keys():
                return None
            config.update(parsed)
    except (ValueError, RecursionError, OverflowError, yaml.YAMLError):
        return None
    return _Joined(config, new)


def _check_size(value: Any) -> None:
    """Raise ValueError if a config has too many values, counted with aliases expanded."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        count += 1
        if count > _MAX_NODES:
            raise ValueError(f"it has more than {_MAX_NODES:,} values")
        if isinstance(
            one, dict
        ):  # YAML yields no other containers; isinstance with `Mapping` takes three times as long
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
