"""Reading pictures and masks as people really store them."""

import os
import zlib

import numpy as np
import pytest
from helpers.few_bits import few_bits, png_chunk, png_head
from PIL import Image

from saot.data import image_size, mask_size, read_image, read_mask

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_rgb_comes_back_as_it_was(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", RGB)
    np.testing.assert_array_equal(read_image(path), RGB)
    assert read_image(path).flags.writeable
    assert image_size(path) == (4, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, suffix, orientation):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16] = 255  # white top left
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"a.{suffix}", stored, exif=exif)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]
    expected = turn(stored)
    picture = read_image(path)
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).max() < 20  # JPEG
    assert image_size(path) == expected.shape[:2]


def test_size_sees_a_rotation_behind_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    rows = zlib.compress(b"".join(b"\0" + bytes(6) for _ in range(4)))
    late = png_chunk(b"IDAT", rows) + png_chunk(b"eXIf", exif.tobytes()[6:]) + png_chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png_head(6, 4) + late)
    assert read_image(tmp_path / "a.png").shape == (6, 4, 3)
    assert image_size(tmp_path / "a.png") == (6, 4)


def test_grey_and_alpha(tmp_path):
    grey = RGB[..., 0]
    np.testing.assert_array_equal(read_image(save(tmp_path / "l.png", grey))[..., 2], grey)
    alpha = np.concatenate([RGB, np.full((4, 6, 1), 7, np.uint8)], 2)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", alpha)), RGB)
    both = np.stack([grey, grey], 2)
    np.testing.assert_array_equal(read_image(save(tmp_path / "la.png", both))[..., 1], grey)
    np.testing.assert_array_equal(read_image(save(tmp_path / "1.png", grey > 30))[..., 0], (grey > 30) * 255)


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = np.array([[0, 128, 257], [32768, 65278, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        picture = read_image(save(tmp_path / name, grey))
        np.testing.assert_array_equal(picture[..., 0], [[0, 0, 1], [128, 254, 255]])
        np.testing.assert_array_equal(picture[..., 0], picture[..., 2])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_the_size_of_a_picture_that_is_too_dark_is_known(tmp_path, suffix, monkeypatch):
    path, opened, real = save(tmp_path / f"a.{suffix}", np.full((4, 6), 300, np.uint16)), [], Image.open
    monkeypatch.setattr(Image, "open", lambda *words, **options: opened.append(words) or real(*words, **options))
    assert image_size(path) == (4, 6) and len(opened) == 1
    with pytest.raises(ValueError, match="nearly black"):
        read_image(path)


def test_sixteen_bit_grey_is_rotated_too(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "a.png", np.array([[0, 65535, 0]], np.uint16), exif=exif)
    np.testing.assert_array_equal(read_image(path)[..., 0], [[0], [255], [0]])


def test_numbers_beyond_sixteen_bits_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"deep\.tiff has grey values from 0 to 70000"):
        read_image(save(tmp_path / "deep.tiff", np.array([[0, 70000]], np.int32)))
    with pytest.raises(ValueError, match=r"float\.tiff holds floating-point"):
        read_image(save(tmp_path / "float.tiff", np.array([[0.5]], np.float32)))


def test_palette_cmyk_and_transparent_palette(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png")[1, 0].tolist() == [70, 80, 90]
    palette.save(tmp_path / "t.png", transparency=2)
    assert read_image(tmp_path / "t.png")[1, 0].tolist() == [70, 80, 90]
    cmyk = save(tmp_path / "c.jpg", np.full((8, 8, 3), (200, 30, 30), np.uint8), "CMYK", quality=95)
    assert np.abs(read_image(cmyk).astype(int) - (200, 30, 30)).max() < 12


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_cut_off_files_are_named(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"half.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"half\.{suffix} .*(broken|no picture)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_damaged_bytes_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "bad.png", noise)
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"bad\.png is broken"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello, I am a text file", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    for read in (read_image, read_mask, image_size):
        with pytest.raises(ValueError, match=r"x\.png (is|has) .*"):
            read(tmp_path / "x.png")


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ValueError, match="is missing or not a file"):
            read_image(path)


def test_zero_size_is_named(tmp_path):
    (tmp_path / "zero.png").write_bytes(png_head(0, 5) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b""))
    (tmp_path / "zero.ppm").write_bytes(b"P6 0 5 255\n")
    for name in ("zero.png", "zero.ppm"):
        with pytest.raises(ValueError, match=rf"{name} (has no pixels|is (no picture|broken))"):
            read_image(tmp_path / name)


def test_decompression_bombs_are_named_and_large_pictures_pass_in_silence(tmp_path, recwarn):
    tail = png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png_head(60_000, 60_000) + tail)
    for read in (read_image, read_mask, image_size):
        with pytest.raises(ValueError, match=r"bomb\.png has too many pixels"):
            read(tmp_path / "bomb.png")
    (tmp_path / "large.png").write_bytes(png_head(10_000, 10_000) + tail)
    assert image_size(tmp_path / "large.png") == (10_000, 10_000)
    assert not recwarn.list


def test_masks_keep_their_numbers(tmp_path):
    index = np.array([[0, 1, 255], [18, 2, 0]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "l.png", index)), index)
    palette = Image.fromarray(index, "L").copy()
    palette.putpalette([(i * 7) % 256 for i in range(768)])  # turns the mode to P, keeping the numbers
    palette.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png"), index)
    deep = np.array([[0, 300], [65535, 7]], np.uint16)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", deep)), deep)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.tiff", deep)), deep)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", index > 0)), index > 0)
    assert read_mask(tmp_path / "b.png").dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("name", ["m.png", "m.tiff", "white-is-0.tiff"])
def test_grey_of_few_bits_keeps_its_numbers(tmp_path, bits, name):
    values = np.arange(64).reshape(4, 16) % 2**bits
    path = few_bits(tmp_path / name, values, bits, photometric=0 if "white" in name else 1)
    np.testing.assert_array_equal(read_mask(path), values)
    assert read_mask(path).dtype == np.uint8
    assert mask_size(path) == (4, 16)


@pytest.mark.parametrize("head", [b"P5 4 1 3\n\0\1\2\3", b"P2 4 1 3\n0 1 2 3\n", b"P5 4 1 1000\n\0\0\0\1\0\2\0\3"])
def test_a_grey_map_keeps_its_numbers_whatever_its_largest(tmp_path, head):
    (tmp_path / "m.pgm").write_bytes(head)
    assert read_mask(tmp_path / "m.pgm").tolist() == [[0, 1, 2, 3]]


def test_a_bitmap_keeps_its_bits(tmp_path):
    (tmp_path / "m.pgm").write_bytes(b"P4 8 1\n\x1b")
    assert read_mask(tmp_path / "m.pgm").tolist() == [[0, 0, 0, 1, 1, 0, 1, 1]]
    (tmp_path / "m.pgm").write_bytes(b"P1 8 1\n0 0 0 1 1 0 1 1\n")
    assert read_mask(tmp_path / "m.pgm").tolist() == [[0, 0, 0, 1, 1, 0, 1, 1]]
    bits = np.array([[0, 1, 1, 0]], np.uint8)
    for name in ("m.tiff", "g4.tiff"):
        save(tmp_path / name, bits > 0, **({"compression": "group4"} if name == "g4.tiff" else {}))
        np.testing.assert_array_equal(read_mask(tmp_path / name), bits)


def test_what_the_head_of_a_mask_says_is_known_from_its_size(tmp_path):
    grey = RGB[..., 0]
    save(tmp_path / "lossy.jpg", grey)
    save(tmp_path / "inside.tiff", grey, compression="jpeg")
    save(tmp_path / "wave.jp2", grey)
    save(tmp_path / "colour.png", RGB)
    whole = save(tmp_path / "whole.png", grey).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-14])
    (tmp_path / "more.png").write_bytes(whole + b"some bytes behind the end")
    Image.fromarray(grey).save(tmp_path / "stack.tiff", save_all=True, append_images=[Image.fromarray(grey)])
    said = {"lossy.jpg": "JPEG", "inside.tiff": "JPEG", "wave.jp2": "JPEG 2000", "colour.png": "mode RGB"}
    for name, word in {**said, "cut.png": "its end is missing", "stack.tiff": "a TIFF of 2 pages"}.items():
        for read in (mask_size, read_mask):
            with pytest.raises(ValueError, match=rf"mask \S+{name} .*{word}"):
                read(tmp_path / name)
    assert mask_size(tmp_path / "whole.png") == mask_size(tmp_path / "more.png") == (4, 6)


def test_pictures_of_several_pages_and_cut_off_are_known_from_their_heads(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "stack.tiff", save_all=True, append_images=[Image.fromarray(RGB)])
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "whole.png", RGB).read_bytes()[:-14])
    save(tmp_path / "real.tiff", np.array([[0.5]], np.float32))
    words = {"stack.tiff": "2 pages.*file of its own", "cut.png": "its end is missing", "real.tiff": "floating-point"}
    for name, word in words.items():
        for read in (image_size, read_image):
            with pytest.raises(ValueError, match=f"{name} .*{word}"):
                read(tmp_path / name)


def test_a_smaller_copy_in_a_tiff_is_no_second_page(tmp_path):
    small = Image.fromarray(RGB[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(RGB).save(tmp_path / "a.tiff", save_all=True, append_images=[small])
    assert Image.open(tmp_path / "a.tiff").n_frames == 2
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff"), RGB)
    assert image_size(tmp_path / "a.tiff") == (4, 6)


def test_rotation_tags_of_masks_are_not_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    assert read_mask(save(tmp_path / "m.png", RGB[..., 0], exif=exif)).shape == (4, 6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_masks_are_refused_with_advice(tmp_path, mode):
    with pytest.raises(ValueError, match=rf"m\.png is a colour picture \(mode {mode}\).*class index"):
        read_mask(save(tmp_path / "m.png", RGB, mode))


def test_lossy_masks_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"m\.jpg is a JPEG.*save it as PNG"):
        read_mask(save(tmp_path / "m.jpg", RGB[..., 0]))


@pytest.mark.parametrize("place", ["none", "before", "behind", "text before", "text behind"])
def test_the_size_of_a_png_is_found_without_reading_its_pixels(tmp_path, place):
    """Tags that turn it may stand before or behind them."""
    noise = np.random.default_rng(0).integers(0, 255, (600, 400, 3), dtype=np.uint8)
    whole = save(tmp_path / "plain.png", noise).read_bytes()
    head, pixels, end = whole[:33], whole[33:-12], whole[-12:]
    exif = Image.Exif()
    exif[274] = 6
    tag = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    if "text" in place:
        tag = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>')
    parts = {"none": (), "before": (tag, pixels), "behind": (pixels, tag)}[place.removeprefix("text ")]
    (tmp_path / "x.png").write_bytes(b"".join((head, *(parts or (pixels,)), end)))
    read, real = [], os.pread

    def counted(*arguments):
        read.append(len(real(*arguments)))
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", counted)
        size = image_size(tmp_path / "x.png")
    assert size == read_image(tmp_path / "x.png").shape[:2] == ((600, 400) if place == "none" else (400, 600))
    assert 0 < sum(read) < 2000


def test_postscript_is_not_handed_to_ghostscript(tmp_path, monkeypatch):
    tools, canary = tmp_path / "tools", tmp_path / "canary"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {canary}\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ValueError, match="is no picture that can be read"):
        read_image(path)
    assert not canary.exists()


def test_what_follows_a_png_is_not_searched_for_tags(tmp_path, monkeypatch):
    path, reads, pread = save(tmp_path / "a.png", RGB), [], os.pread
    os.truncate(path, 12_000_000)  # zeros, as a download that was given its room leaves
    monkeypatch.setattr(os, "pread", lambda *words: reads.append(words) or pread(*words))
    assert image_size(path) == (4, 6) and len(reads) < 10
