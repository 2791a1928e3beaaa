"""Read a user's images from folders `train/<class>/` and `test/<class>/`; the cache stores them decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from trainer.data.cache import cached
from trainer.data.dataset import Dataset, Split, make_dataset, memory_bytes
from trainer.device import usable_cores
from trainer.errors import DataError, Problem

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 80_000_000  # per image; a small file can declare far more (a "decompression bomb")
_GREY = ("1", "L")
_COLOUR = ("P", "RGB", "RGBA", "RGBX", "LA", "PA", "CMYK", "YCbCr", "HSV", "LAB")
_SHOWN = 5  # errors reported at once

Progress = Callable[[int, int], None]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of an image file, read without decoding the image."""

    width: int
    height: int
    grey: bool


def image_folder(
    *, path: str | Path, size: Annotated[int, Field(ge=1)] | None = None, progress: Progress | None = None
) -> Dataset:
    """Return the images in a folder, uint8 [N, C, H, W], one class per subfolder, in the order of names.

    If all images are grey, they have one channel; otherwise all become RGB. Transparency is ignored.

    Args:
        path: the folder, with train/<class>/*.png and test/<class>/*.png (png, jpg, bmp, gif, webp, tif ...).
        size: height and width in pixels; every image is cropped to a centred square and resized to it. null =
            keep the images unchanged; all must have the same size.
        progress: called with (decoded images, number of images) during decoding; not called if the cache has
            the images (not an option of the config).

    Raises:
        DataError: a folder or class is missing or empty, a file is damaged or too large, or sizes differ.
    """
    root = Path(path).expanduser()
    classes = _class_names(root / "train")
    strange = [name for name in _class_names(root / "test") if name not in classes]
    if strange:
        raise DataError(
            f"classes without training images: {', '.join(strange)}",
            where=str(root / "test"),
            expected=f"some of {', '.join(classes)}",
        )
    listed = {part: _list_images(root / part, classes) for part in ("train", "test")}
    files = [file for part in listed.values() for file, _ in part]
    # The relative names determine classes and order; the pixels of a JPEG depend on the version of Pillow.
    names = [file.relative_to(root).as_posix() for file in files]
    return cached(
        files,
        lambda: _decode_all(root, classes, listed, size, progress),
        variant=["image_folder", size, PIL.__version__, *names],
    )


def _decode_all(
    root: Path,
    classes: Sequence[str],
    listed: Mapping[str, Sequence[tuple[Path, int]]],
    size: int | None,
    progress: Progress | None,
) -> Dataset:
    """Decode the listed files, (file, class number) by split, to a data set."""
    files = [file for part in listed.values() for file, _ in part]
    with ThreadPoolExecutor(usable_cores()) as pool:  # PIL releases the GIL while decoding
        headers = _each(pool, _read_header, files)
        channels = 1 if all(header.grey for header in headers) else 3
        width, height = (size, size) if size is not None else _common_size(files, headers)
        needed = len(files) * channels * width * height
        memory = memory_bytes()
        if needed > memory:
            raise DataError(
                f"{len(files):,} images of {width} x {height} need {needed / 2**30:,.1f} GiB of "
                f"{memory / 2**30:,.1f} GiB memory",
                where=str(root),
                fix="set data.size, or use fewer images",
            )
        pixels = torch.empty(len(files), channels, height, width, dtype=torch.uint8)
        rows = {file: row for row, file in enumerate(files)}

        def decode(file: Path) -> None:
            pixels[rows[file]] = _decode(file, channels, size)

        _each(pool, decode, files, progress)
    labels = torch.tensor([label for part in listed.values() for _, label in part])
    count = len(listed["train"])
    return make_dataset(
        Split(pixels[:count], labels[:count]), Split(pixels[count:], labels[count:]), list(classes)
    )


def _class_names(folder: Path) -> list[str]:
    try:
        names = sorted(
            entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise DataError(
            f"cannot read the folder {folder}: {error.strerror}",
            key="path",
            expected="folders train/<class>/ and test/<class>/ in data.path",
        ) from error
    if not names:
        raise DataError("no class folders", where=str(folder), expected="one folder of images per class")
    return names


def _list_images(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return every image in a folder with its class number, in the order of the names."""
    listed: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        found = sorted(
            file for file in (folder / name).rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not found and (folder / name).is_dir():
            raise DataError("no images", where=str(folder / name), expected=f"files of {', '.join(SUFFIXES)}")
        listed += [(file, label) for file in found]
    return listed


def _each(
    pool: ThreadPoolExecutor,
    work: Callable[[Path], Result],
    files: Sequence[Path],
    progress: Progress | None = None,
) -> list[Result]:
    """Return the results for all files, in order; report the first few errors together."""
    results: list[Result] = []
    problems: list[Problem] = []
    try:
        for done, future in enumerate([pool.submit(work, file) for file in files], start=1):
            try:
                results.append(future.result())
            except DataError as error:
                problems += error.problems
            if progress is not None:
                progress(done, len(files))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt must not wait for all images
        raise
    if len(problems) > _SHOWN:
        problems[_SHOWN - 1 :] = [Problem(f"{len(problems) - _SHOWN + 1:,} more images cannot be read")]
    if problems:
        raise DataError.of(problems)
    return results


def _open(file: Path) -> Image.Image:
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise DataError(f"too large: {error}", where=str(file)) from error
    except Exception as error:  # PIL's plug-ins raise OSError, SyntaxError, ValueError, struct.error ...
        raise DataError(f"not an image: {error}", where=str(file), fix="repair or remove the file") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{image.width} x {image.height} pixels", where=str(file), expected=f"at most {MAX_PIXELS:,}"
        )
    if image.mode not in _GREY + _COLOUR:
        raise DataError(
            f"pixels of mode {image.mode}",
            where=str(file),
            expected="8 bits per channel",
            fix="convert it to 8 bits",
        )
    return image


def _read_header(file: Path) -> _Header:
    with _open(file) as image:
        return _Header(image.width, image.height, image.mode in _GREY)


def _common_size(files: Sequence[Path], headers: Sequence[_Header]) -> tuple[int, int]:
    """Return the common (width, height) of all images; raise DataError if sizes differ."""
    first = (headers[0].width, headers[0].height)
    for file, header in zip(files, headers, strict=True):
        if (header.width, header.height) != first:
            raise DataError(
                f"{header.width} x {header.height} pixels, but {files[0]} has {first[0]} x {first[1]}",
                where=str(file),
                expected="images of one size",
                fix="set data.size=N to crop every image to a square and resize it to N x N",
            )
    return first


def _decode(file: Path, channels: int, size: int | None) -> Tensor:
    """Return one image as uint8 [C, H, W]."""
    with _open(file) as image:
        try:
            pixels = image.convert("L" if channels == 1 else "RGB")
        except Exception as error:  # as in _open
            raise DataError(
                f"damaged or truncated: {error}", where=str(file), fix="repair or remove the file"
            ) from error
    if size is not None:
        pixels = ImageOps.fit(pixels, (size, size), method=Image.Resampling.BILINEAR)
    array = np.array(pixels)
    return torch.from_numpy(array).view(*array.shape[:2], channels).permute(2, 0, 1)
