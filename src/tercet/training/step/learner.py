"""The learner: what a step changes (encoder, loss, optimiser, memory), and the step."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tercet.collectives import ALONE, Ranks
from tercet.data.augmentation import augment
from tercet.data.sides import TwoSides
from tercet.errors import TrainingError
from tercet.losses import TripletLoss
from tercet.losses.base import BatchLoss
from tercet.training.batches.feed import Fed, Pictures
from tercet.training.batches.supervision import Statistics, Supervision
from tercet.training.config import Config
from tercet.training.model import Model, mixed_precision, move
from tercet.training.objective.loss import Loss
from tercet.training.step.gradient_cache import cached_step, cut, take
from tercet.training.step.matryoshka import over_prefixes
from tercet.training.step.mining_schedule import parse_schedule
from tercet.training.step.schedule import learning_rate_factor
from tercet.training.step.shared import average_gradients, spread_buffers


@dataclasses.dataclass(frozen=True)
class Step:
    """What came of a step."""

    statistics: Callable[[], Statistics]
    gradient_norm: float
    learning_rate: float


class NotFinite(TrainingError):
    """A loss or a gradient that is no number."""


class Learner:
    """An encoder, a loss and their optimiser, which take a step at a time.

    Args:
        config: of the run.
        model: whose encoder is trained.
        loss: trained too, if it has parameters.
        supervision: computes the loss of a batch; its memory, if it has one, is saved with the rest.
        steps: how many will be made, for the schedule of the learning rate.
        ranks: which share the work; each is given its own rows of a batch, and all take the same step.

    Attributes:
        modules: all that a checkpoint holds the weights and buffers of.
        optimizer: AdamW.
        schedule: of the mining, until a remedy says what is mined from then on.
    """

    def __init__(
        self, config: Config, model: Model, loss: Loss, supervision: Supervision, steps: int, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.model, self.loss, self.supervision, self.steps = config, model, loss, supervision, steps
        self.ranks = ranks
        self.modules = nn.ModuleDict({"encoder": model.encoder})
        if isinstance(loss, nn.Module):
            self.modules["loss"] = loss.to(model.device)
        if supervision.memory is not None:
            self.modules["memory"] = supervision.memory
        self.optimizer = make_optimizer(self.modules, config.training.weight_decay)
        schedule = config.training.mining_schedule
        self.schedule = None if schedule is None else parse_schedule(schedule)

    def step(self, fed: Fed, number: int) -> Step:
        """Embeddings, loss, gradient and update of a batch; steps are counted from 0.

        Raises:
            NotFinite: the loss or the gradient is not finite.
        """
        settings, memory, count = self.config.training, self.supervision.memory, fed.rows.stop - fed.rows.start
        lengths = self.ranks.shares(len(fed.batch.positions))
        assert settings.learning_rate is not None
        rate = settings.learning_rate * learning_rate_factor(number, self.steps, int(settings.warmup * self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        if self.schedule is not None:
            self._mine(self.schedule.at(number, self.steps))

        def loss(embeddings: Tensor) -> tuple[Tensor, Callable[[], Statistics]]:
            torch.manual_seed((settings.seed * 1_000_003 + number) % 2**63)  # one of the user's own may draw
            whole = self.ranks.gather_with_gradient(embeddings[: lengths[self.ranks.rank]], lengths)
            with self.loss.divided(self.ranks) if isinstance(self.loss, BatchLoss) else contextlib.nullcontext():
                if settings.matryoshka:
                    normalize = self.config.encoder.normalize
                    return over_prefixes(self.supervision, whole, fed.batch, settings, normalize)
                return self.supervision(whole, fed.batch)

        if memory is not None and memory.slow is not None:
            keys = self._slowly_encoded(memory.slow, fed.inputs, count)
            memory.keys = self.ranks.gather(keys[: lengths[self.ranks.rank]], lengths)
        self.optimizer.zero_grad(set_to_none=True)
        value, statistics = cached_step(
            self._encode, fed.inputs, count, loss, self.model.encoder,
            chunk=self.config.batch.chunk, seed=settings.seed, step=number, first=fed.rows.start,
        )  # fmt: skip
        average_gradients(self.modules.parameters(), self.ranks)
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), settings.clip_norm or math.inf)
        _check_finite(value, norm, number)
        self.optimizer.step()
        spread_buffers([module for name, module in self.modules.items() if name in ("encoder", "loss")], self.ranks)
        if memory is not None and memory.slow is not None:
            memory.slow.follow(self.model.encoder)
        return Step(statistics, float(norm), rate)

    def apply(self, remedy: Mapping[str, Any]) -> None:
        """Take a lower learning rate and, where the remedy says so, other mining."""
        training = self.config.training
        assert training.learning_rate is not None
        rate = training.learning_rate * remedy["learning_rate_factor"]
        self.config = dataclasses.replace(self.config, training=dataclasses.replace(training, learning_rate=rate))
        if remedy["mining"]:
            self.schedule = None
            self._mine(remedy["mining"])

    @property
    def scheduled_mining(self) -> dict[str, str]:
        """Which triplets count by now, for the history of a run with a schedule."""
        if self.config.training.mining_schedule is None:
            return {}
        assert isinstance(self.loss, TripletLoss)
        return {"mining": self.loss.rule.mining}

    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Go back to these weights of the encoder, without the momentum and the memory of the way here."""
        self.model.encoder.load_state_dict(weights)
        self.optimizer.state.clear()
        if self.supervision.memory is not None:
            self.supervision.memory.restart(self.model.encoder)

    def end_schedule(self) -> None:
        """Leave the loss with the mining that it came with: the object may be the user's own."""
        first = self.config.loss.mining
        if self.config.training.mining_schedule is not None and first is not None:
            self._mine(first)

    def _mine(self, mining: str) -> None:
        """Let the loss mine these triplets from here on; its other settings stay."""
        if isinstance(self.loss, TripletLoss) and self.loss.rule.mining != mining:
            self.loss.rule = dataclasses.replace(self.loss.rule, mining=mining)

    def _slowly_encoded(self, slow: nn.Module, inputs: Any, count: int) -> Tensor:
        parts = cut(count, self.config.batch.chunk or count)
        return torch.cat([self._encode(take(inputs, rows, count), slow) for rows in parts])

    def _encode(self, inputs: Any, encoder: nn.Module | None = None) -> Tensor:
        """Embeddings of a batch or a part of it; images are changed by what was drawn for them."""
        device = self.model.device
        changed = self._changed(inputs)
        with mixed_precision(device, self.config.training.precision):
            found: Tensor = (encoder or self.model.encoder)(move(changed, device))
            return found

    def _changed(self, inputs: Any) -> Any:
        if isinstance(inputs, TwoSides):
            return inputs.each(self._changed)
        if not isinstance(inputs, Pictures):
            return inputs
        device = self.model.device
        return augment(inputs.pixels.to(device), inputs.changes.to(device), self.config.augmentation)


def make_optimizer(modules: nn.ModuleDict, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; biases, scales of normalisations and the loss's own parameters are not decayed."""
    trained = [(name, weight) for name, weight in modules.named_parameters() if weight.requires_grad]
    if not trained:
        raise TrainingError("the encoder has no parameter to train.")
    decayed = [weight for name, weight in trained if weight.dim() > 1 and name.startswith("encoder.")]
    others = [weight for name, weight in trained if not (weight.dim() > 1 and name.startswith("encoder."))]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _check_finite(value: Tensor, gradient_norm: Tensor, step: int) -> None:
    if not (torch.isfinite(value) and torch.isfinite(gradient_norm)):
        raise NotFinite(
            f"at step {step + 1} the loss is {float(value.detach()):g} and the gradient's norm "
            f"{float(gradient_norm):g}: training cannot go on. Earlier checkpoints, if any, are unharmed. Try a "
            "smaller --learning-rate, or look for extreme values in the data."
        )
