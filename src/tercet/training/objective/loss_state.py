"""What a loss holds: parameters that it learns, maps and margins that it was given, the count of its draws.

A run keeps them in loss.safetensors, as they are with the best weights; each checkpoint holds them too; and
checkpoints/start.safetensors says what they were before the first step, so that a run can begin again.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tercet.errors import ConfigError, InputError, RunError
from tercet.losses import TripletLoss
from tercet.losses.base import BatchLoss
from tercet.training.folder import files
from tercet.training.objective.loss import Loss

START_FILE = "checkpoints/start.safetensors"
State = dict[str, Tensor]


def state_of(loss: Loss) -> State:
    """The parameters and buffers of a loss; none of a plain function.

    Raises:
        InputError: it keeps something that is not a tensor.
    """
    state = loss.state_dict() if isinstance(loss, nn.Module) else {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"the loss {type(loss).__name__} keeps {name!r}, a {type(value).__name__}, in its state; a run holds "
                "tensors alone, so let get_extra_state give one."
            )
    return state


def device_of(loss: Loss) -> torch.device:
    """Where the loss's own tensors are; the CPU if it has none."""
    own = itertools.chain(loss.parameters(), loss.buffers()) if isinstance(loss, nn.Module) else iter(())
    return next((tensor.device for tensor in own), torch.device("cpu"))


def save_state(loss: Loss, path: Path) -> None:
    """Write what the loss holds, if it holds anything."""
    state = state_of(loss)
    if state:
        files.write_tensors(path, state)


def read_state(path: Path) -> State:
    """What `save_state` wrote; nothing where the loss held nothing.

    Raises:
        RunError: the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as cause:
        raise RunError(f"{path} cannot be read: {cause}.") from None


def restore_state(loss: Loss, path: Path) -> None:
    """Give the loss what `save_state` wrote of it.

    Raises:
        RunError: it does not fit.
    """
    state = read_state(path)
    if not isinstance(loss, nn.Module) or not state:
        return
    try:
        loss.load_state_dict(state)
    except RuntimeError as cause:
        raise RunError(f"{path} does not fit the loss {type(loss).__name__}: {cause}") from None


def check_start(loss: Loss, folder: Path) -> None:
    """Raise ConfigError if a loss of Tercet's has other fixed numbers, such as a map, than the run to be resumed."""
    stored = read_state(folder / START_FILE)
    fixed = dict(loss.named_buffers()) if isinstance(loss, BatchLoss) else {}
    for name, buffer in fixed.items():
        if name not in stored or not torch.equal(stored[name], buffer.cpu()):
            raise ConfigError(
                f"{folder} can be resumed with its own loss only: {name} of the loss given is not the run's. Give the "
                "loss that it was started with, or start a new run."
            )


def unlike_its_settings(loss: Loss) -> list[str]:
    """What a loss of Tercet's has learned already, in words: config.toml will name where it started."""
    if not isinstance(loss, BatchLoss):
        return []
    found = []
    if loss.log_scale is not None and abs(loss.temperature / loss.rule.temperature - 1) > 1e-5:
        found.append(f"a temperature of {loss.temperature:g} instead of {loss.rule.temperature:g}")
    if isinstance(loss, TripletLoss):
        if loss.margins is not None and loss.margins.learned:
            values = loss.margins.values().detach().cpu().double()
            start = torch.tensor(loss.margins.initial, dtype=torch.float64).expand(len(values))
            if not torch.allclose(values, start, rtol=1e-4, atol=1e-6):
                found.append("margins that it has learned")
        if loss.draws is not None and loss.draws.number:
            found.append(f"draw {loss.draws.number}")
    return found


def learned_figures(loss: Loss) -> dict[str, float]:
    """What the history tells of learned parameters: the temperature, and the mean of the margins."""
    figures = {}
    if isinstance(loss, BatchLoss) and loss.log_scale is not None:
        figures["temperature"] = loss.temperature
    if isinstance(loss, TripletLoss) and loss.margins is not None and loss.margins.learned:
        figures["mean_margin"] = float(loss.margins.values().detach().mean())
    return figures
