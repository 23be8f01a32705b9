"""What a loss goes with: the form and classes of the data, the encoder, and its distance's domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tercet.data.labels import NONE
from tercet.data.records import Records
from tercet.data.sides import SIDES
from tercet.data.wishes import ALIKE, LABELLED
from tercet.distances import Distance
from tercet.errors import InputError
from tercet.losses import ClipLoss, ContrastiveLoss, TripletLoss
from tercet.losses.base import BatchLoss
from tercet.training.config import BatchOptions, Config
from tercet.training.model import EMBED_BATCH, Model, Readable
from tercet.training.objective.loss import Loss
from tercet.training.objective.loss_state import START_FILE, state_of, unlike_its_settings
from tercet.training.reporter import Reporter
from tercet.training.step.mining_schedule import parse_schedule


def check_loss(loss: Loss, config: Config, train: Records, held: Records) -> None:
    """Raise InputError unless the loss goes with the data and with the encoder."""
    if config.training.mining_schedule is not None:
        _check_scheduled(loss, config.training.mining_schedule, train)
    check_supervision(loss, train)
    if config.training.selection == "loss":
        check_supervision(loss, held, "validation")
    state_of(loss)
    if train.forged is not None:
        _check_no_forgeries(loss, config)
    _check_batch(config.batch, train)
    if config.batch.memory:
        _check_remembers(loss, train)
    if train.sets is not None:
        _check_takes_sets(config)
    elif train.labels is None:
        _check_needs_no_labels(config, train)
    if not isinstance(loss, BatchLoss):
        return
    if loss.across_ranks:
        raise InputError(
            "across_ranks is set, and tercet.train divides the work among its processes by itself; leave it out."
        )
    if loss.normalize and not config.encoder.normalize:
        raise InputError(
            "normalize is set for the loss and not for the encoder: evaluation and search would compare other rows "
            "than the loss. Set the encoder's normalize instead, which holds everywhere."
        )


def _check_no_forgeries(loss: Loss, config: Config) -> None:
    """Raise InputError where an option is set that takes items of a class as alike."""
    for name, is_set in (
        ("mine_every", config.batch.mine_every),
        ("curriculum.pacing", config.curriculum.pacing is not None),
        ("record_learned", config.training.record_learned),
        ("margins per class", isinstance(loss, TripletLoss) and loss.margins is not None),
    ):
        if is_set:
            raise InputError(
                f"{name} is set, which takes all items of a class as alike, and the data marks forgeries. Leave it out."
            )


def _check_batch(batch: BatchOptions, records: Records) -> None:
    """Raise InputError where an option is set that says nothing of batches of this form."""
    usual, of_labels = BatchOptions(), records.form in LABELLED
    idle = ("rows_per_batch",) if of_labels else ("classes_per_batch", "samples_per_class", "singletons")
    for name in idle:
        if getattr(batch, name) != getattr(usual, name):
            instead = "classes_per_batch and samples_per_class say" if of_labels else "rows_per_batch says"
            raise InputError(
                f"{name} is {getattr(batch, name)!r}, and the data holds {records.form.replace('-', ' ')}, of which "
                f"{instead} what a batch holds. Leave it out."
            )


def _check_takes_sets(config: Config) -> None:
    """Raise InputError where an option is set that takes each item to have one label."""
    for name, is_set in (
        ("mine_every", config.batch.mine_every),
        ("curriculum.pacing", config.curriculum.pacing is not None),
        ("record_learned", config.training.record_learned),
    ):
        if is_set:
            raise InputError(
                f"{name} is set, which takes each item to have one label, and items of the data have several. Leave it "
                "out."
            )


def _check_needs_no_labels(config: Config, records: Records) -> None:
    """Raise InputError where an option is set that would do nothing without labels."""
    for name, is_set, why in (
        ("mine_every is", config.batch.mine_every, "triplets are mined of items with labels"),
        ("class_sampling is", config.batch.class_sampling != "size", "classes are sampled where items have labels"),
        ("curriculum.pacing is", config.curriculum.pacing is not None, "a curriculum is of items with labels"),
        ("record_learned is", config.training.record_learned, "an item is learned whose neighbour has its label"),
    ):
        if is_set:
            held = records.form.replace("-", " ")
            raise InputError(f"{name} set, and the data holds {held}; {why}. Leave it out.")


def _check_remembers(loss: Loss, records: Records) -> None:
    """Raise InputError unless the batch can be compared with a memory."""
    if records.form not in (*ALIKE, "items"):
        raise InputError(
            f"memory is set, and the data holds {records.form.replace('-', ' ')}, which say nothing of other items: "
            "leave it out, or train on labels or positive pairs."
        )
    if records.kind == SIDES:
        raise InputError("memory is set, and it does not tell the sides of two towers apart; leave it out.")
    if not isinstance(loss, BatchLoss):
        raise InputError(
            "memory is set, and a loss of your own takes no reference set; leave it out, or take a loss of Tercet's."
        )


def _check_scheduled(loss: Loss, schedule: str, records: Records) -> None:
    """Raise InputError unless every mining of the schedule goes with the loss's other settings, and with the data."""
    if records.form not in ALIKE:
        raise InputError(
            f"mining_schedule is set, and the data holds {records.form.replace('-', ' ')}, of which nothing is left to "
            "mine; leave it out."
        )
    assert isinstance(loss, TripletLoss)
    for mining, _ in parse_schedule(schedule).stages:
        faults = dataclasses.replace(loss.rule, mining=mining, fallback="skip").faults()
        if faults:
            raise InputError(f"mining_schedule comes to mining {mining!r}, and {' '.join(faults)}")


def check_domain(distance: Distance, model: Model, data: Readable) -> None:
    """Raise InputError where the distance cannot compare what the encoder gives: tried on some items, untrained."""
    if distance.dim is None and not distance.non_negative:
        return
    some = np.arange(min(len(data.records), EMBED_BATCH))
    distance.check_rows(torch.from_numpy(model.encode(data.loader, some, Reporter())), "what the encoder gives")


def warn_of_loss(loss: Loss, config: Config, model: Model, resuming: bool, reporter: Reporter) -> None:
    """What of a loss is probably not wanted: a margin out of reach, draws off the sphere, parameters learned before."""
    if not isinstance(loss, BatchLoss):
        return
    on_sphere = config.encoder.normalize
    margin = _largest_margin(loss)
    largest = loss.rule.distance.sphere_range(getattr(model.options, "dim", 1))
    if on_sphere and margin is not None and margin >= largest:
        reporter.warn(
            f"the margin is {margin:g}, and between normalised embeddings the {config.loss.distance} distance is at "
            f"most {largest:g}: {_unsatisfied(loss)}. Choose a margin well below, such as {largest / 10:g}"
        )
    if loss.rule.mining == "distance-weighted" and not on_sphere:
        reporter.warn(
            "mining 'distance-weighted' draws negatives by how distances are spread on the unit sphere, and the "
            "encoder does not normalise: of negatives farther than 1.4 none is drawn"
        )
    learned = [] if resuming else unlike_its_settings(loss)
    if learned:
        reporter.warn(
            f"the loss has been trained before and starts with {' and '.join(learned)}, which config.toml does not "
            f"tell; {START_FILE} does"
        )


def _largest_margin(loss: BatchLoss) -> float | None:
    if isinstance(loss, TripletLoss):
        return loss.rule.margin if loss.margins is None else float(loss.margins.values().detach().max())
    return loss.rule.margin if isinstance(loss, ContrastiveLoss) else None


def _unsatisfied(loss: BatchLoss) -> str:
    return "no triplet can satisfy it" if isinstance(loss, TripletLoss) else "every negative pair costs something"


def check_supervision(loss: Loss, records: Records, name: str = "training") -> None:
    """Raise InputError unless the loss can be trained on, or measured on, records of this form and these classes."""
    faults = _FORM_FAULTS[records.form](loss, records, name)
    if faults:
        raise InputError("\n".join(faults))


def _faults_of_labels(loss: Loss, records: Records, name: str) -> list[str]:
    if records.kind == SIDES:
        return _faults_of_sides(loss)
    if isinstance(loss, ClipLoss):
        return ["ClipLoss compares two sides, and training has one encoder for both; InfoNCE is that loss of one side."]
    if not isinstance(loss, TripletLoss) or loss.margins is None:
        return []
    if records.labels is None:
        return [f"margins per class need labels, and the data holds {records.form}; give one margin for all."]
    known = set(map(str, loss.margins.classes))
    missing = [one for one in records.classes if one not in known]
    if not missing:
        return []
    return [
        f"margins per class are given for {_listed(loss.margins.classes)}, and the {name} data also has the classes "
        f"{_listed(missing)}; give every class its margin."
    ]


def _faults_of_sets(loss: Loss, records: Records, name: str) -> list[str]:
    """Of items with several labels: a loss that takes one each, and a label that leaves no two items apart."""
    assert records.sets is not None
    if not isinstance(loss, BatchLoss):
        return [
            "a loss of your own takes one label an item, and items of the data have several; take a loss of Tercet's, "
            "or give each item one label."
        ]
    if isinstance(loss, TripletLoss) and loss.margins is not None:
        return ["margins per class need one label an item, and here items have several; give one margin for all."]
    counts = np.bincount(records.sets[records.sets != NONE], minlength=len(records.classes))
    if (counts == len(records)).any():
        return [
            f"all items of the {name} data have the label {records.classes[int(counts.argmax())]!r}, so that none is "
            "unlike another; leave that label out."
        ]
    return _faults_of_labels(loss, records, name)


def _faults_of_sides(loss: Loss) -> list[str]:
    """Two towers compare one side with the other, which takes a loss with a reference."""
    if not isinstance(loss, BatchLoss):
        return ["a loss of your own takes no reference, and two towers compare two sides; take a loss of Tercet's."]
    if isinstance(loss, TripletLoss) and loss.margins is not None:
        return ["margins per class need labels, and the data holds pairs; give one margin for all."]
    return []


def _faults_of_triplets(loss: Loss, records: Records, name: str) -> list[str]:
    if not isinstance(loss, TripletLoss):
        return [_other_form(loss, "triplets", "TripletLoss", "margin, distance and penalty")]
    mined = loss.rule.mining != "all"
    wrong = {
        f"mining is {loss.rule.mining!r}, and of given triplets nothing is left to mine; leave it out": mined,
        "penalty 'lifted' takes all pairs of an anchor together, and given triplets are taken one by one; choose "
        "another, such as 'hinge'": loss.rule.penalty == "lifted",
        "margins per class need labels, and given triplets have none; give one margin for all": (
            loss.margins is not None
        ),
        "a learned temperature gets no gradient from given triplets; give a fixed one": loss.log_scale is not None,
    }
    return [f"{sentence}." for sentence, is_so in wrong.items() if is_so] + _faults_of_rows(loss)


def _faults_of_marked_pairs(loss: Loss, records: Records, name: str) -> list[str]:
    if not isinstance(loss, ContrastiveLoss):
        return [_other_form(loss, "marked-pairs", "ContrastiveLoss", "margins and distance")]
    return _faults_of_rows(loss)


def _faults_of_rows(loss: BatchLoss) -> list[str]:
    """Settings of a loss over a batch that do nothing for rows that are given: these need no kernels."""
    settings = {"statistics": (loss.statistics, "free"), "implementation": (loss.implementation, "auto")}
    return [
        f"{name} is {given!r}, which is of batches with labels; with given triplets or marked pairs leave it out."
        for name, (given, default) in settings.items()
        if given != default
    ]


_FORM_FAULTS: dict[str, Callable[[Loss, Records, str], list[str]]] = {
    "labels": _faults_of_labels,
    "label-sets": _faults_of_sets,
    "items": _faults_of_labels,
    "pairs": _faults_of_labels,
    "triplets": _faults_of_triplets,
    "marked-pairs": _faults_of_marked_pairs,
}


def _other_form(loss: Loss, form: str, wanted: str, used: str) -> str:
    kind = type(loss).__name__
    given = f"a {kind}" if isinstance(loss, BatchLoss) else f"the loss {getattr(loss, '__name__', kind)}"
    return (
        f"{given} needs labels or positive pairs, and the data holds {form}; leave the loss out, or give a "
        f"tercet.{wanted}, whose {used} are used."
    )


def _listed(names: Any) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:5])
    return shown + (", ..." if len(names) > 5 else "")
