import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from tercet.data.images import ImageCache, decode, describe_images
from tercet.data.loaders import make_loader
from tercet.encoders.options import ImageOptions
from tercet.errors import DataError, InputError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def noise(height, width, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(tmp_path, name, image, **options):
    path = tmp_path / name
    image.save(path, **options)
    return str(path)


def halves(width=16, height=8):
    """Left red, right blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def test_shape_layout_and_type(tmp_path):
    pixels = noise(7, 5)
    path = saved(tmp_path, "a.png", Image.fromarray(pixels))
    decoded = decode(path, (7, 5))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(decode(Image.open(path), (7, 5)), decoded)
    np.testing.assert_array_equal(decode(pixels, (7, 5)), decoded)
    grey = noise(7, 5, 1)
    np.testing.assert_array_equal(decode(grey, (7, 5), channels=1)[0], grey)
    np.testing.assert_array_equal(decode(grey[..., None], (7, 5), channels=3), np.stack([grey] * 3))


def test_fits():
    image = halves(16, 8)
    crop = decode(image, (8, 8), fit="crop")
    assert crop[:, 4, 0].tolist() == list(RED)
    assert crop[:, 4, 7].tolist() == list(BLUE)
    pad = decode(image, (16, 16), fit="pad")
    assert pad[:, 0, 8].tolist() == [0, 0, 0]
    assert pad[:, 8, 0].tolist() == list(RED)
    stretched = decode(image, (16, 4), fit="stretch")
    assert stretched[:, 0, 0].tolist() == list(RED)
    assert stretched[:, 15, 3].tolist() == list(BLUE)
    wide = Image.new("RGB", (30, 10), WHITE)
    wide.paste(RED, (0, 0, 8, 10))
    assert (decode(wide, (10, 10), fit="crop") == 255).all()  # the centre alone
    with pytest.raises(InputError, match=r"fit is 'cut'; allowed are 'crop', 'pad', 'stretch'"):
        decode(image, (8, 8), fit="cut")


@pytest.mark.parametrize(
    ("orientation", "corner"),  # where the stored top left pixel belongs
    [
        (1, (0, 0)),
        (2, (0, -1)),
        (3, (-1, -1)),
        (4, (-1, 0)),
        (5, (0, 0)),
        (6, (0, -1)),
        (7, (-1, -1)),
        (8, (-1, 0)),
    ],
)
def test_images_are_turned_upright(tmp_path, orientation, corner):
    image = Image.new("RGB", (12, 6), WHITE)
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, "a.png", image, exif=exif)
    size = (12, 6) if orientation >= 5 else (6, 12)
    assert decode(path, size)[(slice(None), *corner)].tolist() == list(RED)


def test_transparency_is_over_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    for path in (
        saved(tmp_path, "a.png", image),
        saved(tmp_path, "b.webp", image, lossless=True),
        saved(tmp_path, "c.png", image.quantize(4)),
    ):
        decoded = decode(path, (8, 8))
        assert decoded[:, 4, 1].tolist() == list(RED), path
        assert decoded[:, 4, 6].tolist() == list(WHITE), path
    half = Image.new("LA", (4, 4), (0, 128))
    assert decode(saved(tmp_path, "d.png", half), (4, 4), channels=1)[0, 0, 0] == 127
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert decode(saved(tmp_path, "e.gif", palette), (4, 4))[:, 0, 0].tolist() == list(RED)
    through = saved(tmp_path, "f.png", palette, transparency=1)
    assert decode(through, (4, 4))[:, 0, 0].tolist() == list(WHITE)


def test_other_modes(tmp_path):
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = decode(saved(tmp_path, "a.jpg", cmyk), (8, 8))[:, 4, 4]
    assert red[0] > 200
    assert red[1:].max() < 60
    deep = Image.fromarray(np.array([[0, 257 * 100], [65535, 257 * 7]], dtype=np.uint16))
    for name in ("b.png", "b.tif"):
        np.testing.assert_array_equal(decode(saved(tmp_path, name, deep), (2, 2), 1)[0], [[0, 100], [255, 7]])
    bits = Image.fromarray(np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(decode(saved(tmp_path, "c.png", bits), (2, 2), 1)[0], [[255, 0], [0, 255]])
    floats = Image.fromarray(np.array([[0, 0.2], [1, 0.6]], dtype=np.float32))
    np.testing.assert_array_equal(decode(saved(tmp_path, "d.tif", floats), (2, 2), 1)[0], [[0, 51], [255, 153]])
    path = saved(tmp_path, "e.tif", Image.fromarray(np.array([[-1, 300]], dtype=np.float32)))
    with pytest.raises(DataError, match=r"values from -1 to 300 in mode F; allowed are 0 to 1"):
        decode(path, (1, 2))


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    path = saved(tmp_path, "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode(path, (8, 8))[:, 4, 4].tolist() == list(RED)


def test_a_large_jpeg_is_decoded_alike_at_a_fraction(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 900)[None, :], (600, 900)).astype(np.uint8)
    path = saved(tmp_path, "a.jpg", Image.fromarray(ramp), quality=95)
    whole = decode(Image.open(path).copy(), (24, 32), 1).astype(int)
    assert np.abs(decode(path, (24, 32), 1).astype(int) - whole).max() <= 3


def damaged(tmp_path):
    """(name, bytes) of files that cannot be decoded as a whole."""
    for ending, form in (("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF"), ("webp", "WEBP"), ("tif", "TIFF")):
        held = io.BytesIO()
        Image.fromarray(noise(64, 64)).save(held, form)
        content = held.getvalue()
        yield f"cut.{ending}", content[: len(content) // 2]
        yield f"head.{ending}", content[:20]
    yield "empty.png", b""
    yield "text.png", b"this is no image"


def test_damaged_files_are_errors_with_path_and_reason(tmp_path):
    for name, content in damaged(tmp_path):
        path = tmp_path / name
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, beside the error
            with pytest.raises(DataError) as caught:
                decode(str(path), (16, 16))
        assert str(caught.value).startswith(f"{path}: "), name
        assert len(str(caught.value)) > len(f"{path}: ") + 5, name
    with pytest.raises(DataError, match=r"No such file"):
        decode(str(tmp_path / "none.png"), (8, 8))
    path = tmp_path / "text.png"
    with pytest.raises(DataError) as caught:
        decode(str(path), (8, 8))
    assert str(caught.value) == f"{path}: not an image, or of a type that Pillow does not read"


def test_images_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, "a.png", Image.new("L", (101, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"101 x 100 pixels are more than the 10,000 that are decoded"):
            decode(path, (8, 8))
    assert decode(saved(tmp_path, "b.png", Image.new("L", (100, 100))), (8, 8)).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((112, 92), (72, 56)),  # the faces
        ((48, 48), (48, 48)),  # never larger than the image
        ((64, 64), (64, 64)),
        ((30, 300), (24, 200)),
        ((9, 11), (16, 16)),  # at least 16
        ((1000, 500), (88, 48)),
    ],
)
def test_the_automatic_size(shape, expected):
    assert describe_images([noise(*shape, 1)] * 3) == (expected, 1)


def test_the_automatic_channels(tmp_path):
    grey = Image.new("RGB", (32, 32), (7, 7, 7))
    assert describe_images([grey, noise(32, 32, 1)])[1] == 1
    assert describe_images([grey] * 9 + [halves(32, 32)])[1] == 3
    broken = str(tmp_path / "none.png")
    assert describe_images([broken, grey]) == ((32, 32), 1)
    with pytest.raises(DataError, match=r"None of the images that were tried can be read: .*none.png: .*No such file"):
        describe_images([broken])


def test_the_median_aspect_counts():
    assert describe_images([noise(80, 40, 1)] * 3 + [noise(40, 400, 1)])[0] == (80, 40)


@pytest.mark.parametrize("budget", [10**9, 0])
def test_the_cache_gives_what_decode_gives(tmp_path, budget):
    paths = [saved(tmp_path, f"{i}.png", Image.fromarray(noise(9, 11, seed=i))) for i in range(7)]
    cache = ImageCache(paths, (8, 10), 3, "stretch", budget)
    assert cache.in_memory == (budget > 0)
    expected = np.stack([decode(paths[i], (8, 10), 3, "stretch") for i in (5, 0, 5)])
    for _ in range(2):
        batch = cache.batch([5, 0, 5])
        assert batch.dtype == torch.uint8
        np.testing.assert_array_equal(batch.numpy(), expected)
    seen = []
    assert cache.check(lambda done, total: seen.append((done, total))) == []
    assert seen == [(i, 7) for i in range(1, 8)]
    batch = cache.batch(np.array([5, 0, 5]))
    np.testing.assert_array_equal(batch.numpy(), expected)
    batch.zero_()  # a batch is a copy
    np.testing.assert_array_equal(cache.batch([5, 0, 5]).numpy(), expected)


@pytest.mark.parametrize("budget", [10**9, 0])
def test_the_cache_finds_bad_images(tmp_path, budget):
    paths = [saved(tmp_path, f"{i}.png", Image.fromarray(noise(9, 11, seed=i))) for i in range(4)]
    (tmp_path / "1.png").write_bytes(b"x")
    cache = ImageCache(paths, (8, 8), 1, budget_bytes=budget)
    assert cache.check() == [(1, "not an image, or of a type that Pillow does not read")]
    assert cache.batch([0, 2, 3]).shape == (3, 1, 8, 8)
    with pytest.raises(DataError, match=r"1.png: not an image"):
        cache.batch([0, 1])


def test_memory_is_used_once_it_is_filled(tmp_path):
    path = saved(tmp_path, "a.png", Image.fromarray(noise(8, 8)))
    kept, read_again = (ImageCache([path], (8, 8), budget_bytes=b) for b in (192, 191))
    assert kept.check() == read_again.check() == []
    (tmp_path / "a.png").unlink()
    assert kept.batch([0]).shape == (1, 3, 8, 8)
    with pytest.raises(DataError):
        read_again.batch([0])


def test_the_loader_of_images():
    items = [noise(20, 20, seed=i) for i in range(3)]
    with pytest.raises(InputError, match=r"complete the options with prepare"):
        make_loader(ImageOptions(), items)
    loader = make_loader(ImageOptions(size=(16, 24), channels=1, fit="pad"), items)
    assert loader.batch([2]).shape == (1, 1, 16, 24)
    np.testing.assert_array_equal(loader.batch([2])[0].numpy(), decode(items[2], (16, 24), 1, "pad"))
