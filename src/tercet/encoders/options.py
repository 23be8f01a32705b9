"""Options of the encoders, as a configuration file or the command line gives them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from tercet.errors import InputError, check_choice

Head = Literal["linear", "mlp", "none"]
INPUTS = ("image", "text", "tabular", "tensor")


def _check_positive(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; allowed is a whole number from 1 up.")


def _check_weights(options: Any, *from_scratch: str) -> None:
    """What is of the network from scratch must be left alone with weights, and the reverse."""
    check_choice("head", options.head, ("linear", "mlp", "none"))
    if options.weights is None:
        if options.frozen:
            raise InputError("frozen is set, but without weights there is nothing pretrained to freeze.")
        if options.head == "none":
            raise InputError("head is 'none', which needs weights: a network from scratch has 'linear' or 'mlp'.")
        return
    defaults = {one.name: one.default for one in fields(options)}
    for name in from_scratch:
        if getattr(options, name) != defaults[name]:
            raise InputError(f"{name} is set, but it is of the network from scratch; with weights it does nothing.")


@dataclass(frozen=True)
class ImageOptions:
    """An encoder of images: a small convolutional network from scratch, or a pretrained one."""

    kind: ClassVar[str] = "image"
    input: ClassVar[str] = "image"

    dim: int = 128
    """Length of an embedding."""
    normalize: bool = True
    """Scale embeddings to length 1."""
    head: Head = "linear"
    """What follows the network: a linear map, an MLP, or (with weights) nothing."""
    weights: str | None = None
    """Folder of a pretrained transformers vision model, or timm:NAME@FILE with a file of its weights."""
    frozen: bool = False
    """Train only the head and leave the pretrained weights as they are."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; otherwise found from the images, or given by the weights."""
    channels: int | None = None
    """1 for grey, 3 for colour; otherwise found from the images, or given by the weights."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How an image of other proportions is fitted: cut off, padded with black, or stretched."""
    network: Literal["plain", "residual"] = "plain"
    """The network from scratch: three convolutions, or residual blocks, which learn more in more time."""
    width: int = 16
    """Channels of the first layer of the network from scratch; the later two have 2 and 4 times as many."""
    depth: int = 1
    """Blocks at each of the three sizes of the residual network."""
    grid: int = 4
    """Parts on the longer side that the network from scratch tells apart; 1 forgets where things are."""
    symmetric: bool = False
    """Embed each image together with its mirror image, so that left and right do not matter (for the network from \
scratch; twice the work). Right for faces, wrong for writing."""

    def __post_init__(self) -> None:
        check_choice("fit", self.fit, ("crop", "pad", "stretch"))
        check_choice("network", self.network, ("plain", "residual"))
        _check_positive(self, "dim", "width", "depth", "grid")
        _check_weights(self, "network", "width", "depth", "grid", "symmetric")
        if self.depth != 1 and self.network == "plain":
            raise InputError(f"depth is {self.depth}, but it belongs to network='residual'; the plain one has none.")
        if self.width % 8:
            raise InputError(f"width is {self.width}; allowed is a multiple of 8.")
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}; allowed are 1 and 3.")
        if self.size is not None and min(self.size) < 8:
            raise InputError(f"size is {self.size}; each side must be at least 8 pixels.")


@dataclass(frozen=True)
class TextOptions:
    """An encoder of texts: a bag of words from scratch, or a pretrained transformer."""

    kind: ClassVar[str] = "text"
    input: ClassVar[str] = "text"

    dim: int = 128
    """Length of an embedding."""
    normalize: bool = True
    """Scale embeddings to length 1."""
    head: Head = "linear"
    """What follows the pooled words: a linear map, an MLP, or (with weights) nothing."""
    weights: str | None = None
    """Folder of a pretrained transformers or sentence-transformers model."""
    frozen: bool = False
    """Train only the head and leave the pretrained weights as they are."""
    pooling: Literal["mean", "max", "first"] | None = None
    """How words become a text (first: the first token, with weights only); otherwise as the weights say, \
or mean."""
    max_tokens: int | None = None
    """Words or tokens of a text that count, from its start; otherwise 256, or what the weights allow if \
less."""
    vocabulary: int = 20000
    """Most frequent words that the network from scratch knows; others share buckets by their hash."""
    dropout: float = 0.0
    """Share of a text's pooled features that the network from scratch sets to 0 while it trains; weights bring their \
own."""

    def __post_init__(self) -> None:
        _check_positive(self, "dim", "max_tokens", "vocabulary")
        _check_weights(self, "vocabulary", "dropout")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; allowed is a number from 0 up and below 1.")
        if self.pooling is not None:
            check_choice("pooling", self.pooling, ("mean", "max", "first"))
        if self.pooling == "first" and self.weights is None:
            raise InputError("pooling is 'first', which needs weights: a bag of words has no first token.")


@dataclass(frozen=True)
class TabularOptions:
    """An encoder of rows of a table: standardised, then an MLP, or linear without hidden layers."""

    kind: ClassVar[str] = "tabular"
    input: ClassVar[str] = "tabular"

    dim: int = 32
    """Length of an embedding."""
    normalize: bool = True
    """Scale embeddings to length 1."""
    hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers; none makes the encoder a linear map."""
    one_hot: int = 16
    """Up to so many categories of a column are features of their own; of a column with more each has a learned \
vector."""
    non_negative: bool = False
    """Make the numbers of an embedding positive, as the jaccard distance needs them."""

    def __post_init__(self) -> None:
        _check_positive(self, "dim")
        if self.one_hot < 0:
            raise InputError(f"one_hot is {self.one_hot}; allowed is a whole number from 0 up.")
        if any(width < 1 for width in self.hidden):
            raise InputError(f"hidden is {self.hidden}; allowed are whole numbers from 1 up.")


@dataclass(frozen=True)
class CustomOptions:
    """An encoder of your own: an nn.Module class, or a function that is annotated to return one."""

    kind: ClassVar[str] = "custom"

    factory: str = ""
    """Where it is, as package.module:name. It must be an nn.Module class or a function annotated `-> \
nn.Module`."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What to call it with, by name."""
    normalize: bool = False
    """Scale embeddings to length 1."""
    input: Literal["image", "text", "tabular", "tensor"] | None = None
    """What it takes: uint8 images, a list of texts, rows of numbers, or a dataset's tensors; otherwise as \
the data."""
    size: tuple[int, int] | None = None
    """Height and width of images in pixels; otherwise found from the images."""
    channels: int | None = None
    """Channels of images, 1 or 3; otherwise found from the images."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How an image of other proportions is fitted: cut off, padded with black, or stretched."""

    def __post_init__(self) -> None:
        module, colon, name = self.factory.partition(":")
        if not (module and colon and name):
            raise InputError(f"factory is {self.factory!r}; allowed is package.module:name.")
        check_choice("fit", self.fit, ("crop", "pad", "stretch"))
        if self.input is not None:
            check_choice("input", self.input, INPUTS)
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}; allowed are 1 and 3.")


@dataclass(frozen=True)
class TowersOptions:
    """Two encoders, one for each side of pairs, whose embeddings share a space: so their length and scale agree."""

    kind: ClassVar[str] = "towers"
    input: ClassVar[str] = "sides"

    left: ImageOptions | TextOptions = field(default_factory=ImageOptions)
    """The encoder of the left side."""
    right: ImageOptions | TextOptions = field(default_factory=TextOptions)
    """The encoder of the right side."""
    sides: tuple[str, ...] = ("left", "right")
    """What the sides are called: the columns that held them."""

    def __post_init__(self) -> None:
        for name in ("dim", "normalize"):
            left, right = getattr(self.left, name), getattr(self.right, name)
            if left != right:
                raise InputError(
                    f"{name} is {left} for the left tower and {right} for the right one; they share a space, so it "
                    f"must be the same. Set --{self.left.kind}.{name} and --{self.right.kind}.{name} alike."
                )

    @property
    def towers(self) -> tuple[ImageOptions | TextOptions, ImageOptions | TextOptions]:
        """Both, the left one first."""
        return self.left, self.right

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.left.dim

    @property
    def normalize(self) -> bool:
        """Whether embeddings are scaled to length 1."""
        return self.left.normalize


EncoderOptions = ImageOptions | TextOptions | TabularOptions | CustomOptions | TowersOptions
