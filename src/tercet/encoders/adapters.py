"""LoRA: low-rank adapters beside the layers of a pretrained network, by peft; the one file that knows it.

Hu et al. 2022, "LoRA: low-rank adaptation of large language models", equation 3: W x + alpha / rank · B A x, where only
A and B are trained. A run keeps W + alpha / rank · B A, so that opening one needs neither peft nor the first weights;
a checkpoint keeps W, A and B as they are.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tercet.encoders.options import TextOptions
from tercet.errors import InputError, require

_USUAL = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("query_proj", "value_proj"),
    ("Wqkv",),
)
_LAYER = "base_layer."  # where an adapted layer keeps its own weights


def add_adapters(network: nn.Module, options: TextOptions) -> None:
    """Put adapters into the network, in place, and leave nothing else of it to be trained.

    Raises:
        InputError: no layer has a name that was given, or none that is usually adapted is found.
    """
    peft = require("peft", "lora")
    targets: Any = list(options.lora_targets) if options.lora_targets else None
    assert options.lora_rank is not None
    config = peft.LoraConfig(
        r=options.lora_rank,
        lora_alpha=2 * options.lora_rank if options.lora_alpha is None else options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets or _usual_targets(network),
    )
    try:
        peft.inject_adapter_in_model(config, network)
    except ValueError:
        linear = sorted({name.rsplit(".", 1)[-1] for name, part in network.named_modules() if _is_linear(part)})
        raise InputError(
            f"lora_targets is {', '.join(options.lora_targets)}; the network has no such layer. "
            f"Its linear layers are called {', '.join(linear)}."
        ) from None


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state with every adapter merged into the layer that it is beside, under that layer's own names."""
    adapted = {name: part for name, part in module.named_modules() if _is_adapted(part)}
    if not adapted:
        return module.state_dict()
    state = {}
    for name, tensor in module.state_dict().items():
        owner = next((home for home in adapted if name.startswith(f"{home}.")), None)
        if owner is None:
            state[name] = tensor
        elif name.startswith(f"{owner}.{_LAYER}"):
            rest = name.removeprefix(f"{owner}.{_LAYER}")
            part: Any = adapted[owner]
            state[f"{owner}.{rest}"] = tensor + part.get_delta_weight("default") if rest == "weight" else tensor
    return state


def remove_adapters(module: nn.Module) -> None:
    """Put each adapted layer's own layer back in its place; what the adapters learned is lost."""
    for name, part in list(module.named_modules()):
        if _is_adapted(part):
            home, _, own = name.rpartition(".")
            setattr(module.get_submodule(home), own, part.base_layer)


def _usual_targets(network: nn.Module) -> list[str]:
    """The projections of queries and values, as in the paper, section 4.2."""
    names = {name.rsplit(".", 1)[-1] for name, part in network.named_modules() if _is_linear(part)}
    for pair in _USUAL:
        if names.issuperset(pair):
            return list(pair)
    raise InputError(
        "lora_rank is given, and which layers to adapt cannot be told; name them with --text.lora-targets, of "
        f"{', '.join(sorted(names))}."
    )


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear)


def _is_adapted(part: nn.Module) -> bool:
    return hasattr(part, "get_delta_weight") and hasattr(part, "base_layer")
