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


# Stronger changes, for views


def test_further_changes_leave_the_draws_of_the_others_alone():
    stronger = Augmentation(
        **{**vars(EVERYTHING), "crop": 0.8, "hue": 0.2, "grey": 0.2, "saturation": 0.3, "blur": 0.5}
    )
    assert torch.equal(draw(EVERYTHING, 9, 1, 2)[:, :12], draw(stronger, 9, 1, 2)[:, :12])
    assert not torch.equal(draw(EVERYTHING, 9, 1, 2)[:, 12:], draw(stronger, 9, 1, 2)[:, 12:])
    whole = draw(stronger, 9, 1, 2)
    assert torch.equal(whole[:4], draw(stronger, 4, 1, 2))


def test_a_crop_is_a_rectangle_of_the_image_enlarged():
    """Of an image whose values are its coordinates, the corners tell the rectangle."""
    height, width = 40, 60
    rows = (torch.arange(height) + 0.5)[:, None].expand(height, width) / height
    columns = (torch.arange(width) + 0.5)[None].expand(height, width) / width
    batch = torch.stack([rows, columns])[None].expand(300, 2, height, width).float()
    found = augmented(batch, only(crop=0.75))
    tall = (found[:, 0, -1, 0] - found[:, 0, 0, 0]) * height / (height - 1)
    wide = (found[:, 1, 0, -1] - found[:, 1, 0, 0]) * width / (width - 1)
    area, aspect = tall * wide, wide / tall
    assert 0.24 < area.min() < 0.3
    assert 0.9 < area.max() <= 1.001
    assert 0.74 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.34
    assert found.min() >= 0.5 / height * 0.5
    middle = found[:, 0].mean((1, 2))
    assert middle.min() < 0.3
    assert middle.max() > 0.7
    linear = found[0, 0, :, 0].diff()
    torch.testing.assert_close(linear, linear.mean().expand_as(linear), rtol=1e-3, atol=1e-5)


def test_a_crop_is_taken_of_what_was_moved():
    image = torch.nn.functional.avg_pool2d(dot(41, 41, 20, 26), 3, 1, 1)
    row = draw(NOTHING, 1, 0, 0)
    row[0, 2] = 1.5  # enlarged: 6 pixels to the right become 9
    row[0, 12:16] = torch.tensor(
        [0.5, 0.5, 0.25, 0.0]
    )  # a crop of half the side, whose centre is a quarter further right
    expected = 20 + (9 / 41 * 2 - 0.25) / 0.5 * 41 / 2
    assert place_of(augment(image, row, only(crop=0.5, scale=0.5))) == pytest.approx((20, expected), abs=0.3)


def light(image):
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def test_saturation_moves_colours_from_grey():
    batch = images(30)
    plain, result = batch.float() / 255, augmented(batch, only(saturation=0.7))
    factors = draw(only(saturation=0.7), 30, 0, 0)[:, 16]
    assert 0.3 <= factors.min() < 0.5
    assert 1.5 < factors.max() <= 1.7
    for image, changed, factor in zip(plain, result, factors, strict=True):
        torch.testing.assert_close(changed, (light(image) + (image - light(image)) * factor).clamp(0, 1))


def test_grey_images_are_as_light_as_before():
    batch = images(200)
    plain, result = batch.float() / 255, augmented(batch, only(grey=0.3))
    grey = [i for i in range(200) if (plain[i] - result[i]).abs().max() > 1e-5]
    assert 40 < len(grey) < 85
    for i in grey:
        torch.testing.assert_close(result[i], light(plain[i]).expand(3, -1, -1))


def test_a_turn_of_hue_by_a_third_of_the_circle_swaps_the_channels():
    from tercet.data.colour import coloured

    plain = images(2).float() / 255
    third = torch.full((2,), 2 * math.pi / 3)
    found = coloured(plain, torch.ones(2), third, torch.zeros(2))
    torch.testing.assert_close(found, plain[:, [2, 0, 1]])


def test_hue_keeps_greys_and_the_mean_of_the_channels():
    grey = images(5, 1).expand(5, 3, 13, 19)
    torch.testing.assert_close(augmented(grey, only(hue=0.5)), grey.float() / 255)
    dull = 96 + images(20) // 4  # far enough from black and white to be turned without being cut off
    plain, result = dull.float() / 255, augmented(dull, only(hue=0.1))
    assert (plain - result).abs().amax((1, 2, 3)).median() > 0.02
    torch.testing.assert_close(result.mean(1), plain.mean(1), rtol=0, atol=1e-5)
    angles = draw(only(hue=0.1), 200, 0, 0)[:, 17]
    assert 0.17 * math.pi < angles.max() <= 0.2 * math.pi
    assert angles.min() < -0.17 * math.pi


def test_images_of_one_channel_have_no_colour_to_change():
    batch = images(6, 1)
    assert torch.equal(augmented(batch, only(saturation=0.5, hue=0.5, grey=0.5)), batch.float() / 255)


def test_blur_is_a_gaussian_of_at_most_a_hundredth_of_the_side():
    point = dot(101, 101, 50, 50).expand(300, 1, 101, 101)
    result = augmented(point, only(blur=0.5))
    changes_drawn = draw(only(blur=0.5), 300, 0, 0)
    blurred = changes_drawn[:, 19] > 0
    assert 120 < blurred.sum() < 180
    assert torch.equal(result[~blurred], point[~blurred])
    places = torch.arange(101) - 50.0
    for image, share in list(zip(result[blurred], changes_drawn[blurred, 20], strict=True))[:20]:
        assert 0 <= share <= 0.01
        assert float(image.sum()) == pytest.approx(1, abs=1e-4)
        weights = torch.exp(-0.5 * (places / (float(share) * 101)) ** 2)
        weights /= weights.sum()
        torch.testing.assert_close(image[0], weights[:, None] * weights, rtol=0, atol=3e-3)


def test_limits_of_the_further_changes():
    with pytest.raises(InputError, match=r"hue is 0\.6; allowed is a number from 0 to 0\.5\."):
        Augmentation(hue=0.6)
    with pytest.raises(InputError, match=r"crop is 1\.0; allowed is a number from 0 to 0\.95\."):
        Augmentation(crop=1.0)
    assert NOTHING.changes_nothing
    assert not only(blur=0.1).changes_nothing
