"""Images as they come: of every mode, damaged in every way, and things that are no images at all."""

import io
import json
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from conftest import QUICK_FLAGS, write_images
from tercet.data.images import ImageCache, decode
from tercet.errors import DataError

RED = (255, 0, 0)


def noise(height=24, width=20, channels=3):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8))


def encoded(form, image=None, **options):
    held = io.BytesIO()
    (image or noise()).save(held, form, **options)
    return held.getvalue()


def png_of(header, pixels):
    """A PNG by hand, for depths that Pillow does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = (b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


def sideways():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def palette_with_alpha():
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return encoded("PNG", image, transparency=b"\x00\xff")


GOOD = {
    "grey with alpha": (encoded("PNG", Image.new("LA", (6, 6), (0, 0))), (255, 255, 255)),
    "palette with alpha": (palette_with_alpha(), RED),
    "palette and alpha apart": (encoded("TIFF", Image.new("PA", (6, 6))), (255, 255, 255)),
    "a colour that is transparent": (encoded("PNG", Image.new("RGB", (6, 6), RED), transparency=RED), (255, 255, 255)),
    "CMYK as Adobe inverts it": (encoded("JPEG", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=100), RED),
    "CMYK": (encoded("TIFF", Image.new("CMYK", (6, 6), (0, 255, 255, 0))), RED),
    "16 bits a colour": (png_of((4, 4, 16, 2), b"".join(b"\0" + b"\xff\xff\0\0\0\0" * 4 for _ in range(4))), RED),
    "a single pixel": (encoded("PNG", Image.new("RGB", (1, 1), RED)), RED),
    "a line": (encoded("PNG", Image.new("RGB", (1, 3000), RED)), RED),
    "one bit a pixel": (encoded("PNG", Image.new("1", (6, 6), 1)), (255, 255, 255)),
    "a GIF by the name of a PNG": (encoded("GIF", Image.new("RGB", (6, 6), RED)), RED),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_images_of_every_mode(tmp_path, name):
    content, colour = GOOD[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    found = decode(str(path), (8, 8)).astype(int)
    assert np.abs(found - np.array(colour)[:, None, None]).max() <= 2


def test_a_sideways_cmyk_photograph_is_turned(tmp_path):
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    image.paste((0, 0, 0, 0), (8, 0, 16, 8))
    path = tmp_path / "a.jpg"
    image.save(path, exif=sideways(), quality=100)
    found = decode(str(path), (16, 8))
    assert found[1, 2, 4] < 60  # red above
    assert found[1, 13, 4] > 200


def test_an_animation_whose_second_frame_is_broken(tmp_path):
    whole = encoded("GIF", Image.new("RGB", (24, 24), RED), save_all=True, append_images=[noise(24, 24)])
    (tmp_path / "a.gif").write_bytes(whole[: len(whole) - 300])
    assert decode(str(tmp_path / "a.gif"), (8, 8))[:, 4, 4].tolist() == list(RED)


def text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 70_000_000, zip=True)
    return encoded("PNG", pnginfo=info)


BAD = {
    "an empty file": (b"", "the file is empty"),
    "a text that fills the memory": (text_bomb(), "too large"),
    "pixels that fill the memory": (png_of((20_000, 20_000, 8, 2), b"\0" * 99), "decompression bomb|more than the"),
    "an image that is only claimed": (png_of((64, 64, 8, 2), b"\0" * 99), "truncated|broken|not enough"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n", "not an image"),
    "a web page": (b"<html></html>", "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_images(tmp_path, name):
    content, reason = BAD[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=rf"a.png: .*({reason})"):
            decode(str(path), (8, 8))


def test_things_that_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.symlink(tmp_path / "loop.png", tmp_path / "loop.png")
    os.symlink(tmp_path / "nothing", tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {"folder": "a folder", "loop": "Too many levels", "gone": "No such file", "pipe": "a pipe or a device"}
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=f"{name}.png: .*{reason}"):
            decode(str(tmp_path / f"{name}.png"), (8, 8))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))

    def refused(*args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(DataError) as caught:
        decode(str(path), (8, 8))
    assert str(caught.value) == f"{path}: Permission denied"


def mutated(number):
    """A valid image of one of eight types with some of its bytes changed, cut, doubled or taken out."""
    form = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA")[number % 8]
    content = bytearray(encoded(form))
    draw = np.random.default_rng([9, number])
    start = int(draw.integers(0, len(content)))
    match number // 8 % 4:
        case 0:
            content[start : start + 8] = draw.bytes(len(content[start : start + 8]))
        case 1:
            del content[start:]
        case 2:
            content[start:start] = content[start : start + 40]
        case 3:
            del content[start : start + 20]
    return bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, of damaged tags
def test_a_hundred_malformed_images_are_each_decoded_or_counted(tmp_path, command):
    folder = write_images(tmp_path / "images", range(6))
    kinds = [f"class{i:02d}" for i in range(6)]
    for number in range(100):
        (folder / kinds[number % 6] / f"bad{number}.png").write_bytes(mutated(number))
    paths = sorted(str(path) for path in folder.rglob("bad*.png"))
    bad = ImageCache(paths, (8, 8)).check()
    assert 20 < len(bad) < 100
    assert all(reason for _, reason in bad)
    done = command("train", folder, "--out", tmp_path / "run", "--holdout-by", "row", *QUICK_FLAGS)
    assert done.code == 0, done.err
    assert "cannot be read and are skipped" in done.err
    out = tmp_path / "embedded.parquet"
    embedded = command("embed", tmp_path / "run", folder, "--out", out, "--json")
    assert embedded.code == 0
    said = json.loads(embedded.out)
    assert said["items"] == 36 + 100 - len(bad)
    assert len(said["skipped"]) == len(bad)
    assert all(one["reason"] for one in said["skipped"])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "PPM"]), st.integers(0, 400))
def test_any_bytes_are_an_image_or_an_error_in_words(tmp_path_factory, given_bytes, form, start):
    content = encoded(form)
    path = tmp_path_factory.mktemp("bytes") / "a.png"
    path.write_bytes(content[:start] + given_bytes + content[start + len(given_bytes) :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (_, reason), *_ = [*ImageCache([str(path)], (8, 8)).check(), (0, "")]
        if reason:
            with pytest.raises(DataError, match=r"a.png: "):
                decode(str(path), (8, 8))
        else:
            assert decode(str(path), (8, 8)).shape == (3, 8, 8)
