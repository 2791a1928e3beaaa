"""The stored baselines of a suite: the runs of its finished sweep in an archive, and a description of them.

Next to `SUITE.yaml`, `SUITE.tar.xz` has, per problem, results.csv with every trial and the directories of the
final runs without checkpoints and figures; `SUITE.json` says how they were computed. User, host and paths of
the machine are removed; the folders of the packaged configs and of downloaded data are written as
`$OPTLAB_CONFIGS` and `$OPTLAB_DATA`.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.config import packaged
from trainer.data.dataset import data_root
from trainer.errors import RunError
from trainer.reading import read_regular
from trainer.runs import rundir
from trainer.sweep.models import FINAL
from trainer.sweep.plan import SWEEP_FILE
from trainer.sweep.results import RESULTS, SUMMARY

FORMAT = 1
INDEX = "baselines.json"
_MAX_BYTES = 256 << 20
_RUN_FILES = (
    rundir.CONFIG,
    rundir.ENVIRONMENT,
    rundir.STATUS,
    rundir.SUMMARY,
    rundir.EPOCHS,
    rundir.STEPS,
)
_PERSONAL = ("command", "origin", "git")


@dataclass(frozen=True, slots=True)
class Baselines:
    """The stored baselines of a suite.

    Args:
        archive: the archive with the runs.
        info: the contents of the description.
    """

    archive: Path
    info: Mapping[str, Any]

    @property
    def problems(self) -> Mapping[str, Any]:
        """Description of each problem: target, digests of the pairing by seed, tuned values, configs."""
        problems: Mapping[str, Any] = self.info["problems"]
        return problems


def stored(suite: Path) -> Baselines | None:
    """Return the stored baselines of a suite; None if it has none.

    Raises:
        RunError: the description is damaged.
    """
    archive, description = archive_of(suite), suite.with_suffix(".json")
    if not archive.is_file() or not description.is_file():
        return None
    try:
        info = json.loads(read_regular(description, _MAX_BYTES))
        if info["format"] != FORMAT:
            raise RunError(f"{description} has format {info['format']}", expected=f"format {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{description} is damaged", fix="install optlab again") from error
    return Baselines(archive, info)


def archive_of(suite: Path) -> Path:
    """Return the path of the archive with the baselines of a suite."""
    return suite.with_suffix(".tar.xz")


def pack(suite: Path, root: Path, info: Mapping[str, Any]) -> list[Path]:
    """Write the archive and the description of the finished sweep of a suite; return their paths.

    The same runs give the same archive, byte by byte.

    Args:
        suite: the file of the suite.
        root: the directory of its finished sweep.
        info: the description; see `Baselines`.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz", preset=9) as archive:
        for problem, described in info["problems"].items():
            for path in _files(root / problem):
                data = _cleaned(path, root, described)
                member = tarfile.TarInfo(path.relative_to(root).as_posix())
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    archive_path, description = archive_of(suite), suite.with_suffix(".json")
    rundir.write_atomically(archive_path, content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    text = json.dumps({"format": FORMAT, **info, "archive_sha256": digest}, indent=1)
    rundir.write_atomically(description, text + "\n")
    return [archive_path, description]


def _files(sweep: Path) -> Iterator[Path]:
    """Yield the files of a sweep that are stored, in a fixed order."""
    yield from (sweep / name for name in (SWEEP_FILE, RESULTS, SUMMARY))
    for run in rundir.find_runs([sweep / FINAL]):
        yield from (run / name for name in _RUN_FILES)


def _cleaned(path: Path, root: Path, described: Mapping[str, Any]) -> bytes:
    """Return the content of a file without the user, host and paths of the machine; state the target."""
    text = path.read_text(encoding="utf-8")
    if path.name == rundir.ENVIRONMENT:
        text = json.dumps(_without_personal(json.loads(text)), indent=1) + "\n"
    if path.name == SWEEP_FILE:
        plan = yaml.safe_load(text) | {"target": described["target"]}
        text = yaml.safe_dump(plan, sort_keys=False, allow_unicode=True, width=100)
    text = text.replace(f"{root.absolute()}/", "")
    for name, place in _places().items():
        text = text.replace(place, name)
    return text.encode()


def _without_personal(value: Any) -> Any:
    """Return an environment, and those of the earlier parts of a resumed run in it, without personal data."""
    if isinstance(value, dict):
        return {key: _without_personal(one) for key, one in value.items() if key not in _PERSONAL}
    return [_without_personal(one) for one in value] if isinstance(value, list) else value


def _places() -> dict[str, str]:
    """Return the folders that runs of this machine refer to, by their names in an archive."""
    return {"$OPTLAB_CONFIGS": str(packaged.folder()), "$OPTLAB_DATA": str(data_root(None))}


def unpack(baselines: Baselines, target: Path) -> None:
    """Write the runs of stored baselines to a directory, unless they are there already.

    Raises:
        RunError: the archive is damaged, or the directory has other baselines.
    """
    digest, index = baselines.info["archive_sha256"], target / INDEX
    if index.is_file():
        if json.loads(index.read_text())["archive_sha256"] == digest:
            return
        raise RunError(f"{target} has other baselines", fix="use another --out, or remove that folder")
    content = read_regular(baselines.archive, _MAX_BYTES)
    if hashlib.sha256(content).hexdigest() != digest:
        raise RunError(f"{baselines.archive} is damaged", fix="install optlab again")
    places = _places()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None, "the archive has files only"
            path = target / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = file.read().decode()
            for name, place in places.items():
                text = text.replace(name, place)
            rundir.write_atomically(path, text)
    rundir.write_json(index, dict(baselines.info))
