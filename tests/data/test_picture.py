from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from mwactl.data import open_image
from mwactl.errors import DataError
from mwactl.runtime import bundle

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_a_plain_picture_is_unchanged(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(pixels(open_image(tmp_path / "a.png")), values)


def test_cmyk_jpeg_shows_its_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(open_image(tmp_path / "a.jpg")) - RED).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 255, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert pixels(open_image(tmp_path / f"a.{suffix}"))[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_16_bit_pgm_is_scaled(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0x80, 0x80, 0xFF, 0xFF]))
    assert pixels(open_image(tmp_path / "a.pgm"))[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_range_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="no defined range"):
        open_image(tmp_path / "a.tif")


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (pixels(open_image(tmp_path / "a.gif")) == RED).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), BLUE)
    upright.paste(RED, (0, 0, 8, 8))  # red at the top left
    stored_as = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(stored_as[orientation]) if orientation in stored_as else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    seen = open_image(tmp_path / "a.jpg")
    assert seen.size == (32, 16)
    assert np.abs(pixels(seen)[1:7, 1:7] - RED).max() < 20
    assert np.abs(pixels(seen)[10:, 12:] - BLUE).max() < 20


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_put_on_white(tmp_path: Path, mode: str) -> None:
    colour = (255, 0, 0) if mode == "RGBA" else (100,)
    image = Image.new(mode, (3, 1), (*colour, 255))
    image.putpixel((1, 0), (*colour, 0))
    image.putpixel((2, 0), (*colour, 51))
    image.save(tmp_path / "a.png")
    solid = np.array(RED if mode == "RGBA" else (100,) * 3)
    seen = pixels(open_image(tmp_path / "a.png"))[0]
    assert seen[0].tolist() == solid.tolist()
    assert seen[1].tolist() == list(WHITE)
    assert np.abs(seen[2] - (solid * 0.2 + 255 * 0.8)).max() <= 1


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])], ids=["one-index", "table"])
def test_a_palette_with_transparency_is_put_on_white(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=transparency)
    assert pixels(open_image(tmp_path / "a.png"))[0].tolist() == [list(RED), list(WHITE)]


def test_a_palette_without_transparency_shows_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert pixels(open_image(tmp_path / "a.png"))[0].tolist() == [list(RED), list(GREEN)]


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (9, 9, 9)), ("I;16", 700)])
def test_a_transparent_colour_is_put_on_white(tmp_path: Path, mode: str, key: int | tuple[int, ...]) -> None:
    Image.new(mode, (2, 2), key).save(tmp_path / "a.png", transparency=key)
    assert (pixels(open_image(tmp_path / "a.png")) == WHITE).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (2, 2), 255).save(tmp_path / "a.png")
    assert (pixels(open_image(tmp_path / "a.png")) == WHITE).all()


def test_a_colour_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (2, 2), RED).save(tmp_path / "a.png", icc_profile=profile)
    assert (pixels(open_image(tmp_path / "a.png")) == RED).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused(tmp_path: Path, progressive: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(values).save(path, progressive=progressive)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="truncated") as caught:
        open_image(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("warned", ["ignore", "error"])
def test_every_way_to_cut_or_spoil_a_file_is_a_data_error(tmp_path: Path, warned: Literal["ignore", "error"]) -> None:
    warnings.simplefilter(warned)
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    image, path, random = Image.fromarray(values), tmp_path / "a", np.random.default_rng(1)
    refused = 0
    formats = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", *["AVIF"] * features.check("avif")]
    for format in formats:
        image.convert("RGB" if format == "JPEG" else "RGBA").save(path, format)
        whole = path.read_bytes()
        for _ in range(40):
            spoiled = bytearray(whole[: random.integers(1, len(whole))])
            spoiled[random.integers(len(spoiled))] ^= 0xFF
            path.write_bytes(spoiled)
            try:
                open_image(path)
            except DataError as error:
                assert error.where == str(path)
                assert error.why
                refused += 1
    assert refused > 120


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_a_decoder_that_raises_runtime_errors_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    Image.linear_gradient("L").convert("RGB").save(path)
    whole = path.read_bytes()
    start = whole.index(b"mdat") + 4
    path.write_bytes(whole[:start] + b"\xff" * (len(whole) - start))
    with pytest.raises(DataError, match=r"(?i)decod") as caught:
        open_image(path)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("content", "why"), [(b"this is no picture", "not a picture of a known format"), (b"", "the file is empty")]
)
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why):
        open_image(path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_image(tmp_path / "a.jpg")


def test_a_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="no such file"):
        open_image(tmp_path / "a.jpg")


def test_a_picture_over_our_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (11, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(bundle, "MAX_PIXELS", 109)
    with pytest.raises(DataError, match="11 × 10 pixels; at most 109"):
        open_image(tmp_path / "a.png")
    monkeypatch.setattr(bundle, "MAX_PIXELS", 110)
    assert open_image(tmp_path / "a.png").size == (11, 10)


@pytest.mark.parametrize("limit", [100, 40], ids=["its-warning", "its-error"])
def test_what_pillow_calls_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.new("1", (11, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match="decompression bomb"):
        open_image(tmp_path / "a.png")


def test_the_file_can_be_removed_while_the_picture_is_used(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.jpg")
    image = open_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").unlink()
    assert image.resize((2, 2)).size == (2, 2)
