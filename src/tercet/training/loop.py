"""The training loop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tercet.data.augmentation import augment, draw
from tercet.errors import TrainingError
from tercet.kernels import Plan
from tercet.losses import TripletLoss
from tercet.training import checkpoint
from tercet.training.assessment import better, evaluate_vectors
from tercet.training.bank import Memory
from tercet.training.chunk import items_in_batch
from tercet.training.config import Config
from tercet.training.files import write_tensors
from tercet.training.gradient_cache import cached_step, cut, take, warning_of_statistics
from tercet.training.history import History
from tercet.training.interrupt import stop_requests
from tercet.training.loss import LOSS_FILE, Loss, make_distance
from tercet.training.loss_state import save_state, state_of
from tercet.training.model import Model, Readable, move
from tercet.training.reporter import Advance, Reporter
from tercet.training.schedule import learning_rate_factor
from tercet.training.supervision import Remembering, Statistics, make_supervision, whole_loss
from tercet.training.vitals import VitalSigns
from tercet.training.watch import Watch, case_of

START_WEIGHTS = "checkpoints/start-encoder.safetensors"  # of a run that may have to go back to them
HISTORY_ROWS = 2000
DEFAULT_EVALUATIONS = 10
WARMING = 10  # one in so many steps, before the memory is used


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    steps: int
    best_step: int
    selection: str
    best_value: float | None
    reason: str  # "finished", "stopped early", "interrupted", or "stopped: " and an illness


class Training:
    """Trains a model; `folder` then holds the best weights, the last checkpoints and the history.

    Goes on from the newest checkpoint in the folder, if there is one. The same configuration, data and machine give
    the same bytes, whether or not the run was stopped on the way: every random choice is keyed by seed and step.

    Args:
        config: complete, as it is written to the run.
        model: trained in place.
        loss: its parameters, if it has any, are trained and saved too.
        train: what to train on.
        held: what to evaluate on.
        folder: the run.
        reporter: shows progress.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        loss: Loss,
        train: Readable,
        held: Readable,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        self.config, self.model, self.train, self.held = config, model, train, held
        self.folder, self.reporter, self.loss = folder, reporter, loss
        settings = config.training
        self.memory = _make_memory(config, model)
        self.supervision = make_supervision(train.records, config.batch, loss, settings.seed, self.memory)
        reporter.say(f"batches: {self.supervision.sampler.summary()}")
        self._say_chunk()
        self.steps = settings.steps or self.supervision.count_steps(settings.epochs or 1)
        self.every = min(settings.evaluate_every or math.ceil(self.steps / DEFAULT_EVALUATIONS), self.steps)
        assert settings.selection is not None
        self.selection = settings.selection

        self.modules = nn.ModuleDict({"encoder": model.encoder})
        if isinstance(loss, nn.Module):
            self.modules["loss"] = loss.to(model.device)
        if self.memory is not None:
            warmup = config.batch.memory_warmup
            self.memory.warmup = self.steps // WARMING if warmup is None else warmup
            self.modules["memory"] = self.memory
        self.optimizer = _make_optimizer(self.modules, config)
        self.has_said_how = False
        self.progress = self._restored()
        self.history = History(folder / "history.jsonl", self.progress.step)
        distance = make_distance(config.loss, state_of(loss))
        self.vitals = VitalSigns(model.encoder, self.supervision, distance, settings.seed)
        case = case_of(config, self.steps, state_of(loss))
        self.watch = Watch(case, settings.on_collapse, reporter, self.progress.doctor)
        if settings.on_collapse == "remedy" and self.progress.step == 0:
            write_tensors(folder / START_WEIGHTS, model.encoder.state_dict())
        for remedy in self.watch.remedies:
            self._apply(remedy)

    def run(self) -> Outcome:
        """Train to the last step, or until a stop is asked for, patience ends, or the doctor stops what is in vain.

        Raises:
            TrainingError: the loss or the gradient is not finite.
            StorageError: a checkpoint could not be written; those before it are unharmed.
        """
        progress, patience, reason = self.progress, self.config.training.patience, "finished"
        with stop_requests() as stop_asked, self.reporter.progress("training") as advance, torch.random.fork_rng():
            self.modules.train()
            while progress.step < self.steps:
                if patience and progress.stale_evaluations >= patience:  # before the step: so it was on resume, too
                    reason = "stopped early"
                    break
                if self.watch.stopped:
                    reason = f"stopped: {self.watch.stopped}"
                    break
                epoch = self.supervision.sampler.epoch
                try:
                    statistics, gradient_norm, rate = self._step()
                except NotFinite:
                    self.history.add(progress.step + 1, {"epoch": epoch, "loss": math.nan})
                    raise
                progress.step += 1
                self._say_how()
                self._record(epoch, statistics, gradient_norm, rate, advance)
                self._look()
                stopping = stop_asked()
                scheduled = progress.step % self.every == 0 or progress.step == self.steps
                if scheduled or stopping or self.watch.stopped:
                    self._evaluate_and_save(scheduled)
                if stopping and not self.watch.stopped and progress.step < self.steps:
                    reason = "interrupted"
                    break
        return Outcome(progress.step, progress.best_step, self.selection, progress.best_value, reason)

    def _step(self) -> tuple[Callable[[], Statistics], float, float]:
        """One batch: embeddings, loss, gradient, update."""
        settings, step = self.config.training, self.progress.step
        assert settings.learning_rate is not None
        rate = settings.learning_rate * learning_rate_factor(step, self.steps, int(settings.warmup * self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        batch = self.supervision.next()
        inputs = self.train.loader.batch(batch.positions)
        if self.train.records.kind == "image":
            inputs = (inputs, draw(self.config.augmentation, len(inputs), settings.seed, step))

        def loss(embeddings: Tensor) -> tuple[Tensor, Callable[[], Statistics]]:
            torch.manual_seed((settings.seed * 1_000_003 + step) % 2**63)  # one of the user's own may draw
            return self.supervision(embeddings, batch)

        if isinstance(self.supervision, Remembering):
            self.supervision.keys = self._keys(inputs, len(batch.positions))
        self.optimizer.zero_grad(set_to_none=True)
        value, statistics = cached_step(
            self._encode, inputs, len(batch.positions), loss, self.model.encoder,
            chunk=self.config.batch.chunk, seed=settings.seed, step=step,
        )  # fmt: skip
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), settings.clip_norm or math.inf)
        _check_finite(value, norm, step)
        self.optimizer.step()
        if self.memory is not None and self.memory.slow is not None:
            self.memory.slow.follow(self.model.encoder)
        return statistics, float(norm), rate

    def _keys(self, inputs: Any, count: int) -> Tensor | None:
        """Embeddings of a batch by the slow copy of the encoder; None without one."""
        if self.memory is None or self.memory.slow is None:
            return None
        slow, parts = self.memory.slow, cut(count, self.config.batch.chunk or count)
        return torch.cat([self._encode(take(inputs, rows, count), slow) for rows in parts])

    def _encode(self, inputs: Any, encoder: nn.Module | None = None) -> Tensor:
        """Embeddings of a batch or a part of it; images are changed by what was drawn for them."""
        device, augmentation = self.model.device, self.config.augmentation
        if self.train.records.kind == "image":
            images, changes = inputs
            inputs = augment(images.to(device), changes.to(device), augmentation)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.training.precision == "bfloat16"):
            found: Tensor = (encoder or self.model.encoder)(move(inputs, device))
            return found

    def _record(
        self, epoch: int, statistics: Callable[[], Statistics], gradient_norm: float, rate: float, advance: Advance
    ) -> None:
        """Write what the step measured, or every so many steps of a long run, and show it."""
        step = self.progress.step
        if step % math.ceil(self.steps / HISTORY_ROWS) == 0 or step == self.steps:
            signs = self.vitals.measure(step)
            figures = {**statistics(), **signs, "gradient_norm": gradient_norm, "learning_rate": rate}
            self.history.add(step, {"epoch": epoch, **figures})
            advance(step, self.steps, self._live(figures))
        self.vitals.forget()

    def _look(self) -> None:
        """Let the doctor look at the history; with a remedy, training goes on from the weights of the start."""
        remedy = self.watch.look(self.history.rows, self.progress.step)
        if remedy is not None:
            self._apply(remedy)
            self.model.encoder.load_state_dict(load_file(self.folder / START_WEIGHTS))
            self.optimizer.state.clear()
            if self.memory is not None:
                self.memory.restart(self.model.encoder)
            self.history.add(self.progress.step, {name: value for name, value in remedy.items() if name != "step"})

    def _apply(self, remedy: Mapping[str, Any]) -> None:
        """Take a lower learning rate and, where the remedy says so, other mining."""
        training, loss = self.config.training, self.loss
        assert training.learning_rate is not None
        rate = training.learning_rate * remedy["learning_rate_factor"]
        self.config = dataclasses.replace(self.config, training=dataclasses.replace(training, learning_rate=rate))
        if remedy["mining"] and isinstance(loss, TripletLoss):
            loss.rule = dataclasses.replace(loss.rule, mining=remedy["mining"])

    def _evaluate_and_save(self, scheduled: bool) -> None:
        """Evaluate on the validation data, keep the best weights, and save a checkpoint.

        An evaluation that only an interruption brought about leaves the count of stale ones as it was.
        """
        vectors = self.model.encode(self.held.loader, np.arange(len(self.held.records)), Reporter())
        distance = make_distance(self.config.loss, state_of(self.loss))
        metrics = evaluate_vectors(vectors, self.held.records, distance, None, intervals=False).metrics
        if self.selection == "loss":
            metrics = {**metrics, "loss": whole_loss(self.held.records, self.loss, vectors)}
        figures = {f"validation.{name}": value for name, value in metrics.items() if value is not None}
        self.history.add(self.progress.step, figures)
        stale = self.progress.stale_evaluations
        if _keep_best(self.progress, self.selection, metrics.get(self.selection)):
            self.model.save_weights(self.folder)
            save_state(self.loss, self.folder / LOSS_FILE)
        if not scheduled:
            self.progress.stale_evaluations = stale
        self.progress.sampler = self.supervision.sampler.state()
        checkpoint.save_checkpoint(self.folder / "checkpoints", self.modules, self.optimizer, self.progress)

    def _restored(self) -> checkpoint.Progress:
        progress, unreadable = checkpoint.load_checkpoint(self.folder / "checkpoints", self.modules, self.optimizer)
        for sentence in unreadable:
            self.reporter.warn(sentence)
        if progress is None:
            return checkpoint.Progress()
        self.supervision.sampler.restore(progress.sampler)
        self.reporter.say(f"going on from step {progress.step}")
        return progress

    def _say_chunk(self) -> None:
        """Say in what parts a batch goes through the encoder, and warn where that changes the result."""
        chunk, count = self.config.batch.chunk, items_in_batch(self.config.batch, self.train.records)
        if chunk is None or chunk >= count:
            return
        self.reporter.say(f"the encoder takes {chunk:,} of {count:,} items at a time")
        warning = warning_of_statistics(self.model.encoder.train(), chunk, count)
        if warning:
            self.reporter.warn(warning)

    def _say_how(self) -> None:
        """Say once what computes the loss, since "auto" leaves it open."""
        plan = getattr(self.loss, "plan", None)
        if not self.has_said_how and isinstance(plan, Plan):
            self.reporter.say(f"the loss is computed by: {plan.implementation}")
            self.has_said_how = True

    def _live(self, figures: dict[str, Any]) -> str:
        """The figures shown beside the progress bar."""
        shown = [f"loss {figures['loss']:.4f}"]
        if "active_share" in figures:
            shown.append(f"active {figures['active_share']:.1%}")
        if self.progress.best_value is not None:
            shown.append(f"best {self.selection} {self.progress.best_value:.3f}")
        return "  ".join(shown)


def _make_memory(config: Config, model: Model) -> Memory | None:
    options = config.batch
    if not options.memory:
        return None
    encoder = model.encoder if options.momentum else None
    return Memory(options.memory, encoder=encoder, momentum=options.momentum).to(model.device)


def _make_optimizer(modules: nn.ModuleDict, config: Config) -> torch.optim.Optimizer:
    """AdamW; biases, scales of normalisations and the loss's own parameters are not decayed."""
    trained = [(name, weight) for name, weight in modules.named_parameters() if weight.requires_grad]
    if not trained:
        raise TrainingError("the encoder has no parameter to train.")
    decayed = [weight for name, weight in trained if weight.dim() > 1 and name.startswith("encoder.")]
    others = [weight for name, weight in trained if not (weight.dim() > 1 and name.startswith("encoder."))]
    groups = [
        {"params": decayed, "weight_decay": config.training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


class NotFinite(TrainingError):
    """A loss or a gradient that is no number."""


def _check_finite(value: Tensor, gradient_norm: Tensor, step: int) -> None:
    if not (torch.isfinite(value) and torch.isfinite(gradient_norm)):
        raise NotFinite(
            f"at step {step + 1} the loss is {float(value.detach()):g} and the gradient's norm "
            f"{float(gradient_norm):g}: training cannot go on. The last checkpoint is unharmed. Try a smaller "
            "--learning-rate, or look for extreme values in the data."
        )


def _keep_best(progress: checkpoint.Progress, selection: str, value: float | None) -> bool:
    """Whether these are the best weights so far.

    A tie goes to the later weights, which have seen more, but counts against patience.
    """
    improved = better(selection, value, progress.best_value)
    progress.stale_evaluations = 0 if improved else progress.stale_evaluations + 1
    if improved or value == progress.best_value:  # None == None: nothing to choose by, so the latest
        progress.best_value, progress.best_step = value, progress.step
        return True
    return False
