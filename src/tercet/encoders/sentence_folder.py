"""Folders of sentence-transformers, read: what their modules are, in Tercet's words, or why they cannot be had."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tercet.errors import InputError

POOLING_WORDS = {
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean-root",
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
}
"""Their word -> ours, in the order in which they join several."""
_OLD_WORDS = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    one.__name__: one for one in (nn.Identity, nn.Tanh, nn.GELU, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.LeakyReLU)
}
"""What may follow a Dense module. (A name in a file is never called, only looked up here.)"""


@dataclass(frozen=True)
class SentenceFolder:
    """What a folder of a pretrained model holds.

    Attributes:
        inner: the folder of the transformer or of the static embeddings itself.
        is_static: whether it is a table of embeddings of tokens.
        pooling: as the folder says, None where it does not.
        limit: of tokens, as the folder says.
        tail: a description of each module between pooling and normalisation; plain JSON.
        homes: where the weights of each of these are.
        prompts: by their names.
        default_prompt: the name of the one that is used where none is named.
        pools_prompt: whether the tokens of a prompt are pooled with those of the text.
    """

    inner: Path
    is_static: bool = False
    pooling: str | None = None
    limit: int | None = None
    tail: list[dict[str, Any]] = field(default_factory=list)
    homes: list[Path] = field(default_factory=list)
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    pools_prompt: bool = True

    def prompt(self, *names: str | None) -> str:
        """The first prompt that there is of these names, or none."""
        return next((self.prompts[name] for name in names if name is not None and self.prompts.get(name)), "")


def read_sentence_folder(weights: str) -> SentenceFolder:
    """What the folder holds; of a plain transformers folder only where it is.

    Raises:
        InputError: a module cannot be had in Tercet, or a file cannot be read.
    """
    folder = Path(weights)
    if not (folder / "modules.json").is_file():
        return SentenceFolder(folder)
    inner, is_static, pooling, pools_prompt = folder, False, None, True
    tail: list[dict[str, Any]] = []
    homes: list[Path] = []
    normalised = False
    for module in _json(folder / "modules.json"):
        name, home = str(module["type"]).rsplit(".", 1)[-1], folder / module["path"]
        if normalised:
            raise InputError(f"{weights} has a layer of type {name} after its normalisation, which is not supported.")
        if name in ("Transformer", "StaticEmbedding"):
            inner, is_static = home, name == "StaticEmbedding"
        elif name == "Pooling":
            pooling, pools_prompt = read_pooling(home / "config.json")
        elif name in ("Dense", "LayerNorm"):
            tail.append(_described(name, home))
            homes.append(home)
        elif name == "Normalize":
            normalised = True
        elif name != "Dropout":
            raise InputError(
                f"{weights} has a layer of type {name}, which would be left out; its model is not supported."
            )
    said = folder / "config_sentence_transformers.json"
    about = _json(said) if said.is_file() else {}
    return SentenceFolder(
        inner, is_static, pooling, _limit(folder, inner), tail, homes,
        {str(name): str(text) for name, text in (about.get("prompts") or {}).items()},
        about.get("default_prompt_name"), pools_prompt,
    )  # fmt: skip


def read_pooling(path: Path) -> tuple[str | None, bool]:
    """The pooling of a Pooling module in our words, joined by "+", and whether prompts are pooled with their text.

    Raises:
        InputError: it names one that there is not.
    """
    if not path.is_file():
        return None, True
    said = _json(path)
    given = said.get("pooling_mode")
    if given is None:
        switched = [name.removeprefix("pooling_mode_") for name, on in said.items() if on is True]
        given = [_OLD_WORDS.get(name, name) for name in switched if f"pooling_mode_{name}" in said]
        given.sort(key=lambda name: list(POOLING_WORDS).index(name) if name in POOLING_WORDS else 0)
    words = [given] if isinstance(given, str) else list(given)
    unknown = [word for word in words if word not in POOLING_WORDS]
    if unknown or not words:
        raise InputError(
            f"{path} asks for pooling by {', '.join(map(str, unknown)) or 'nothing'}; say --text.pooling, such as mean."
        )
    return "+".join(POOLING_WORDS[word] for word in words), bool(said.get("include_prompt", True))


def make_tail(described: list[dict[str, Any]]) -> nn.Sequential:
    """The modules of a tail, with random weights."""
    layers: list[nn.Module] = []
    for one in described:
        if one["type"] == "LayerNorm":
            layers.append(nn.LayerNorm(one["out"]))
        else:
            linear = nn.Linear(one["in"], one["out"], bias=one["bias"])
            layers.append(nn.Sequential(linear, ACTIVATIONS[one["activation"]]()))
    return nn.Sequential(*layers)


def load_tail(tail: nn.Sequential, homes: list[Path]) -> None:
    """Put the folder's weights into a tail.

    Raises:
        InputError: a file is missing or does not fit.
    """
    for layer, home in zip(tail, homes, strict=True):
        tensors = {name.split(".", 1)[-1]: tensor for name, tensor in read_tensors(home).items()}
        target = layer[0] if isinstance(layer, nn.Sequential) else layer
        try:
            target.load_state_dict(tensors)
        except RuntimeError as cause:
            raise InputError(f"{home}: the weights do not fit its config.json: {cause}") from None


def read_tensors(home: Path) -> dict[str, Tensor]:
    """The tensors of a folder's model.safetensors, never of a pickle.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = home / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{home} holds no model.safetensors; weights in other formats are not read.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as cause:
        raise InputError(f"{path} cannot be read: {cause}.") from None


def _described(name: str, home: Path) -> dict[str, Any]:
    said = _json(home / "config.json")
    if name == "LayerNorm":
        return {"type": name, "out": int(said["dimension"])}
    activation = str(said.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    keys = ("module_input_name", "module_output_name")
    elsewhere = any(said.get(key) not in (None, "sentence_embedding") for key in keys)
    if activation not in ACTIVATIONS or said.get("use_residual") or elsewhere:
        raise InputError(
            f"{home}: a Dense layer is taken with one of {', '.join(ACTIVATIONS)} after it, on the pooled embedding "
            f"and without a residual; this one has {activation}"
            f"{', a residual' if said.get('use_residual') else ''}{', another place' if elsewhere else ''}."
        )
    sizes = {"in": int(said["in_features"]), "out": int(said["out_features"]), "bias": bool(said.get("bias", True))}
    return {"type": name, "activation": activation} | sizes


def _limit(folder: Path, inner: Path) -> int | None:
    for home in (inner, folder):
        path = home / "sentence_bert_config.json"
        if path.is_file() and (limit := _json(path).get("max_seq_length")):
            return int(limit)
    return None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise InputError(f"{path} cannot be read: {cause}.") from None
