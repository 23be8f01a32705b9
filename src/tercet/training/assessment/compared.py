"""Runs compared: every run embeds the same items, and what they differ by is told from chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.loaders import make_loader
from tercet.data.records import Records, Skipped, plural
from tercet.data.wishes import ALIKE
from tercet.distances import Distance
from tercet.errors import DataError, InputError, RunError
from tercet.evaluation.comparison import (
    TITLES,
    Difference,
    Measured,
    compare_groups,
    measure_labelled,
    measure_tuples,
    verdicts,
)
from tercet.training.batches.supervision import labels_of
from tercet.training.folder import files
from tercet.training.folder.fingerprints import read_fingerprints
from tercet.training.model import Model, read_all
from tercet.training.reporter import Reporter

FIRST_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Compared:
    """One run that is compared: where it is, what embeds, by which distance, and how it reads data."""

    name: str
    path: Path
    model: Model
    distance: Distance
    read: Callable[[], Records]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What came of comparing runs on the same items.

    Attributes:
        data: what they were compared on, in words.
        groups: the runs of each group by their names; a run that stands for itself is a group of one.
        figures: by group, then by metric: the mean over its runs.
        intervals: by group of one run, then by metric: the 95 % interval of the figure.
        differences: of every two groups, for every metric that all have.
        verdicts: a sentence for every two groups, and what it holds for.
        notes: what was left out.
        skipped: items that could not be read.
    """

    data: str
    groups: dict[str, list[str]]
    figures: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    differences: list[Difference]
    verdicts: list[str]
    notes: list[str]
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "data": self.data, "groups": self.groups, "figures": self.figures,
            "intervals": {name: {key: list(ends) for key, ends in of.items()} for name, of in self.intervals.items()},
            "differences": [one.to_json() for one in self.differences], "verdicts": self.verdicts, "notes": self.notes,
            "skipped": [{"name": one.name, "reason": one.reason} for one in self.skipped],
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write all of it to a JSON file."""
        files.write_json(Path(path), self.to_json())


def group_runs(runs: Sequence[Any], against: Sequence[Any]) -> dict[str, list[Any]]:
    """The runs by group: each for itself, the runs of a folder of runs, or with `against` one group of each.

    Raises:
        InputError: `against` beside folders of runs, or a run twice.
    """
    named = [_name(one) for one in (*runs, *against)]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} is given more than once; a run is not compared with itself.")
    folders = {str(one): found for one in (*runs, *against) if (found := _runs_within(one))}
    if not against:
        return {_name(one): folders.get(str(one), [one]) for one in runs}
    if folders:
        raise InputError(
            f"{next(iter(folders))} is a folder of runs, which is a group already; give the two folders without "
            "--against, or the runs themselves."
        )
    return {_joint_name(runs): list(runs), _joint_name(against): list(against)}


def _runs_within(one: Any) -> list[Path]:
    """The runs in a folder that is none itself."""
    if not isinstance(one, str | Path) or not Path(one).is_dir() or (Path(one) / "config.toml").exists():
        return []
    return sorted(path.parent for path in Path(one).glob("*/config.toml"))


def _name(one: Any) -> str:
    return str(getattr(one, "path", one))


def _joint_name(runs: Sequence[Any]) -> str:
    first, others = _name(runs[0]), len(runs) - 1
    return f"{first} and {others} more" if others else first


def compare_runs(groups: Mapping[str, Sequence[Compared]], reporter: Reporter) -> Comparison:
    """Embed the same items with every run and compare the groups.

    Raises:
        InputError: fewer than two groups, groups of one beside groups of several, or runs for data of unlike kinds.
        DataError: data without labels, pairs or triplets, or in which the runs have no figure in common.
        RunError: an item of the data was among those that a run was trained on.
    """
    _check_groups(groups)
    runs = [run for of in groups.values() for run in of]
    records = _common_records(runs, reporter)
    _check_unseen(runs, records)
    measured = {name: [_measure(run, records, reporter) for run in of] for name, of in groups.items()}
    differences = compare_groups(measured)
    common = [key for key in TITLES if all(key in one.figures for of in measured.values() for one in of)]
    if not common:
        raise DataError(f"{records.source} ({records.count()}) gives no figure to compare by: it needs items that are "
                        "the same and items that are different.")  # fmt: skip
    alone = {name: of[0] for name, of in measured.items() if len(of) == 1}
    return Comparison(
        data=records.description,
        groups={name: [str(run.path) for run in of] for name, of in groups.items()},
        figures={name: {key: float(np.mean([one.figures[key][0] for one in of])) for key in common}
                 for name, of in measured.items()},
        intervals={name: {key: ends for key in common if (ends := one.interval(key))} for name, one in alone.items()},
        differences=differences,
        verdicts=_sentences(differences, alone, next(iter(measured.values()))[0]),
        notes=_notes(groups, records),
        skipped=records.skipped,
    )  # fmt: skip


def _check_groups(groups: Mapping[str, Sequence[Compared]]) -> None:
    runs = [run for of in groups.values() for run in of]
    if len(groups) < 2:
        raise InputError(f"comparing takes two runs at least; given {len(runs)}.")
    sizes = {name: len(of) for name, of in groups.items()}
    if min(sizes.values()) == 1 < max(sizes.values()):
        alone = next(name for name, size in sizes.items() if size == 1)
        raise InputError(
            f"{alone} is a single run and others are several: how far one training is from the next cannot be told of "
            "it. Give two runs and more of each method, trained with other seeds, or one run of each."
        )
    kinds = {run.model.options.kind: run.name for run in reversed(runs)}
    if len(kinds) > 1:
        listed = "; ".join(f"{name} has an encoder of {kind}" for kind, name in kinds.items())
        raise InputError(f"the runs cannot embed the same items: {listed}. Compare runs for data of one kind.")


def _common_records(runs: Sequence[Compared], reporter: Reporter) -> Records:
    """The items that every run can read."""
    records = runs[0].read()
    if records.form in ("items", "scored-pairs"):
        raise DataError(
            f"{records.source} has no labels, pairs or triplets to compare by"
            f"{'' if records.form == 'items' else ', but scores of pairs'}."
        )
    for run in runs[1:]:
        _check_same_items(records, run.read(), runs[0].name, run.name)
    for run in runs:
        records = read_all(run.model.options, records, reporter, "given").records
    return records


def _check_same_items(one: Records, other: Records, first: str, second: str) -> None:
    if (one.form, one.kind, len(one), one.columns) != (other.form, other.kind, len(other), other.columns):
        raise DataError(
            f"{one.source} is read as {one.description} for {first} and as {other.description} for {second}. Say how "
            "to read it: --form, --label, --columns."
        )


def _check_unseen(runs: Sequence[Compared], records: Records) -> None:
    contents = records.fingerprints()
    for run in runs:
        known = read_fingerprints(run.path)
        rows = np.flatnonzero(np.isin(contents, known))
        if len(rows):
            first = ", ".join(str(records.names[row]) for row in rows[:FIRST_SHOWN])
            raise RunError(
                f"{run.name} was trained on {len(rows)} of the {len(records)} items of {records.source} ({first}"
                f"{', ...' if len(rows) > FIRST_SHOWN else ''}), which favours it. Compare on items that none has seen."
            )


def _measure(run: Compared, records: Records, reporter: Reporter) -> Measured:
    loader = make_loader(run.model.options, records.items)
    loader.check()
    vectors = run.model.encode(loader, np.arange(len(records)), reporter, f"embedding with {run.name}")
    if records.form in ALIKE:
        writers = None if records.forged is None else records.labels
        labels = labels_of(records) if records.sets is None else records.label_lists()
        return measure_labelled(vectors, labels, run.distance, units=writers)
    assert records.tuples is not None
    return measure_tuples(vectors, records.tuples, records.similar, run.distance)


def _sentences(differences: list[Difference], alone: Mapping[str, Measured], any_one: Measured) -> list[str]:
    if not differences:
        units = plural(any_one.n_units, any_one.unit)
        return [f"There are {units} here; to tell a difference from chance takes three or more."]
    if alone:
        holds = (
            "This holds for these runs on data like this, not for the methods that they were trained by: another seed "
            "may change it. Train each several times with other --seed and compare them by --against."
        )
    else:
        holds = "This holds for the methods on data like this: the variance between seeds is part of it."
    return [*verdicts(differences), holds]


def _notes(groups: Mapping[str, Sequence[Compared]], records: Records) -> list[str]:
    notes = []
    if len(groups) > 2:
        notes.append("p is corrected by Holm's method for comparing more than two.")
    if records.skipped:
        notes.append(f"Items left out because they cannot be read: {len(records.skipped):,}.")
    return notes
