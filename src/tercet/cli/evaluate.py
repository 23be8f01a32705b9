"""tercet evaluate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from tercet.cli.console import BY_THIRDS, Json, ReadOptions, figure, parse, reporter, show, show_json


@dataclass(frozen=True)
class Evaluate:
    """Measure a run on labelled data, pairs or triplets that it never saw.

    Retrieval (recall@k, R-precision, MAP@R) and verification (ROC, AUC, EER, TAR at FAR, and the errors at the
    threshold that training calibrated), each with a 95 % interval, beside the same figures of the raw inputs. They go
    to metrics.json and into the report.

        tercet evaluate runs/faces --data faces-test/
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    data: str
    """A folder, a table, triplets or pairs, in the form of the training data."""

    name: str = "test"
    """What to call the figures; those of an earlier evaluation of that name are replaced."""

    baseline: bool = True
    """Measure the raw inputs (pixels, TF-IDF, standardised columns) as well."""

    folds: str | None = None
    """Marked pairs: the column that holds the fold of each, or how many folds to make of the rows in order, such as \
10. Each fold is judged by the threshold that the others chose, as on LFW."""

    form: Literal["labels", "triplets", "pairs", "marked-pairs"] | None = None
    """What says which items are alike; found out when left open."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Evaluate as the words say; the exit code."""
    command = parse(Evaluate, words)
    from tercet.run import load

    run = load(command.run)
    options = {**dataclasses.asdict(command.read), "form": command.form}
    folds = int(command.folds) if command.folds is not None and command.folds.isdecimal() else command.folds
    found = run.evaluate(
        command.data, name=command.name, baseline=command.baseline, folds=folds, reporter=reporter(command.json),
        **options,
    )  # fmt: skip
    run.report()
    if command.json:
        figures = {key: value for key, value in run.metrics.items() if not key.startswith("validation.")}
        show_json(figures)
        return 0
    raw = "baseline" if command.name == "test" else f"{command.name}-baseline"
    has_raw = any(key.startswith(f"{raw}.") for key in run.metrics)
    show(table(run.metrics, command.name, raw if has_raw else None))
    for note in found.notes:
        show(f"note: {note}")
    show(f"report: {run.path / 'report.html'}")
    return 0


def _is_of_sides(key: str, name: str) -> bool:
    """Whether a key such as "test.image_to_text.recall_at_1" is of one direction, and worth a line."""
    direction, _, metric = key.removeprefix(f"{name}.").rpartition(".")
    return key.startswith(f"{name}.") and "_to_" in direction and metric in ("recall_at_1", "map_at_r")


SHOWN = ("eer", "auc", "tar_at_far_0.1", "tar_at_far_0.01", "d_prime", "far", "frr", "brier", "calibration_error",
         "accuracy_folds", "accuracy_folds_error", "val_at_far_0.001_folds", "recall_at_1", "r_precision", "map_at_r",
         "triplet_accuracy", *BY_THIRDS)  # fmt: skip


def table(metrics: dict[str, object], name: str, baseline: str | None) -> str:
    """Before and after, a line for each metric, with intervals."""
    columns = [column for column in (baseline, name) if column]
    of_sides = sorted(key.removeprefix(f"{name}.") for key in metrics if _is_of_sides(key, name))
    width = max(24, *(len(metric) + 2 for metric in (*SHOWN, *of_sides)))
    lines = [(" " * width + "".join(f"{word:<24}" for word in columns)).rstrip()]
    for metric in (*SHOWN, *of_sides):
        values = [metrics.get(f"{column}.{metric}") for column in columns]
        if all(value is None for value in values):
            continue
        cells = [figure(metrics.get(key), metrics.get(f"{key}_interval"))  # type: ignore[arg-type]
                 for key in (f"{column}.{metric}" for column in columns)]  # fmt: skip
        lines.append(f"{metric:<{width}}" + "".join(f"{word:<24}" for word in cells).rstrip())
    return "\n".join(lines)
