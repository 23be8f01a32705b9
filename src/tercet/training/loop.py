"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from tercet.collectives import ALONE, Ranks
from tercet.data.paced import PacedBatches
from tercet.data.randomness import keyed
from tercet.data.samplers import MinedBatches
from tercet.errors import TrainingError
from tercet.kernels import Plan
from tercet.neighbors.vectors import LARGEST
from tercet.training.assessment.assessment import MOST_PAIRS_WHILE_TRAINING, evaluate_vectors
from tercet.training.assessment.selection import better
from tercet.training.batches.curriculum import Learned, kept_scores, paced_batches
from tercet.training.batches.feed import Fed, Feed
from tercet.training.batches.loading import gains_by_workers
from tercet.training.batches.miner import Miner
from tercet.training.batches.supervision import Sampler, Supervision, make_supervision, whole_loss
from tercet.training.config import Config
from tercet.training.folder import checkpoint
from tercet.training.folder.failure import save_failure
from tercet.training.folder.files import write_tensors
from tercet.training.folder.history import History, NoHistory
from tercet.training.folder.trackers import TensorBoard, Tracker
from tercet.training.health.regions import write_triplets
from tercet.training.health.vitals import VitalSigns
from tercet.training.health.watch import Watch, case_of
from tercet.training.interrupt import stop_requests
from tercet.training.model import START_WEIGHTS, WEIGHTS_FILE, Model, Readable
from tercet.training.objective.loss import LOSS_FILE, Loss, make_distance
from tercet.training.objective.loss_state import save_state, state_of
from tercet.training.reporter import Advance, Reporter
from tercet.training.step.allocator import freed_memory_kept
from tercet.training.step.bank import Memory
from tercet.training.step.batch_norm import BatchNormStatistics
from tercet.training.step.chunk import items_in_batch
from tercet.training.step.gradient_cache import warning_of_statistics
from tercet.training.step.learner import Learner, NotFinite, Step
from tercet.training.step.shared import (
    encode_whole,
    spread_buffers,
    spread_state,
    spread_tensors,
    told,
    warning_of_shares,
)

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
        ranks: which share each batch. All hold the same weights and take the same decisions; rank 0 alone reads and
            writes the folder.
        tracker: of the user's own, called with each row of the history.
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
        ranks: Ranks = ALONE,
        tracker: Tracker | None = None,
    ) -> None:
        self.config, self.model, self.loss, self.train, self.held = config, model, loss, train, held
        self.ranks = ranks
        self.folder, self.reporter = folder, reporter
        settings = config.training
        supervision = make_supervision(
            train.records,
            config.batch,
            loss,
            settings.seed,
            _make_memory(config, model),
            starts_trained(config),
            paced_batches(config, train.records, spread_tensors(kept_scores(folder) if ranks.is_first else {}, ranks)),
        )
        reporter.say(f"batches: {supervision.sampler.summary()}")
        _say_chunk(config, model, train, reporter, ranks)
        self.batch_norm = BatchNormStatistics(model, train, settings.seed)
        if said := self.batch_norm.said():
            reporter.say(said)
        self.steps = settings.steps or supervision.count_steps(settings.epochs or 1)
        _check_mining(config, supervision, self.steps, reporter)
        self.every = min(settings.evaluate_every or math.ceil(self.steps / DEFAULT_EVALUATIONS), self.steps)
        assert settings.selection is not None
        self.selection = settings.selection
        if supervision.memory is not None:
            warmup = config.batch.memory_warmup
            supervision.memory.warmup = self.steps // WARMING if warmup is None else warmup

        workers = settings.workers if gains_by_workers(train.loader) else 0
        self.miner = self._make_miner(supervision.sampler)
        self.feed = Feed(
            supervision, train, config.augmentation, settings.seed, workers, config.batch.corruption, self.miner, ranks
        )
        self.learner = Learner(config, model, loss, supervision, self.steps, ranks)
        if self.miner is not None:
            self.learner.modules["miner"] = self.miner
        self.learned = Learned(train, model, folder, reporter, ranks) if settings.record_learned else None
        if self.learned is not None:
            self.learner.modules["learned"] = self.learned
        self.has_said_how = False
        self.progress = self._restored()
        self.history = self._make_history(tracker)
        distance = make_distance(config.loss, state_of(loss))
        self.vitals = VitalSigns(model.encoder, supervision, distance, settings.seed, ranks)
        case = case_of(config, self.steps, state_of(loss))
        self.watch = Watch(case, settings.on_collapse, reporter, self.progress.doctor)
        if settings.on_collapse == "remedy" and self.progress.step == 0 and ranks.is_first:
            write_tensors(folder / START_WEIGHTS, model.encoder.state_dict())
        for remedy in self.watch.remedies:
            self.learner.apply(remedy)

    def run(self) -> Outcome:
        """Train to the last step, or until a stop is asked for, patience ends, or the doctor stops what is in vain.

        Raises:
            TrainingError: the loss or the gradient is not finite.
            StorageError: a checkpoint could not be written; those before it are unharmed.
        """
        progress, patience, reason = self.progress, self.config.training.patience, "finished"
        with (
            contextlib.closing(self.feed),
            stop_requests() as stop_asked,
            freed_memory_kept(),
            self.reporter.progress("training") as advance,
            torch.random.fork_rng(),
        ):
            self.learner.modules.train()
            while progress.step < self.steps:
                if patience and progress.stale_evaluations >= patience:  # before the step: so it was on resume, too
                    reason = "stopped early"
                    break
                if self.watch.stopped:
                    reason = f"stopped: {self.watch.stopped}"
                    break
                fed = self.feed.next(progress.step, self.steps - 1)
                try:
                    step = self.learner.step(fed, progress.step)
                except NotFinite as error:
                    self._fail(fed, error)
                progress.step += 1
                self._say_how()
                self._record(fed.epoch, step, advance)
                self._look()
                stopping = self.ranks.any(stop_asked())
                scheduled = progress.step % self.every == 0 or progress.step == self.steps
                if scheduled or stopping or self.watch.stopped:
                    self._evaluate_and_save(scheduled)
                if stopping and not self.watch.stopped and progress.step < self.steps:
                    reason = "interrupted"
                    break
        self.learner.end_schedule()
        return Outcome(progress.step, progress.best_step, self.selection, progress.best_value, reason)

    def _fail(self, fed: Fed, error: NotFinite) -> NoReturn:
        """Keep the batch for inspection, and give up."""
        step, latest = self.progress.step + 1, self.learner.supervision.latest
        self.history.add(step, {"epoch": fed.epoch, "loss": math.nan})
        if not self.ranks.is_first:
            raise error
        embeddings = None if latest is None else latest[0]
        kept = save_failure(self.folder, step, fed, self.train.records, embeddings, str(error))
        raise NotFinite(f"{error} The batch is in {kept}.") from None

    def _record(self, epoch: int, made: Step, advance: Advance) -> None:
        """Write what the step measured, or every so many steps of a long run, and show it."""
        step = self.progress.step
        if step % math.ceil(self.steps / HISTORY_ROWS) == 0 or step == self.steps:
            mined = {} if self.miner is None else self.miner.take_figures()
            figures = {
                **made.statistics(), **self.vitals.measure(step), **mined, **self._pool(step - 1),
                "gradient_norm": made.gradient_norm, "learning_rate": made.learning_rate,
            }  # fmt: skip
            self.history.add(step, {"epoch": epoch, **self.learner.scheduled_mining, **figures})
            advance(step, self.steps, self._live(figures))
        self._keep_triplets(step)
        self.vitals.forget()

    def _keep_triplets(self, step: int) -> None:
        """Before an evaluation, keep some of the batch's triplets for the report."""
        if step % self.every and step != self.steps:
            return
        if self.vitals.triplets is None:
            self.vitals.measure(step)
        if self.vitals.triplets is not None and self.ranks.is_first:
            seed = self.config.training.seed
            write_triplets(self.folder, step, self.vitals.triplets, self.loss, keyed(seed, "shown", step))

    def _pool(self, step: int) -> dict[str, float]:
        """Of how many items a step's batch was drawn, where a curriculum says so."""
        sampler = self.learner.supervision.sampler
        return {"pool": float(sampler.pool(step))} if isinstance(sampler, PacedBatches) else {}

    def _look(self) -> None:
        """Let the doctor look at the history; with a remedy, training goes on from the weights of the start."""
        if not self.watch.is_due(self.progress.step):
            return
        found = self.watch.look(self.history.rows, self.progress.step) if self.ranks.is_first else None
        remedy, notes = told((found, self.progress.doctor), self.ranks)
        self.progress.doctor.update(notes)
        if remedy is not None:
            self.learner.apply(remedy)
            start = load_file(self.folder / START_WEIGHTS) if self.ranks.is_first else {}
            self.learner.restart(spread_tensors(start, self.ranks))
            self.history.add(self.progress.step, {name: value for name, value in remedy.items() if name != "step"})

    def _evaluate_and_save(self, scheduled: bool) -> None:
        """Evaluate on the validation data, keep the best weights, and save a checkpoint.

        An evaluation that only an interruption brought about counts for the run as it is left. One that goes on does so
        as if there had been none: its checkpoint knows nothing of it, and the best weights before are set aside.
        """
        progress, learner = self.progress, self.learner
        before, interim = dataclasses.replace(progress), not scheduled and not self.watch.stopped
        with self.batch_norm.taken():
            metrics = self._evaluate(scheduled)
            if _keep_best(progress, self.selection, metrics.get(self.selection)) and self.ranks.is_first:
                if interim:
                    checkpoint.set_aside(self.folder, (WEIGHTS_FILE, LOSS_FILE))
                self.model.save_weights(self.folder)
                save_state(self.loss, self.folder / LOSS_FILE)
        if not scheduled:
            progress.stale_evaluations = before.stale_evaluations
        progress.sampler = self.feed.state()
        if self.ranks.is_first:
            saved = dataclasses.replace(before, sampler=progress.sampler, interim=True) if interim else progress
            checkpoint.save_checkpoint(self.folder / "checkpoints", learner.modules, learner.optimizer, saved)

    def _evaluate(self, scheduled: bool) -> dict[str, float | None]:
        """The figures of the validation data, which the history is told too."""
        vectors = encode_whole(self.held, self.model, self.ranks, Reporter())
        _check_size(vectors, self.progress.step)
        metrics = told(self._measured(vectors) if self.ranks.is_first else None, self.ranks)
        if isinstance(self.loss, nn.Module):
            spread_buffers([self.loss], self.ranks)  # one of the user's own may count its calls
        figures = {f"validation.{name}": value for name, value in metrics.items() if value is not None}
        if self.learned is not None and scheduled:
            figures["learned_share"] = self.learned.look(self.progress.step, self.config, state_of(self.loss))
        self.history.add(self.progress.step, figures)
        return metrics

    def _measured(self, vectors: np.ndarray) -> dict[str, float | None]:
        """The figures of the validation data."""
        distance = make_distance(self.config.loss, state_of(self.loss))
        metrics = evaluate_vectors(
            vectors, self.held.records, distance, intervals=False, max_pairs=MOST_PAIRS_WHILE_TRAINING
        ).metrics
        if self.selection == "loss":
            return {**metrics, "loss": whole_loss(self.held.records, self.loss, vectors)}
        return metrics

    def _restored(self) -> checkpoint.Progress:
        """The newest checkpoint, which rank 0 reads, or the start: on all ranks the same weights, those of rank 0."""
        found, unreadable = (
            checkpoint.read_checkpoint(self.folder / "checkpoints") if self.ranks.is_first else (None, [])
        )
        for sentence in unreadable:
            self.reporter.warn(sentence)
        noted = told(vars(found.progress) if found else None, self.ranks)
        if noted is None:
            spread_state(self.learner.modules, self.ranks)
            return checkpoint.Progress()
        if self.ranks.is_first:
            checkpoint.put_back(self.folder)
        progress, path = found.progress if found else checkpoint.Progress(**noted), self.folder / "checkpoints"
        tensors = spread_tensors(found.tensors if found else {}, self.ranks)
        checkpoint.Checkpoint(found.path if found else path, progress, tensors).restore(
            self.learner.modules, self.learner.optimizer
        )
        self.feed.restore(progress.sampler)
        self.reporter.say(f"going on from step {progress.step}")
        return progress

    def _make_history(self, tracker: Tracker | None) -> History:
        if not self.ranks.is_first:
            return NoHistory()
        trackers = [] if tracker is None else [tracker]
        if self.config.training.tensorboard:
            trackers.append(TensorBoard(self.folder / "tensorboard", self.progress.step))
        interim, self.progress.interim = self.progress.interim, False
        return History(self.folder / "history.jsonl", self.progress.step, trackers, interim)

    def _make_miner(self, sampler: Sampler) -> Miner | None:
        if not isinstance(sampler, MinedBatches):
            return None
        config = self.config
        return Miner(
            sampler, self.train, self.model, lambda: make_distance(config.loss, state_of(self.loss)), config.mine,
            config.loss.margin, self.folder, self.reporter, self.ranks,
        )  # fmt: skip

    def _say_how(self) -> None:
        """Say once what computes the loss, since "auto" leaves it open."""
        plan = getattr(self.loss, "plan", None)
        if not self.has_said_how and isinstance(plan, Plan):
            shared = f", each of {plan.ranks} ranks its part" if plan.ranks > 1 else ""
            self.reporter.say(f"the loss is computed by: {plan.implementation}{shared}")
            self.has_said_how = True

    def _live(self, figures: dict[str, Any]) -> str:
        """The figures shown beside the progress bar."""
        shown = [f"loss {figures['loss']:.4f}"]
        if "active_share" in figures:
            shown.append(f"active {figures['active_share']:.1%}")
        if self.progress.best_value is not None:
            shown.append(f"best {self.selection} {self.progress.best_value:.3f}")
        return "  ".join(shown)


def starts_trained(config: Config) -> bool:
    """Whether the encoder knows something before the first step: of a run, or of pretrained weights."""
    return config.training.init is not None or getattr(config.encoder, "weights", None) is not None


def _make_memory(config: Config, model: Model) -> Memory | None:
    options = config.batch
    if not options.memory:
        return None
    encoder = model.encoder if options.momentum else None
    return Memory(options.memory, encoder=encoder, momentum=options.momentum).to(model.device)


def _say_chunk(config: Config, model: Model, train: Readable, reporter: Reporter, ranks: Ranks) -> None:
    """Say in what parts a batch goes through the encoder, and warn where that changes the result."""
    chunk, whole = config.batch.chunk, items_in_batch(config.batch, train.records)
    count = max(ranks.shares(whole))
    if ranks.size > 1:
        reporter.say(f"{ranks.size} ranks train together: each takes up to {count:,} of the {whole:,} items of a batch")
        warning = warning_of_shares(model.encoder.train(), chunk, ranks)
        if warning:
            reporter.warn(warning)
    if chunk is None or chunk >= count:
        return
    reporter.say(f"the encoder takes {chunk:,} of {count:,} items at a time")
    warning = warning_of_statistics(model.encoder.train(), chunk, count)
    if warning:
        reporter.warn(warning)


def _check_mining(config: Config, supervision: Supervision, steps: int, reporter: Reporter) -> None:
    """Warn of a run that ends before it mines."""
    every = config.batch.mine_every
    if every and not starts_trained(config) and (needed := supervision.count_steps(every)) >= steps:
        reporter.warn(
            f"mine_every is {every}, and nothing will be mined: so many epochs take {needed:,} steps, and the run has "
            f"{steps:,}"
        )


def _check_size(vectors: np.ndarray, step: int) -> None:
    """Raise TrainingError where embeddings have grown beyond what can be compared."""
    largest = float(np.abs(vectors).max(initial=0.0))
    if math.isnan(largest):
        raise TrainingError(
            f"at step {step} the embeddings of the validation data are no longer numbers: training explodes. Earlier "
            "checkpoints, if any, are unharmed. Try a smaller --learning-rate."
        )
    if largest >= LARGEST:
        raise TrainingError(
            f"at step {step} the largest number in an embedding of the validation data is {largest:g}, and beyond "
            f"{LARGEST:g} distances cannot be computed: training explodes. Earlier checkpoints, if any, are unharmed. "
            "Try a smaller --learning-rate, or embeddings of length 1 (the encoder's normalize)."
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
