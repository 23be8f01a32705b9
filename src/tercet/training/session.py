"""A training session: from a configuration and data to a run folder that is complete but for its report."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

import tercet
from tercet.collectives import ALONE, Ranks, local_device
from tercet.data.augmentation import check_channels
from tercet.data.options import Augmentation, without_idle_colours
from tercet.data.readers import check_exists
from tercet.data.records import Records
from tercet.data.sides import SIDES
from tercet.data.wishes import LABELLED
from tercet.encoders.adapters import remove_adapters
from tercet.encoders.options import ImageOptions, TowersOptions
from tercet.encoders.pretrained import check_weights
from tercet.errors import ConfigError, InputError, RunError, TercetError
from tercet.losses.base import BatchLoss
from tercet.training.assessment.assessment import Asked, Assessment, assess, class_sizes, pairs_of
from tercet.training.assessment.calibration import calibrated_or_warned, drop_calibration, write_calibration
from tercet.training.assessment.dimensions import with_dimensions
from tercet.training.assessment.selection import SELECTIONS
from tercet.training.batches.curriculum import SCORES_FILE, check_reference, keep_scores
from tercet.training.batches.loading import gains_by_workers
from tercet.training.batches.prompts import prompted
from tercet.training.batches.texts import look, tokenised
from tercet.training.batches.towers import choose_towers
from tercet.training.batches.views import HeldViews, check_views, with_views
from tercet.training.config import (
    ENCODERS,
    FREE,
    Config,
    EncoderOptions,
    field_names,
    named_run,
    read_config,
    sized,
)
from tercet.training.folder import files
from tercet.training.folder.copies import COPIES_FILE, write_copies
from tercet.training.folder.fingerprints import FINGERPRINTS_FILE, changed_data, hash_of_all, write_fingerprints
from tercet.training.folder.metrics import CLASSES_FILE, drop_evaluations, read_class_sizes, write_assessment
from tercet.training.intake import kinds_of, read_data, warn_of_copies, warn_of_duplicates
from tercet.training.loop import Outcome, Training
from tercet.training.model import START_WEIGHTS, Model, Readable, choose_device, read_all, weights_hash
from tercet.training.objective.loss import (
    LOSS_FILE,
    Loss,
    completed,
    described,
    make_distance,
    make_loss,
    options_of,
    own_options,
)
from tercet.training.objective.loss_checks import check_domain, check_loss, warn_of_loss
from tercet.training.objective.loss_state import (
    START_FILE,
    check_start,
    read_state,
    restore_state,
    save_state,
    state_of,
)
from tercet.training.reporter import Reporter
from tercet.training.request import Request
from tercet.training.step.chunk import with_chunk
from tercet.training.step.matryoshka import check_longest
from tercet.training.step.mining_schedule import parse_schedule
from tercet.training.step.shared import check_same, encode_whole, spread_state, told

DEFAULT_STEPS = 500
DEFAULT_RATE = 1e-3
DEFAULT_TUNING_RATE = 5e-5


def run_session(request: Request, folder: Path, resume: bool, reporter: Reporter, ranks: Ranks = ALONE) -> Outcome:
    """Train, calibrate and assess; afterwards the run folder holds all but the report.

    Nothing is written before the data is known to be good. With `resume`, training goes on from the newest
    checkpoint of the folder, or from the start where it was stopped before its first. Of several ranks all read the
    data, and only rank 0 the folder, which need not be there for the others.

    Raises:
        RunError: the folder is in the way, or another rank has failed.
        ConfigError: the folder is that of a run with other settings.
    """
    first = ranks.is_first
    resuming = resume and (folder / "config.toml").exists()
    if first and not resuming:
        _check_free(folder, resume)
    resuming = told(resuming, ranks)
    home = folder if resuming and (folder / START_WEIGHTS).exists() else None
    _check_before_reading(request, resuming, home, ranks)
    train_records, held_records = read_data(request, reporter)
    _check_alone(train_records, ranks)
    model = _make_model(request, train_records, local_device(request.training.device, ranks), home)
    train_records, held_records = (prompted(one, model.options) for one in (train_records, held_records))
    loss = _make_loss(request, train_records.form)
    config = _complete(request, loss, model, train_records, held_records.form)
    check_loss(loss, config, train_records, held_records)
    _check_prefixes(config, loss)
    _check_colours(config)
    if resuming and first:
        _check_same(config, read_config(folder / "config.toml"), folder)
        check_start(loss, folder)
    warn_of_loss(loss, config, model, resuming, reporter)
    train = read_all(model.options, train_records, reporter, "training")
    held = read_all(model.options, held_records, reporter, "validation")
    train, held = (dataclasses.replace(one, loader=tokenised(one.loader, model.encoder)) for one in (train, held))
    look(train.loader, reporter, "training")
    look(held.loader, reporter, "validation")
    known, whole = _identified(train.records, held.records, reporter)
    check_same(config, b"".join(whole.values()).hex(), ranks)
    check_views(config, model, train)
    if resuming and first:
        _check_same_data(whole, folder)
        restore_state(loss, folder / START_FILE)
    spread_state(loss, ranks)
    check_domain(make_distance(config.loss, state_of(loss)), model, train)
    config = with_chunk(config, model, train, ranks)
    _check_workers(config, train, reporter)
    before = weights_hash(folder) if first and (folder / "model.safetensors").exists() else None
    if first:
        keep_scores(config, train, folder, resuming, reporter)
        _write_identity(config, model, loss, train.records, known, whole, folder)
    if held.records.form == "items":
        held = HeldViews.of(held, config)

    outcome = Training(config, model, loss, train, held, folder, reporter, ranks, request.tracker).run()

    if first:
        model.take_weights(folder)
        restore_state(loss, folder / LOSS_FILE)
    else:
        remove_adapters(model.encoder)
    spread_state(model.encoder, ranks)
    vectors = encode_whole(held, model, ranks, reporter, "validating")
    if first:
        _conclude(config, model, train, held, vectors, outcome, before, folder, reporter, ranks)
    return outcome


def _identified(train: Records, held: Records, reporter: Reporter) -> tuple[np.ndarray, dict[str, bytes]]:
    """The fingerprints of what is trained on, and a hash of either set; said is what occurs in both, or twice."""
    known, of_held = train.fingerprints(), held.fingerprints()
    warn_of_duplicates(known, held, of_held, "validation", reporter)
    if train.form == "items":
        warn_of_copies(known, reporter)
    return known, {"training": hash_of_all(train, known), "validation": hash_of_all(held, of_held)}


def _conclude(
    config: Config, model: Model, train: Readable, held: Readable, vectors: np.ndarray, outcome: Outcome,
    before: str | None, folder: Path, reporter: Reporter, ranks: Ranks,
) -> None:  # fmt: skip
    """Calibrate and assess, and write what came of the training; `before` is the hash of the weights at its start."""
    if before not in (None, weights_hash(folder)):
        drop_evaluations(folder)
        drop_calibration(folder)
    reporter.say(
        f"{outcome.reason} after {outcome.steps} steps; the best weights are those of step {outcome.best_step}"
    )
    assessment = _calibrated_assessment(vectors, held, config, folder, reporter)
    write_assessment(folder, "validation", assessment, held.records, duplicates=0)
    files.write_json(folder / "summary.json", _summary(config, model, train, held, outcome, reporter, ranks))


def _check_alone(records: Records, ranks: Ranks) -> None:
    if ranks.size > 1 and records.kind == SIDES:
        raise InputError(f"two towers are trained by one process, and these are {ranks.size}; start without torchrun.")


def _towers(options: EncoderOptions) -> tuple[Any, ...]:
    """The options of both encoders of two towers, or those of the only one."""
    return getattr(options, "towers", (options,))


def _check_colours(config: Config) -> None:
    for tower in _towers(config.encoder):
        check_channels(config.augmentation, getattr(tower, "channels", None))


def _check_prefixes(config: Config, loss: Loss) -> None:
    """Raise InputError where the loss cannot be summed over prefixes of an embedding."""
    lengths, dim = config.training.matryoshka, getattr(config.encoder, "dim", None)
    if lengths and isinstance(loss, BatchLoss) and loss.rule.distance.dim is not None:
        raise InputError(
            f"matryoshka is set, and the distance maps embeddings of {loss.rule.distance.dim} numbers and no shorter "
            "ones; leave it out, or take another distance."
        )
    if lengths and dim is not None:
        check_longest(lengths, dim)


def _check_workers(config: Config, train: Readable, reporter: Reporter) -> None:
    """Say so where processes that load would only cost memory; the run then starts none."""
    if config.training.workers and not gains_by_workers(train.loader):
        reporter.warn(
            f"workers is {config.training.workers}, and processes load a torch Dataset or images that do not fit into "
            "memory; the training data is neither, so none are started (leave --workers out)"
        )


def _check_free(folder: Path, resume: bool) -> None:
    """A run that was killed before its config.toml was written, the last of its first files, may start again."""
    if resume and folder.is_dir() and all(_is_first(path.relative_to(folder)) for path in folder.rglob("*")):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"{folder} exists already. Go on with it by adding --resume (from Python: resume=True), or choose another "
            "name."
        )


def _is_first(path: Path) -> bool:
    """Whether a path in a run is among those that `_write_identity` writes before config.toml, or half of one."""
    known = (
        "encoder", "checkpoints", START_FILE, FINGERPRINTS_FILE, CLASSES_FILE, SCORES_FILE, START_WEIGHTS,
        COPIES_FILE,
    )  # fmt: skip
    return path.parts[0] == "encoder" or path.as_posix() in known or path.name.endswith(".partial")


def _check_same(config: Config, before: Config, folder: Path) -> None:
    differing = [
        f"{group}.{name} was {old!r} and is now {new!r}"
        for group in ("data", "encoder", "loss", "batch", "augmentation", "training", "mine", "curriculum")
        for name in field_names(type(getattr(before, group)))
        if name not in FREE
        and (old := getattr(getattr(before, group), name)) != (new := getattr(getattr(config, group), name, None))
    ]
    if before.custom_loss != config.custom_loss:
        differing.append(f"the loss was {before.custom_loss or 'made of options'} and is now {_named(config)}")
    if differing:
        raise ConfigError(
            f"{folder} can be resumed with its own settings only: {'; '.join(differing)}. Leave these out, or start a "
            "new run."
        )


def _named(config: Config) -> str:
    return config.custom_loss or f"made of options, {config.loss.loss!r}"


def _check_same_data(whole: Mapping[str, bytes], folder: Path) -> None:
    """Resuming on other data would train on what was held out before, or compare figures on unlike data."""
    changed = changed_data(folder, whole) if (folder / FINGERPRINTS_FILE).exists() else []
    if changed:
        raise ConfigError(
            f"{folder} cannot be resumed: its {changed[0]} data has changed since, or its order or its labels have. "
            "Bring the data back as it was, or start a new run."
        )


def _choose_encoder(request: Request, records: Records) -> EncoderOptions:
    """The options for this kind of data; options for another kind would do nothing, and are refused."""
    if records.kind == SIDES:
        return choose_towers(request, records)
    if "custom" in request.encoders:
        return request.encoders["custom"]
    if records.kind == "tensor":
        if len(request.encoders) == 1:  # Tercet's own encoders take the tensors of a dataset too
            return next(iter(request.encoders.values()))
        raise InputError(
            "a torch Dataset of tensors does not say what it holds; give encoder=ImageOptions(), TabularOptions(), "
            "your own module, or 'package.module:factory'."
        )
    for kind, options in request.encoders.items():
        if kind != records.kind and options != type(options)():
            raise InputError(f"options for the {kind} encoder were given, and the data is {records.kind}.")
    if records.kind != "image" and request.augmentation != Augmentation():
        raise InputError(f"options for image augmentation were given, and the data is {records.kind}.")
    return request.encoders.get(records.kind, ENCODERS[records.kind]())


def _make_model(request: Request, records: Records, device: str, home: Path | None) -> Model:
    """A new model for these records, or that of the run to start from.

    A run that is resumed has kept what it started from, in `home`: the other one may have changed since.
    """
    options, training = _choose_encoder(request, records), request.training
    if training.init is None:
        return Model.create(options, records, training.seed, device, request.module)
    if home is not None:
        kept = read_config(home / "config.toml").encoder
        return Model.load(kept, home, device, request.module, START_WEIGHTS)
    folder = named_run("init", training.init)
    before = read_config(folder / "config.toml")
    if before.data.kind != _kind_of(records) or _shape_of(before.encoder) != _shape_of(options):
        raise InputError(
            f"init names {folder}, which was trained with {_shape_of(before.encoder)}; this data takes "
            f"{_shape_of(options)}."
        )
    chosen = [one for one in request.encoders.values() if one.kind != "custom" and one != type(one)()]
    if chosen and options != before.encoder:
        raise InputError(
            f"init names {folder}, whose encoder is taken as it is, and other options for the encoder were given; "
            "leave them out."
        )
    if getattr(before.encoder, "lora_rank", None) is not None:
        raise InputError(
            f"init names {folder}, whose adapters are merged into its weights. Go on from a folder of them: tercet "
            f"export {folder} --to sentence-transformers FOLDER, and --text.weights FOLDER."
        )
    model = Model.load(before.encoder, folder, device, request.module)
    columns = tuple(model.assets.get("columns", ()))
    if records.kind == "tabular" and columns and records.columns and columns != records.columns:
        raise InputError(f"init names {folder}, whose columns are {', '.join(columns)}; here they are "
                         f"{', '.join(records.columns)}. Name them with --columns.")  # fmt: skip
    return model


def _shape_of(encoder: EncoderOptions) -> str:
    """What an encoder is for, in words."""
    if isinstance(encoder, TowersOptions):
        left, right = (f"{one.kind} ({side})" for one, side in zip(encoder.towers, encoder.sides, strict=True))
        return f"two encoders, of {left} and of {right}"
    return "an encoder of your own" if encoder.kind == "custom" else f"an encoder of {encoder.kind} data"


def _kind_of(records: Records) -> Any:
    """What the configuration says that the items are; None of what has several kinds or none that is known."""
    return None if records.kind in ("tensor", SIDES) else records.kind


def _make_loss(request: Request, form: str) -> Loss:
    """The loss that is asked for: an object, or what the options name; its mining is the first of a schedule."""
    if request.custom_loss is not None:
        return request.custom_loss
    options, schedule = request.loss, request.training.mining_schedule
    if schedule is not None and options.mining is None and options.loss in (None, "triplet") and form != "marked-pairs":
        mining: Any = parse_schedule(schedule).stages[0][0]
        options = dataclasses.replace(options, mining=mining)
    return make_loss(completed(options, form, request.training.seed))


def _check_before_reading(request: Request, resuming: bool, home: Path | None, ranks: Ranks) -> None:
    """Raise for settings that no data goes with, and for what they name and is not there: data may be much."""
    _check_settings(request)
    choose_device(local_device(request.training.device, ranks))
    if request.data.validation is not None:
        check_exists(request.data.validation)
    if request.training.init is None:
        _check_weights(request)
    elif home is None:
        named_run("init", request.training.init)
    if ranks.is_first and not resuming:
        check_reference(request.curriculum)


def _check_weights(request: Request) -> None:
    for options in request.encoders.values():
        for tower in _towers(options):
            weights = getattr(tower, "weights", None)
            if weights is not None and not str(weights).startswith("timm:"):
                check_weights(weights)


def _check_settings(request: Request) -> None:
    """Raise where the settings are wrong by themselves, or contradict each other."""
    try:
        _make_loss(request, "labels")
    except TercetError as fault:
        try:
            _make_loss(request, "marked-pairs")  # of which a loss left open is another
        except TercetError:
            raise fault from None
    data = request.data
    if request.validation is not None:
        data = dataclasses.replace(data, validation="an object")
    Config(
        source="", data=data, encoder=ImageOptions(), loss=request.loss, batch=request.batch,
        augmentation=request.augmentation, training=request.training, mine=request.mine, curriculum=request.curriculum,
        custom_loss=None if request.custom_loss is None else described(request.custom_loss),
    )  # fmt: skip


def _complete(request: Request, loss: Loss, model: Model, records: Records, held_form: str) -> Config:
    """The configuration with everything that the data decided, as it is written to the run."""
    kind, form = _kind_of(records), cast(Any, "labels" if records.form in LABELLED else records.form)
    training = request.training
    options = options_of(loss) if isinstance(loss, BatchLoss) else own_options(request.loss, loss)
    if options.distance is None:
        options = dataclasses.replace(options, distance="euclidean")
    if training.steps is None and training.epochs is None:
        training = dataclasses.replace(training, steps=DEFAULT_STEPS)
    if training.learning_rate is None:
        towers = _towers(model.options)
        tuned = any(getattr(one, "weights", None) and not getattr(one, "frozen", False) for one in towers)
        training = dataclasses.replace(training, learning_rate=DEFAULT_TUNING_RATE if tuned else DEFAULT_RATE)
    if training.selection is None:
        training = dataclasses.replace(training, selection=SELECTIONS[held_form][0])  # type: ignore[arg-type]
    elif training.selection not in (*SELECTIONS[held_form], "loss"):
        raise InputError(
            f"selection is {training.selection!r}, and the validation data holds {held_form.replace('-', ' ')}, which "
            f"have no such figure; allowed are {', '.join(map(repr, (*SELECTIONS[held_form], 'loss')))}."
        )
    return Config(
        source=records.source,
        data=dataclasses.replace(
            request.data,
            kind=kind,
            form=form,
            columns=request.data.columns or records.columns or None,
            towers="separate" if records.kind == SIDES else request.data.towers,
            **kinds_of(records),
        ),
        encoder=model.options,
        loss=options,
        batch=with_views(sized(request.batch, records.form), records),
        augmentation=without_idle_colours(
            request.augmentation, request.preset, getattr(model.options, "channels", None)
        ),
        training=training,
        mine=request.mine,
        curriculum=request.curriculum,
        custom_loss=described(loss),
    )


def _calibrated_assessment(
    vectors: np.ndarray, held: Readable, config: Config, folder: Path, reporter: Reporter
) -> Assessment:
    """Calibrate the threshold on the embeddings of the validation data, and assess the model there."""
    records, distance = held.records, make_distance(config.loss, read_state(folder / LOSS_FILE))
    pairs = pairs_of(vectors, records, distance)
    calibration = calibrated_or_warned(pairs, config.training.threshold_target, "validation data", reporter)
    write_calibration(folder, calibration)
    asked = Asked(threshold=calibration.threshold, trained=read_class_sizes(folder), pairs=pairs)
    found = assess(vectors, records, distance, asked)
    found = with_dimensions(found, vectors, records, distance, config)
    return held.told(found) if isinstance(held, HeldViews) else found


def _write_identity(
    config: Config,
    model: Model,
    loss: Loss,
    records: Records,
    known: np.ndarray,
    whole: Mapping[str, bytes],
    folder: Path,
) -> None:
    """Write what the run is, before the first step: it can be resumed from here on."""
    model.save_assets(folder / "encoder")
    save_state(loss, folder / START_FILE)
    if config.training.init is not None:
        files.write_tensors(folder / START_WEIGHTS, model.encoder.state_dict())
    write_fingerprints(folder, known, whole)
    files.write_json(folder / CLASSES_FILE, class_sizes(records))
    write_copies(folder, records, known)
    files.write_text(folder / "config.toml", config.to_toml())


def _summary(
    config: Config, model: Model, train: Readable, held: Readable, outcome: Outcome, reporter: Reporter, ranks: Ranks
) -> dict[str, Any]:
    skipped = [*train.records.skipped, *held.records.skipped]
    kind = " and ".join(train.records.columns) if train.records.kind == SIDES else train.records.kind
    return {
        "title": f"{kind} embedding, trained on {config.source}",
        "train": train.records.count(),
        "validation": held.count(),
        **({"several_labels": True} if train.records.sets is not None else {}),
        "source": config.source,
        "reason": outcome.reason,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "selection": outcome.selection,
        "best_value": outcome.best_value,
        "parameters": sum(weight.numel() for weight in model.encoder.parameters()),
        "skipped": [{"name": one.name, "reason": one.reason} for one in skipped],
        "warnings": reporter.warnings,
        "ranks": ranks.size,
        "versions": {
            "tercet": tercet.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
