"""Options of the encoders, as a configuration file or the command line gives them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from tercet.errors import InputError, check_choice

Head = Literal["linear", "mlp", "none"]
POOLINGS = ("mean", "max", "first", "last", "weighted-mean", "mean-root", "attention")
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


def _check_lora(options: TextOptions) -> None:
    given = [name for name in ("lora_alpha", "lora_dropout", "lora_targets") if getattr(options, name)]
    if options.lora_rank is None:
        if given:
            raise InputError(f"{given[0]} is set, and does nothing without lora_rank; give lora_rank too, such as 8.")
        return
    if options.weights is None or options.frozen:
        why = "frozen weights are left as they are" if options.frozen else "there are no weights to adapt"
        raise InputError(f"lora_rank is {options.lora_rank}, and {why}; give weights, and leave frozen out.")
    if options.lora_alpha is not None and not options.lora_alpha > 0:
        raise InputError(f"lora_alpha is {options.lora_alpha}; allowed is a number above 0.")
    if not 0 <= options.lora_dropout < 1:
        raise InputError(f"lora_dropout is {options.lora_dropout}; allowed is a number from 0 up and below 1.")


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
    """Folder of a pretrained transformers or sentence-transformers model, static embeddings of tokens included."""
    frozen: bool = False
    """Train only the head and leave the pretrained weights as they are."""
    pooling: str | None = None
    """How words become a text: mean, max, and with weights of a transformer also first, last, weighted-mean (by \
position), mean-root (the sum over the root of their number) or attention (learned); several joined as mean+max. \
Otherwise as the weights say, or mean."""
    max_tokens: int | None = None
    """Words or tokens of a text that count, from its start; otherwise 256, or what the weights allow if \
less."""
    long_texts: Literal["truncate", "pool"] = "truncate"
    """What is done with a text of more than max_tokens, with weights of a transformer: the rest is left out, or all \
is embedded in pieces, whose mean is taken."""
    prompt: str | None = None
    """Put before every text, such as "query: "; otherwise as the weights say, or nothing."""
    query_prompt: str | None = None
    """Put before texts that look for others: the left side of pairs, or anchors; otherwise as the weights say."""
    document_prompt: str | None = None
    """Put before texts that are looked for: the right side of pairs, or positives and negatives; otherwise as the \
weights say."""
    lora_rank: int | None = None
    """Train adapters of this rank beside the layers of the weights, and the head, instead of all weights (LoRA), such \
as 8. Needs: pip install 'tercet[lora]'"""
    lora_alpha: float | None = None
    """What the adapters count, divided by their rank; twice the rank when left open."""
    lora_dropout: float = 0.0
    """Share of an adapter's inputs that are set to 0 while it trains."""
    lora_targets: tuple[str, ...] = ()
    """Names of the layers that get adapters; those of queries and values when left open."""
    vocabulary: int = 20000
    """Most frequent words that the network from scratch knows; others share buckets by their hash."""
    buckets: int = 1024
    """How many buckets the words share that the network from scratch does not know; with 1 it can be exported."""
    dropout: float = 0.0
    """Share of a text's pooled features that the network from scratch sets to 0 while it trains; weights bring their \
own."""

    def __post_init__(self) -> None:
        _check_positive(self, "dim", "max_tokens", "vocabulary", "buckets", "lora_rank")
        _check_weights(self, "vocabulary", "buckets", "dropout")
        check_choice("long_texts", self.long_texts, ("truncate", "pool"))
        _check_lora(self)
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; allowed is a number from 0 up and below 1.")
        for word in (self.pooling or "mean").split("+"):
            check_choice("pooling", word, POOLINGS)
        if self.weights is None and self.pooling not in (None, "mean", "max"):
            raise InputError(f"pooling is {self.pooling!r}, which needs weights: a bag of words takes 'mean' or 'max'.")
        if self.weights is None and self.long_texts == "pool":
            raise InputError(
                "long_texts is 'pool', which needs weights: a bag of words takes texts of any length with max_tokens."
            )
        if self.prompt and (self.query_prompt or self.document_prompt):
            raise InputError(
                "prompt is put before every text, and query_prompt and document_prompt before those of one side; give "
                "either it or them."
            )


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
