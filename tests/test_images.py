"""Whatever a user hands over becomes the RGB array that the eye sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from detxai.images import load_image, to_tensor, to_uint8

RGB = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def test_array_pil_and_lossless_file_are_the_same(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(RGB)
    picture.save(tmp_path / "a.png")
    for image in (RGB, picture, tmp_path / "a.png", str(tmp_path / "a.png"), picture.convert("RGBA")):
        assert np.array_equal(load_image(image), RGB)


def test_a_tensor_stays_in_floats_and_comes_back() -> None:
    tensor = torch.from_numpy(RGB).permute(2, 0, 1) / 255
    array = load_image(tensor)
    assert array.dtype == np.float32
    assert torch.equal(to_tensor(array), tensor)
    assert np.array_equal(to_uint8(array), RGB)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = PIL.Image.fromarray(RGB).convert(mode)
    array = load_image(picture)
    assert array.shape == RGB.shape
    assert np.array_equal(array, np.asarray(picture.convert("RGB")))


def test_sixteen_bits_keep_their_high_byte(tmp_path: Path) -> None:
    deep = np.array([[0, 256, 65535]], dtype=np.uint16)
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation: int, tmp_path: Path) -> None:
    exif: Any = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    upright = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).transpose(1, 0, 2), 8: np.rot90(RGB),
    }  # fmt: skip
    assert np.array_equal(load_image(tmp_path / "turned.png"), upright[orientation])


def test_the_users_array_is_not_changed_or_shared_into_a_picture() -> None:
    picture = PIL.Image.fromarray(RGB)
    load_image(picture)[:] = 0
    assert np.array_equal(np.asarray(picture), RGB)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.fromarray(RGB).save(tmp_path / "bomb.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="larger than Pillow's limit"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "ppm", "tif", "webp"])
def test_a_truncated_file_is_told_as_that(tmp_path: Path, ending: str) -> None:
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    PIL.Image.fromarray(np.tile(RGB, (9, 9, 1))).save(whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"^image: .*cut\.{ending} is (damaged or truncated|not an image)"):
        load_image(cut)


def test_an_opened_image_whose_file_is_cut_off_is_refused_too(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.tile(RGB, (9, 9, 1))).save(tmp_path / "whole.ppm")
    (tmp_path / "cut.ppm").write_bytes((tmp_path / "whole.ppm").read_bytes()[:-9])
    with (
        PIL.Image.open(tmp_path / "cut.ppm") as opened,
        pytest.raises(ValueError, match=r"^image: the image is damaged or truncated"),
    ):
        load_image(opened)


def test_ultralytics_imported_before_does_not_answer_for_pillow(tmp_path: Path) -> None:
    """Its own ``PIL.Image.open`` installs a package when a file is no image, and hides why it is none."""
    pytest.importorskip("ultralytics")
    huge = PIL.Image.new("1", (1, 1))
    huge.save(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("I am text")
    code = f"""
import ultralytics.utils.checks, ultralytics.utils.patches, PIL.Image
ultralytics.utils.checks.check_requirements = lambda *_, **__: print("installs")
assert PIL.Image.open.__module__ != "PIL.Image"
PIL.Image.MAX_IMAGE_PIXELS = 0
from detxai.images import file_size, load_image
for name in ("huge.png", "text.png"):
    for read in (load_image, file_size):
        try:
            read({str(tmp_path)!r} + "/" + name)
        except ValueError as error:
            print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in ran.stdout.splitlines() if "image" in line or "installs" in line]
    assert ["larger than Pillow's limit" in line for line in lines] == [True, True, False, False]
    assert ["not an image that Pillow can read" in line for line in lines] == [False, False, True, True]
