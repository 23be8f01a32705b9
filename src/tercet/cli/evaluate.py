"""tercet evaluate."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tercet.cli.console import BY_THIRDS, Json, ReadOptions, figure, parse, reporter, show, show_json


@dataclass(frozen=True)
class Evaluate:
    r"""Measure a run on labelled data, pairs or triplets that it never saw.

    Retrieval (recall@k, R-precision, MAP@R) and verification (ROC, AUC, EER, TAR at FAR, and the errors at the
    threshold that training calibrated), each with a 95 % interval, beside the same figures of the raw inputs. They go
    to metrics.json and into the report.

        tercet evaluate runs/faces --data faces-test/
        tercet evaluate runs/people --data query/ --gallery gallery/ --group-from '_c(\d)' --exclude group-and-label
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    data: str
    """A folder, a table, triplets or pairs, in the form of the training data; or pairs with a score."""

    name: str = "test"
    """What to call the figures; those of an earlier evaluation of that name are replaced."""

    baseline: bool = True
    """Measure the raw inputs (pixels, TF-IDF, standardised columns) as well."""

    folds: str | None = None
    """Marked pairs: the column that holds the fold of each, or how many folds to make of the rows in order, such as \
10. Each fold is judged by the threshold that the others chose, as on LFW."""

    clustering: FlagCreatePairsOff[bool] = False
    """Measure how k-means finds the classes again: NMI, AMI, ARI. With thousands of classes it takes minutes."""

    margin: float | None = None
    """Of triplets, also the share whose negative is farther than the positive by so much."""

    vectors: Literal["float32", "int8", "binary"] = "float32"
    """Measure the embeddings in fewer bytes too, as NAME-int8 or NAME-binary, beside the figures of the floats."""

    form: Literal["labels", "triplets", "pairs", "marked-pairs", "scored-pairs"] | None = None
    """What says which items are alike; found out when left open."""

    gallery: str | None = None
    """What the items are searched for in, in the form of the data; without it among each other."""

    ks: tuple[int, ...] = (1, 5, 10)
    """The k of recall@k, precision@k, nDCG@k and CMC@k."""

    group: str | None = None
    """A column of the table, or tables, that says which group an item is of: its camera, its author."""

    group_from: str | None = None
    r"""A regular expression that finds the group in an item's name, between its parentheses, such as _c(\d)."""

    exclude: Literal["group", "group-and-label"] | None = None
    """What is left out of an item's search: all of its group, or only what shares its label as well (Market-1501)."""

    approximate: bool = False
    """Search through faiss, for very large sets: figures of the k nearest alone, and the share of these it finds."""

    by_class: str | None = None
    """A CSV file to write recall@1 and MAP@R of each class, and of each group, to."""

    dim: int | None = None
    """How many numbers of each embedding to take, from its start (for runs trained with --matryoshka); all when left \
open."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Evaluate as the words say; the exit code."""
    command = parse(Evaluate, words)
    from tercet.run import load

    run = load(command.run, dim=command.dim)
    options = {**dataclasses.asdict(command.read), "form": command.form}
    folds = int(command.folds) if command.folds is not None and command.folds.isdecimal() else command.folds
    found = run.evaluate(
        command.data, name=command.name, baseline=command.baseline, folds=folds, margin=command.margin,
        vectors=command.vectors, clustering=command.clustering, gallery=command.gallery, ks=command.ks,
        group=command.group, group_from=command.group_from, exclude=command.exclude, approximate=command.approximate,
        by_class=command.by_class, reporter=reporter(command.json), **options,
    )  # fmt: skip
    run.report()
    if command.json:
        figures = {key: value for key, value in run.metrics.items() if not key.startswith("validation.")}
        show_json(figures | {f"{command.name}.notes": list(found.notes)})
        return 0
    raw = "baseline" if command.name == "test" else f"{command.name}-baseline"
    has_raw = any(key.startswith(f"{raw}.") for key in run.metrics)
    lines = table(run.metrics, command.name, raw if has_raw else None)
    show(lines)
    if command.vectors != "float32":
        show("\n" + table(run.metrics, f"{command.name}-{command.vectors}", command.name))
    if "\n" not in lines:
        for reason in dict.fromkeys(found.missing.values()):
            show(f"no figure: {reason}")
    for note in found.notes:
        show(f"note: {note}")
    show(f"report: {run.path / 'report.html'}")
    return 0


def _is_of_sides(key: str, name: str) -> bool:
    """Whether a key such as "test.image_to_text.recall_at_1" is of one direction, and worth a line."""
    direction, _, metric = key.removeprefix(f"{name}.").rpartition(".")
    return key.startswith(f"{name}.") and "_to_" in direction and metric in ("recall_at_1", "map_at_r")


VERIFIED = ("eer", "auc", "tar_at_far_0.1", "tar_at_far_0.01", "d_prime", "far", "frr", "brier", "calibration_error",
            "accuracy_folds", "accuracy_folds_error", "val_at_far_0.001_folds")  # fmt: skip
RETRIEVED = ("r_precision", "map_at_r", "map", "mrr", "search_recall", "triplet_accuracy", "triplet_accuracy_margin",
             "nmi", "ami", "ari", "spearman", "pearson", *BY_THIRDS)  # fmt: skip


def shown(metrics: dict[str, object], name: str) -> tuple[str, ...]:
    """The metrics that get a line, with recall@k at every k that was asked for."""
    recall = sorted(
        (key.removeprefix(f"{name}.") for key in metrics if re.fullmatch(rf"{re.escape(name)}\.recall_at_\d+", key)),
        key=lambda key: int(key.rpartition("_")[2]),
    )
    return (*VERIFIED, *recall, *RETRIEVED)


def _of_lengths(metrics: dict[str, object], name: str) -> list[str]:
    """The keys of figures of prefixes, such as dim_96.recall_at_1."""
    keys = [key.removeprefix(f"{name}.") for key in metrics if key.startswith(f"{name}.dim_")]
    return [key for key in keys if key.rpartition(".")[2] in ("recall_at_1", "map_at_r", "triplet_accuracy")]


def table(metrics: dict[str, object], name: str, baseline: str | None) -> str:
    """Before and after, a line for each metric, with intervals."""
    columns = [column for column in (baseline, name) if column]
    of_sides = sorted(key.removeprefix(f"{name}.") for key in metrics if _is_of_sides(key, name))
    of_sides += sorted(_of_lengths(metrics, name), key=lambda key: int(key[4:].partition(".")[0]))
    listed = (*shown(metrics, name), *of_sides)
    width = max(24, *(len(metric) + 2 for metric in listed))
    lines = [(" " * width + "".join(f"{word:<24}" for word in columns)).rstrip()]
    for metric in listed:
        values = [metrics.get(f"{column}.{metric}") for column in columns]
        if all(value is None for value in values):
            continue
        cells = [figure(metrics.get(key), metrics.get(f"{key}_interval"))  # type: ignore[arg-type]
                 for key in (f"{column}.{metric}" for column in columns)]  # fmt: skip
        lines.append(f"{metric:<{width}}" + "".join(f"{word:<24}" for word in cells).rstrip())
    return "\n".join(lines)
