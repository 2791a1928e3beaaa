"""Texts for language models: a file as tokens, in windows of a fixed length, and Tiny Shakespeare.

Tokens are the characters of the file, or its bytes. The file is split into three contiguous parts: training,
validation and test. A sample is a window: `context` tokens, with the tokens that follow each as targets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trainer.data.dataset import Dataset, Split, folder_with, make_dataset
from trainer.data.download import fetch, url_download
from trainer.data.file_readers import AGAIN
from trainer.data.files import user_file
from trainer.errors import ConfigError, DataError

Unit = Literal["characters", "bytes"]
Context = Annotated[int, Field(ge=1)]
Fractions = tuple[
    Annotated[float, Field(gt=0, lt=1)],
    Annotated[float, Field(gt=0, lt=1)],
    Annotated[float, Field(gt=0, lt=1)],
]

_SHAKESPEARE = "tiny_shakespeare/input.txt"
_SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def text(
    *,
    path: str | Path,
    context: Context = 64,
    unit: Unit = "characters",
    parts: Fractions = (0.9, 0.05, 0.05),
) -> Dataset:
    """Return a text file as a data set for language models: UTF-8, in windows of `context` tokens.

    An epoch is one pass over the training part in adjacent windows. Each epoch starts it at another random
    token, so that a model sees every position in every context.

    Args:
        path: the file.
        context: number of tokens in a window, from 1.
        unit: what a token is: characters (those of the training part are the classes) or bytes (256 classes).
        parts: fractions of the file for training, validation and test, in this order; their sum is 1.

    Raises:
        ConfigError: the sum of `parts` is not 1.
        DataError: the file is missing, is not UTF-8, or has a part that is shorter than a window and its
            targets; a character occurs only outside of the training part.
    """
    file = user_file(path)
    return text_dataset(file.read_bytes(), where=str(file), context=context, unit=unit, parts=parts)


def tiny_shakespeare(
    *,
    context: Context = 64,
    unit: Unit = "characters",
    parts: Fractions = (0.9, 0.05, 0.05),
    root: str | Path | None = None,
    download: bool = True,
) -> Dataset:
    """Return Tiny Shakespeare: 1,115,394 characters of plays, 65 different ones; see `text`.

    nanoGPT validates on the last tenth of the file, which here is half validation, half test.

    Args:
        context: number of tokens in a window, from 1.
        unit: what a token is: characters or bytes.
        parts: fractions of the file for training, validation and test, in this order; their sum is 1.
        root: folder that holds tiny_shakespeare/input.txt; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download a missing file.
    """
    folder = folder_with("tiny_shakespeare", root)
    file = folder / _SHAKESPEARE
    fetch("tiny_shakespeare", folder, download, [file], url_download(_SHAKESPEARE_URL, _SHAKESPEARE))
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHAKESPEARE_SHA256:
        raise DataError("the file is not the published one", where=str(file), fix=AGAIN)
    return text_dataset(content, where=str(file), context=context, unit=unit, parts=parts)


def text_dataset(
    content: bytes, *, where: str, context: int, unit: Unit, parts: tuple[float, float, float]
) -> Dataset:
    """Return the data set of a text; see `text`.

    Args:
        content: the text, UTF-8; any bytes if they are the tokens.
        where: the source of the text, for messages.
        context, unit, parts: see `text`.
    """
    if abs(sum(parts) - 1) > 1e-6:
        raise ConfigError(
            f"the parts {list(parts)} add up to {sum(parts):.6g}",
            key="parts",
            expected="fractions for training, validation and test that add up to 1",
        )
    numbers = _numbers(content, unit, where)
    ends = [round(parts[0] * len(numbers)), round((parts[0] + parts[1]) * len(numbers))]
    train, val, test = np.split(numbers, ends)
    known = np.arange(256, dtype=np.uint32) if unit == "bytes" else np.unique(train)
    for name, part in (("training", train), ("validation", val), ("test", test)):
        if len(part) <= context:
            raise DataError(
                f"the {name} part has {len(part):,} {unit}; a window needs {context + 1:,}: "
                f"{context:,} and the one that follows",
                key="context",
                where=where,
                fix="use a longer text, a shorter context, or a larger part",
            )
        _check_known(part, known, name, where)
    splits = [_windows(np.searchsorted(known, part), context) for part in (train, val, test)]
    return make_dataset(splits[0], splits[2], [chr(number) for number in known], val=splits[1])


def encode(text: str, vocabulary: Sequence[str], unit: Unit) -> Tensor:
    """Return the tokens of a text, int64 [T].

    Raises:
        ConfigError: a character is not in the vocabulary.
    """
    tokens = text.encode("utf-8", "surrogateescape").decode("latin-1") if unit == "bytes" else text
    unknown = sorted(set(tokens) - set(vocabulary))
    if unknown:
        raise ConfigError(
            f"the training text has no {', '.join(map(repr, unknown[:10]))}",
            expected=f"characters among {''.join(vocabulary)!r}",
        )
    numbers = {char: number for number, char in enumerate(vocabulary)}
    return torch.tensor([numbers[char] for char in tokens], dtype=torch.int64)


def decode(tokens: Sequence[int], vocabulary: Sequence[str], unit: Unit) -> str:
    """Return the text of tokens; bytes that are not UTF-8 become replacement characters."""
    text = "".join(vocabulary[token] for token in tokens)
    return text.encode("latin-1").decode("utf-8", "replace") if unit == "bytes" else text


def _numbers(content: bytes, unit: Unit, where: str) -> NDArray[np.uint32]:
    """Return the code points of a text, or its bytes."""
    if unit == "bytes":
        return np.frombuffer(content, np.uint8).astype(np.uint32)
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start:,} ({content[error.start]:#04x}) is not UTF-8",
            where=where,
            fix="save the file as UTF-8, or set data.unit=bytes",
        ) from error
    return np.frombuffer(decoded.encode("utf-32-le"), np.uint32)


def _check_known(part: NDArray[np.uint32], known: NDArray[np.uint32], name: str, where: str) -> None:
    unknown = np.setdiff1d(part, known)
    if len(unknown):
        chars = ", ".join(repr(chr(number)) for number in unknown[:10])
        raise DataError(
            f"the {name} part has {len(unknown)} characters that the training part lacks: {chars}"
            f"{' ...' if len(unknown) > 10 else ''}",
            where=where,
            expected="a training part with every character of the text",
            fix="set data.unit=bytes, remove these characters, or enlarge the training part (data.parts)",
        )


def _windows(numbers: NDArray[np.int64], context: int) -> Split:
    """Return all windows of a part and their targets, int64 [R, context], which share its memory."""
    tokens = torch.from_numpy(numbers.astype(np.int64))
    return Split(tokens[:-1].unfold(0, context, 1), tokens[1:].unfold(0, context, 1), stride=context)
