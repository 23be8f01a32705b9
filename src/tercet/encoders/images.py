"""Encoders of images: a small convolutional network from scratch, and pretrained ones (transformers, timm).

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tercet.encoders.base import Backbone, Encoder, make_head
from tercet.encoders.options import ImageOptions
from tercet.encoders.pretrained import load_config, load_model
from tercet.encoders.residual import GROUPS, residual_layers
from tercet.errors import InputError, require

FAINT = 0.05  # added to a deviation: an image of one grey has none, and its noise must not be blown up


class ImageNetwork(Encoder):
    """A small convolutional network with group normalisation, for small images and small data.

    Takes images of any size, uint8 or floats in [0, 1], of shape (B, C, H, W), each standardised by itself, so that
    exposure does not matter. Three convolutions, or residual blocks at three sizes, to an eighth of the size; the last
    maps are averaged over a grid of parts, and the head sees the parts side by side. That keeps where things are, which
    tells aligned images (faces, icons, products, signatures) apart far better than one average over all; `grid=1` is
    that average. With `symmetric` the features of an image and of its mirror image are averaged: both have the same
    embedding.
    """

    def __init__(self, options: ImageOptions) -> None:
        super().__init__(options.normalize)
        assert options.channels is not None
        assert options.size is not None
        self.channels = options.channels
        self.grid = _grid(options.size, options.grid)
        self.symmetric = options.symmetric
        if options.network == "residual":
            self.layers = residual_layers(options.channels, options.width, options.depth)
        else:
            self.layers = _plain_layers(options.channels, options.width)
        features = 4 * options.width * self.grid[0] * self.grid[1]
        self.head = make_head(options.head, features, options.dim)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Embeddings before normalisation."""
        pixels = as_pixels(batch, self.channels)
        deviation, mean = torch.std_mean(pixels, dim=(1, 2, 3), keepdim=True)
        standard = (pixels - mean) / (deviation + FAINT)
        features = self._features(standard)
        if self.symmetric:
            features = (features + self._features(standard.flip(3))) / 2
        return self.head(features)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """The parts of the last maps side by side, of shape (B, F)."""
        return F.adaptive_avg_pool2d(self.layers(images), self.grid).flatten(1)


def _plain_layers(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, stride=2, padding=2),
        nn.GroupNorm(GROUPS, width),
        nn.ReLU(),
        *_halving(width, 2 * width),
        *_halving(2 * width, 4 * width),
    )


def _halving(inside: int, outside: int) -> list[nn.Module]:
    """A convolution, and half the size."""
    return [
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.GroupNorm(GROUPS, outside),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),  # an image of 8 pixels still leaves a map of 1
    ]


def _grid(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Parts in height and width: `longer` on the longer side, and parts about as high as they are wide."""
    height, width = size
    if height >= width:
        return longer, max(1, round(longer * width / height))
    return max(1, round(longer * height / width)), longer


def as_pixels(batch: torch.Tensor, channels: int) -> torch.Tensor:
    """Images as float32 in [0, 1].

    Raises:
        InputError: the shape is not (B, channels, H, W).
    """
    if batch.ndim != 4 or batch.shape[1] != channels:
        raise InputError(f"Images of shape {tuple(batch.shape)} were given; this encoder takes (B, {channels}, H, W).")
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()


class PretrainedImages(Encoder):
    """A pretrained vision network, its pooled output, and a head."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, options: ImageOptions, assets: dict[str, Any], network: nn.Module, config: Any = None) -> None:
        super().__init__(options.normalize)
        assert options.channels is not None
        assert options.size is not None
        self.channels, self.config = options.channels, config
        self.backbone = Backbone(network, options.frozen)
        self.register_buffer("mean", torch.tensor(assets["mean"]).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(assets["std"]).view(1, -1, 1, 1))
        self.head = make_head(options.head, self._count_features(options.size), options.dim)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Embeddings before normalisation."""
        return self.head(self._pooled(as_pixels(batch, self.channels)))

    def save_assets(self, folder: Path) -> None:
        """Write the network's configuration (transformers)."""
        if self.config is not None:
            self.config.save_pretrained(folder)

    def _pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = (pixels - self.mean) / self.deviation
        if self.config is None:
            return self.backbone(pixels)
        output = self.backbone(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)

    def _count_features(self, size: tuple[int, int]) -> int:
        """F, found by an image through the network, whose objections are about the size or the model."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self._pooled(torch.zeros(1, self.channels, *size)).shape[1]
        except (ValueError, RuntimeError, TypeError, AttributeError) as cause:
            raise InputError(
                f"The pretrained network does not take images of {size[0]} x {size[1]} pixels with "
                f"{self.channels} channels: {cause}"
            ) from None
        finally:
            self.train(training)


def timm_name(weights: str) -> tuple[str, str]:
    """Name and file of timm:NAME@FILE.

    Raises:
        InputError: the file is not named, or not there.
    """
    name, _, file = weights.removeprefix("timm:").partition("@")
    if not name or not file:
        raise InputError(f"weights is {weights!r}; allowed is timm:NAME@FILE, with a .safetensors file of its weights.")
    return name, file


def describe_pretrained(
    options: ImageOptions, folder: Path | None = None
) -> tuple[tuple[int, int], int, dict[str, Any]]:
    """Size, channels, and mean and deviation of the pixels, as pretrained weights say."""
    assert options.weights is not None
    if options.weights.startswith("timm:"):
        return _describe_timm(options.weights)
    config = load_config(options.weights)
    path = Path(options.weights) / "preprocessor_config.json"
    if not path.is_file():
        raise InputError(f"{options.weights} has no preprocessor_config.json, which says how pixels are scaled.")
    said = json.loads(path.read_text(encoding="utf-8"))
    size = getattr(config, "image_size", None) or _side(said.get("crop_size") or said.get("size"))
    channels = getattr(config, "num_channels", 3)
    plain = not said.get("do_normalize", True)
    mean = [0.0] * channels if plain else said["image_mean"]
    std = [1.0] * channels if plain else said["image_std"]
    pair = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return pair, channels, {"mean": list(mean), "std": list(std)}


def _side(said: Any) -> int | Sequence[int]:
    """The size in a preprocessor's configuration: a number, {"height", "width"} or {"shortest_edge"}."""
    if isinstance(said, dict):
        return (said["height"], said["width"]) if "height" in said else int(said["shortest_edge"])
    return 224 if said is None else said


def _describe_timm(weights: str) -> tuple[tuple[int, int], int, dict[str, Any]]:
    name, _ = timm_name(weights)
    said = require("timm", "timm").create_model(name, pretrained=False, num_classes=0).pretrained_cfg
    channels, height, width = said["input_size"]
    return (height, width), channels, {"mean": list(said["mean"]), "std": list(said["std"])}


def build_images(options: ImageOptions, assets: dict[str, Any], folder: Path | None) -> Encoder:
    """The encoder of images; from `folder` without the pretrained weights, otherwise with them."""
    if options.weights is None:
        return ImageNetwork(options)
    if not options.weights.startswith("timm:"):
        network, config = load_model(options.weights, folder)
        return PretrainedImages(options, assets, network, config)
    name, file = timm_name(options.weights)
    network = require("timm", "timm").create_model(name, pretrained=False, num_classes=0)
    if folder is None:
        _load_timm(network, file)
    return PretrainedImages(options, assets, network)


def _load_timm(network: nn.Module, file: str) -> None:
    from safetensors.torch import load_file

    if not Path(file).is_file() or not file.endswith(".safetensors"):
        raise InputError(f"{file} is not a .safetensors file of weights.")
    own = network.state_dict()
    held = {name: value for name, value in load_file(file).items() if name in own}
    missing = sorted(set(own) - set(held))
    if missing:
        raise InputError(f"{file} lacks {len(missing)} of the network's weights, such as {missing[0]}.")
    network.load_state_dict(held)
