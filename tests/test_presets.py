"""Presets of augmentation, and the residual network: choices for images of different kinds."""

import tomllib

import pytest
import torch

import tercet
from conftest import QUICK, QUICK_FLAGS
from tercet.cli.console import parse
from tercet.cli.train import Train, _defaults
from tercet.data.augmentation import augment, draw
from tercet.data.options import COLOURS, PRESETS, Augmentation, preset
from tercet.encoders.images import ImageNetwork
from tercet.encoders.options import ImageOptions
from tercet.encoders.residual import ResidualBlock
from tercet.errors import InputError
from tercet.training.request import Request, make_request


def written(run):
    return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["augmentation"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(3, 20, 32), (1, 33, 17), (3, 8, 8)])
def test_a_preset_augments_images_of_any_shape(name, shape):
    settings = preset(name)
    images = torch.randint(0, 256, (6, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    changed = augment(images, draw(settings, 6, 0, 0), settings)
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(changed, images.float() / 255) == (name == "none") == settings.changes_nothing


def test_what_is_given_wins():
    assert preset("documents") == Augmentation(
        mirror=False, rotation_degrees=4.0, shift=0.05, contrast=0.3, blur=0.2
    )  # fmt: skip
    assert preset("documents", mirror=True, blur=0.0).mirror
    with pytest.raises(InputError, match=r"augmentation.preset is 'document'; .* Did you mean 'documents'"):
        preset("document")


def test_writing_is_not_mirrored():
    assert not preset("documents").mirror
    assert not preset("icons").mirror


def test_a_preset_on_the_command_line(command, images, tmp_path):
    words = ["train", images, *QUICK_FLAGS, "--out"]
    done = command(*words, tmp_path / "a", "--augmentation.preset", "products", "--augmentation.shift", "0.08",
                   "--augmentation.mirror")  # fmt: skip
    assert done.code == 0, done.err
    found = written(tmp_path / "a")
    assert "preset" not in found
    assert (found["shift"], found["crop"], found["scale"], found["mirror"]) == (0.08, 0.4, 0.2, True)
    assert found["saturation"] == 0  # the images are grey
    words_again = ["--config", str(tmp_path / "a" / "config.toml"), "--augmentation.preset=none", "--out", "b"]
    assert parse(Train, words_again, default=_defaults(words_again)).augmentation == preset("none")
    wrong = command(*words, tmp_path / "c", "--augmentation.preset", "signatures")
    assert wrong.code == 2
    assert "signatures" in wrong.err
    asked = command(*words, tmp_path / "d", "--augmentation.preset", "products", "--augmentation.saturation", "0.3")
    assert asked.code == 2
    assert "saturation would do nothing" in asked.err


def test_a_preset_from_python_and_from_a_file(images, texts, tmp_path):
    request = make_request(Request(str(images)), augmentation="documents")
    assert (request.augmentation, request.preset) == (preset("documents"), "documents")
    (tmp_path / "own.toml").write_text('[augmentation]\npreset = "icons"\nshift = 0.02\n', encoding="utf-8")
    run = tercet.train(str(images), out=tmp_path / "b", config=tmp_path / "own.toml", progress=False, **QUICK)
    assert run.config.augmentation == preset("icons", shift=0.02)
    with pytest.raises(InputError, match=r"options for image augmentation were given, and the data is text"):
        tercet.train(str(texts), out=tmp_path / "c", augmentation="none", progress=False, **QUICK)
    colours = preset("photographs")
    assert any(getattr(colours, name) for name in COLOURS)


def residual(**options):
    return ImageNetwork(ImageOptions(size=(32, 24), channels=1, network="residual", **options))


def images_of(count=3, height=32, width=24):
    return torch.randint(0, 256, (count, 1, height, width), generator=torch.Generator().manual_seed(1))


def test_a_block_starts_as_the_identity_and_then_adds():
    block = ResidualBlock(8)
    maps = torch.randn(2, 8, 5, 4)
    assert torch.equal(block(maps), maps)
    torch.nn.init.normal_(block.added[-1].weight)
    assert not torch.equal(block(maps), maps)


def test_depth_adds_blocks_and_width_channels():
    blocks = [sum(isinstance(layer, ResidualBlock) for layer in residual(depth=d).layers) for d in (1, 2, 3)]
    assert blocks == [3, 6, 9]
    sizes = [sum(p.numel() for p in residual(width=w, depth=d).parameters()) for w, d in ((16, 1), (24, 1), (24, 2))]
    assert sizes == sorted(sizes)
    assert sizes[-1] < 1_000_000


def test_images_do_not_see_their_batch_and_may_have_any_size():
    encoder = residual().eval()
    torch.nn.init.normal_(encoder.layers[1].added[-1].weight, std=0.1)
    images = images_of()
    torch.testing.assert_close(encoder(images)[:1], encoder(images[:1]), atol=1e-5, rtol=1e-4)
    assert encoder(images_of(2, 9, 70)).shape == (2, 128)


def test_the_residual_network_trains_and_is_rebuilt(images, tmp_path):
    options = ImageOptions(network="residual", depth=2)
    run = tercet.train(str(images), out=tmp_path / "run", encoder=options, progress=False, **QUICK)
    again = tercet.load(tmp_path / "run")
    assert again.config.encoder.depth == 2
    some = [str(path) for path in sorted(images.rglob("*.png"))[:3]]
    assert (again.embed(some) == run.embed(some)).all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"depth": 2}, "depth is 2, but it belongs to network='residual'"),
        ({"network": "residul"}, "Did you mean 'residual'"),
        ({"network": "residual", "depth": 0}, "depth is 0"),
        ({"network": "residual", "weights": "folder"}, "network is set, but it is of the network from scratch"),
    ],
)
def test_options_that_do_nothing_are_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        ImageOptions(**options)
