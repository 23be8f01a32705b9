"""Checkpoints: everything that a run needs to go on, in safetensors and JSON.

Each lies in a folder of its own, `checkpoints/step-00000200/`, that appears whole or not at all. The last two are kept:
if the newest cannot be read, the one before can.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tercet.errors import RunError
from tercet.training.folder import files

KEPT = 2
ASIDE = "checkpoints/aside"
"""In a run that was interrupted: its best files of before the evaluation that followed."""


@dataclass
class Progress:
    """Where a run stands: what changes from step to step besides weights and optimiser."""

    step: int = 0
    """How many steps have been made."""
    best_value: float | None = None
    """The best value of the selection metric so far, larger is better."""
    best_step: int = 0
    stale_evaluations: int = 0
    """Evaluations since the best."""
    sampler: dict[str, Any] = field(default_factory=dict)
    doctor: dict[str, Any] = field(default_factory=dict)
    """What the doctor has said and done."""
    interim: bool = False
    """Whether this step was evaluated because of an interruption alone; a run that goes on forgets it."""


def save_checkpoint(folder: Path, modules: nn.ModuleDict, optimizer: Optimizer, progress: Progress) -> None:
    """Save a checkpoint under `folder`, then remove all but the last two."""
    tensors = {f"modules.{name}": tensor for name, tensor in modules.state_dict().items()}
    tensors |= _optimizer_tensors(modules, optimizer)
    with files.new_folder(folder / f"step-{progress.step:08d}") as target:
        files.write_tensors(target / "state.safetensors", tensors)
        files.write_json(target / "progress.json", vars(progress))
    for old in _checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def set_aside(run: Path, names: Sequence[str]) -> None:
    """Keep files of a run as they are, those that there are, until `put_back`."""
    with files.new_folder(run / ASIDE) as target:
        for name in names:
            if (run / name).exists():
                shutil.copyfile(run / name, target / name)


def put_back(run: Path) -> None:
    """Give a run the files that were set aside, if any."""
    for path in (run / ASIDE).glob("*"):
        files.write_bytes(run / path.name, path.read_bytes())
    shutil.rmtree(run / ASIDE, ignore_errors=True)


@dataclass(frozen=True)
class Checkpoint:
    """What was read of a checkpoint, and where."""

    path: Path
    progress: Progress
    tensors: dict[str, Tensor]

    def restore(self, modules: nn.ModuleDict, optimizer: Optimizer) -> None:
        """Give modules and optimiser what was saved of them.

        Raises:
            RunError: it does not fit.
        """
        _restore(self.tensors, modules, optimizer, self.path)


def read_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest checkpoint that can be read.

    Returns:
        The checkpoint, or None where there is none yet; and a sentence for each that could not be read.

    Raises:
        RunError: there are checkpoints, and none can be read.
    """
    unreadable = []
    for path in reversed(_checkpoints(folder)):
        try:
            tensors = load_file(path / "state.safetensors")
            progress = Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, SafetensorError) as cause:
            unreadable.append(f"the checkpoint {path} cannot be read ({cause}); the one before it is used")
            continue
        return Checkpoint(path, progress, tensors), unreadable
    if unreadable:
        raise RunError(f"no checkpoint under {folder} can be read: {'; '.join(unreadable)}.")
    return None, []


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _optimizer_tensors(modules: nn.ModuleDict, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by the parameter's name, which survives a change of the order."""
    tensors = {}
    for name, parameter in modules.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    return tensors


def _restore(tensors: dict[str, Tensor], modules: nn.ModuleDict, optimizer: Optimizer, path: Path) -> None:
    weights = {name.removeprefix("modules."): tensor for name, tensor in tensors.items() if name.startswith("modules.")}
    try:
        modules.load_state_dict(weights)
    except RuntimeError as cause:
        raise RunError(f"the checkpoint {path} does not fit this encoder and loss: {cause}") from None
    for name, parameter in modules.named_parameters():
        prefix = f"optimizer.{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state:  # AdamW counts steps on the CPU wherever the parameter lives
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }
