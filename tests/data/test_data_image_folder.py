"""The image-folder reader."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import image_folder as room
from trainer.data.image_folder import image_folder
from trainer.errors import DataError

RNG = np.random.default_rng(0)


def put(file: Path, shape: tuple[int, ...] = (6, 4, 3), mode: str | None = None) -> np.ndarray:
    """Write a random image and return what PIL decodes from it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(file)
    return np.array(Image.open(file))


def folder(root: Path, shape: tuple[int, ...] = (6, 4, 3)) -> dict[str, np.ndarray]:
    names = ["train/cat/b.png", "train/cat/a.jpg", "train/ant/x.PNG", "test/cat/t.png"]
    return {name: put(root / name, shape) for name in names}


def test_images_come_in_the_order_of_names_with_one_class_per_folder(tmp_path: Path) -> None:
    images = folder(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    seen: list[tuple[int, int]] = []
    dataset = image_folder(path=str(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert dataset.class_names == ("ant", "cat")
    assert dataset.input_shape == (3, 6, 4)
    assert dataset.train.targets.tolist() == [0, 1, 1]
    assert dataset.test.targets.tolist() == [1]
    for row, name in enumerate(["train/ant/x.PNG", "train/cat/a.jpg", "train/cat/b.png"]):
        assert np.array_equal(dataset.train.inputs[row].permute(1, 2, 0).numpy(), images[name])
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_grey_images_give_one_channel_unless_one_has_colours(tmp_path: Path) -> None:
    images = folder(tmp_path, (6, 4))
    dataset = image_folder(path=str(tmp_path))
    assert dataset.input_shape == (1, 6, 4)
    assert np.array_equal(dataset.test.inputs[0, 0].numpy(), images["test/cat/t.png"])
    put(tmp_path / "test" / "cat" / "colour.png", (6, 4, 3))
    dataset = image_folder(path=str(tmp_path))
    assert dataset.input_shape == (3, 6, 4)
    grey = torch.from_numpy(images["train/cat/b.png"])
    assert torch.equal(dataset.train.inputs[2], grey.expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["P", "RGBA", "1"])
def test_palettes_transparency_and_bits_become_plain_pixels(tmp_path: Path, mode: str) -> None:
    folder(tmp_path)
    put(tmp_path / "train" / "cat" / "c.png", mode=mode)
    expected = np.array(Image.open(tmp_path / "train" / "cat" / "c.png").convert("RGB"))
    dataset = image_folder(path=str(tmp_path))
    assert np.array_equal(dataset.train.inputs[3].permute(1, 2, 0).numpy(), expected)


def test_images_of_several_sizes_need_size(tmp_path: Path) -> None:
    folder(tmp_path)
    put(tmp_path / "train" / "cat" / "wide.png", (6, 12, 3))
    with pytest.raises(DataError, match="12 x 6 pixels") as caught:
        image_folder(path=str(tmp_path))
    assert "data.size" in caught.value.problems[0].fix
    assert image_folder(path=str(tmp_path), size=5).input_shape == (3, 5, 5)


def test_size_crops_about_the_centre(tmp_path: Path) -> None:
    folder(tmp_path)
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(tmp_path / "test" / "cat" / "t.png")
    dataset = image_folder(path=str(tmp_path), size=4)
    assert torch.equal(dataset.test.inputs[0], torch.full((3, 4, 4), 200, dtype=torch.uint8))


def test_damaged_images_are_named_together(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in ("train/cat/b.png", "train/ant/x.PNG"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError) as caught:
        image_folder(path=str(tmp_path))
    assert [Path(problem.where).name for problem in caught.value.problems] == ["x.PNG", "b.png"]
    (tmp_path / "train/cat/a.jpg").write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"a\.jpg.*not an image"):
        image_folder(path=str(tmp_path))


def test_many_faults_are_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    for number in range(9):
        (tmp_path / "train" / "cat" / f"c{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="5 more images cannot be read") as caught:
        image_folder(path=str(tmp_path))
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize("sides", [(30_000, 3_000), (60_000, 60_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_bomb_is_refused_undecoded(tmp_path: Path, sides: tuple[int, int]) -> None:
    folder(tmp_path)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "train" / "cat" / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"bomb\.png.*(too large|pixels)"):
        image_folder(path=str(tmp_path))


def test_more_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    monkeypatch.setattr(room, "memory_bytes", lambda: 100)
    with pytest.raises(DataError, match="4 images of 4 x 6"):
        image_folder(path=str(tmp_path))


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    folder(tmp_path)
    deep = Image.fromarray(RNG.integers(0, 65_536, (6, 4)).astype(np.uint16))
    deep.save(tmp_path / "train" / "cat" / "deep.png")
    with pytest.raises(DataError, match="mode I;16"):
        image_folder(path=str(tmp_path))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the folder") as caught:
        image_folder(path=str(tmp_path))
    assert caught.value.problems[0].key == "path"
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        image_folder(path=str(tmp_path))
    folder(tmp_path)
    (tmp_path / "train" / "bee").mkdir()
    with pytest.raises(DataError, match="no images"):
        image_folder(path=str(tmp_path))
    put(tmp_path / "train" / "bee" / "b.png")
    put(tmp_path / "test" / "dog" / "d.png")
    with pytest.raises(DataError, match="classes without training images: dog"):
        image_folder(path=str(tmp_path))
