import math
import sys
from subprocess import run

import numpy as np
import pytest
import torch

from tercet.data.augmentation import augment, draw
from tercet.data.options import Augmentation
from tercet.errors import InputError

NOTHING = Augmentation(False, 0, 0, 0, 0, 0, 0)
EVERYTHING = Augmentation(True, 30, 0.3, 0.2, 0.5, 0.5, 0.5)


def only(**settings):
    return Augmentation(**{**dict.fromkeys(vars(NOTHING), 0), "mirror": False, **settings})


def images(count=5, channels=3, height=13, width=19, seed=0):
    shape = (count, channels, height, width)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def augmented(batch, settings, seed=0, step=0):
    return augment(batch, draw(settings, len(batch), seed, step), settings)


def test_a_row_depends_on_seed_step_and_its_place_alone():
    many = draw(EVERYTHING, 64, seed=3, step=7)
    assert torch.equal(many[:5], draw(EVERYTHING, 5, seed=3, step=7))
    assert not torch.equal(many[:5], draw(EVERYTHING, 5, seed=3, step=8))
    assert not torch.equal(many[:5], draw(EVERYTHING, 5, seed=4, step=7))
    assert len({tuple(row.tolist()) for row in many}) == 64


def test_chunks_give_the_same_images():
    batch = images(7)
    changes = draw(EVERYTHING, 7, 1, 2)
    whole = augment(batch, changes, EVERYTHING)
    parts = torch.cat([augment(batch[s], changes[s], EVERYTHING) for s in (slice(0, 3), slice(3, 7))])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_zero_settings_are_the_identity():
    batch = images()
    assert torch.equal(augmented(batch, NOTHING), batch.float() / 255)
    floats = batch.float() / 255
    assert torch.equal(augmented(floats, NOTHING), floats)


def test_the_result_is_float32_in_the_unit_interval():
    batch = images(40)
    result = augmented(batch, EVERYTHING)
    assert result.dtype == torch.float32
    assert result.shape == batch.shape
    assert 0 <= result.min() < result.max() <= 1
    assert not torch.equal(result, batch.float() / 255)


def test_half_are_mirrored_left_to_right_and_none_upside_down():
    batch = images(400, 1, 3, 5)
    result, plain = augmented(batch, only(mirror=True)), batch.float() / 255
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(result, plain, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(result, plain, strict=True)])
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250


def dot(height, width, row, column):
    image = torch.zeros(1, 1, height, width)
    image[0, 0, row, column] = 1
    return image


def place_of(image):
    """Centre of the light (row, column)."""
    rows = torch.arange(image.shape[-2], dtype=torch.float32)
    columns = torch.arange(image.shape[-1], dtype=torch.float32)
    weight = image[0, 0] / image.sum()
    return float((weight.sum(1) * rows).sum()), float((weight.sum(0) * columns).sum())


def changes(**values):
    row = draw(NOTHING, 1, 0, 0)
    for column, value in values.items():
        row[0, {"angle": 1, "zoom": 2, "right": 3, "down": 4}[column]] = value
    return row


def test_a_shift_is_a_share_of_the_side():
    moved = augment(dot(20, 41, 9, 20), changes(right=0.2439, down=-0.25), only(shift=0.3))
    assert place_of(moved) == pytest.approx((4, 30), abs=0.05)


def test_enlarging_moves_away_from_the_centre():
    image = torch.nn.functional.avg_pool2d(dot(41, 41, 20, 30), 3, 1, 1)
    moved = augment(image, changes(zoom=1.5), only(scale=0.5))
    assert place_of(moved) == pytest.approx((20, 35), abs=0.2)


def test_a_turn_keeps_proportions_in_an_oblong_image():
    """Ten pixels right of the centre is, turned by 90 degrees, ten pixels above or below it."""
    image = torch.nn.functional.avg_pool2d(dot(61, 31, 30, 25), 3, 1, 1)
    moved = augment(image, changes(angle=math.pi / 2), only(rotation_degrees=90))
    row, column = place_of(moved)
    assert column == pytest.approx(15, abs=0.1)
    assert abs(row - 30) == pytest.approx(10, abs=0.1)


def test_what_comes_in_from_outside_repeats_the_border():
    batch = torch.full((6, 1, 9, 9), 77, dtype=torch.uint8)
    torch.testing.assert_close(augmented(batch, only(shift=0.5, rotation_degrees=45)), batch.float() / 255)


def test_brightness_and_contrast():
    batch = images(8)
    plain = batch.float() / 255
    lit = augmented(batch, only(brightness=0.4))
    factors = draw(only(brightness=0.4), 8, 0, 0)[:, 5]
    assert 0.6 <= factors.min() < 1 < factors.max() <= 1.4
    for image, result, factor in zip(plain, lit, factors, strict=True):
        torch.testing.assert_close(result, (image * factor).clamp(0, 1))
    sharper = augmented(batch, only(contrast=0.4))
    factors = draw(only(contrast=0.4), 8, 0, 0)[:, 6]
    for image, result, factor in zip(plain, sharper, factors, strict=True):
        torch.testing.assert_close(result, (image.mean() + (image - image.mean()) * factor).clamp(0, 1))


def test_erasing_replaces_a_rectangle_by_the_mean():
    batch = images(200, 2, 40, 30)
    plain, result = batch.float() / 255, augmented(batch, only(erase=0.5))
    touched = [i for i in range(200) if not torch.equal(plain[i], result[i])]
    assert 70 < len(touched) < 130
    for i in touched:
        changed = (plain[i] != result[i]).any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        box = result[i][:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        torch.testing.assert_close(box, plain[i].mean().expand_as(box))
        assert 0.01 < box[0].numel() / 1200 < 0.25


def test_settings_are_checked():
    with pytest.raises(InputError) as caught:
        Augmentation(scale=-0.1)
    assert str(caught.value) == "scale is -0.1; allowed is a number from 0 to 1."
    with pytest.raises(InputError, match=r"rotation_degrees is 180; allowed is a number from 0 to 90"):
        Augmentation(rotation_degrees=180)
    with pytest.raises(InputError, match=r"erase is nan"):
        Augmentation(erase=math.nan)


@pytest.mark.parametrize("module", ["tercet.data.options", "tercet.encoders.options"])
def test_settings_are_read_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
