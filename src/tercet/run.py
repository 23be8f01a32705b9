"""Runs: train one, open one, and all that can be done with it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from tercet.collectives import Ranks, joined, local_device
from tercet.data.groups import read_groups
from tercet.data.options import Augmentation
from tercet.data.records import Records, Skipped
from tercet.data.sides import SIDES
from tercet.data.wishes import LABELLED, READING
from tercet.distances import Distance, Mahalanobis
from tercet.doctor import Diagnosis
from tercet.encoders.options import TowersOptions
from tercet.errors import DataError, InputError, RunError, check_choice, suggest
from tercet.evaluation import Evaluation, Pairs, errors_at
from tercet.evaluation.probability import at_prior
from tercet.index import Index
from tercet.index.embedding import Embedding, embed_to_shards
from tercet.index.shards import open_shards, side_of, write_shards
from tercet.mining.options import MiningOptions
from tercet.neighbors.quantised import VECTORS
from tercet.training.assessment.assessment import Asked, pairs_of
from tercet.training.assessment.calibration import (
    Calibration,
    calibrated,
    choose_calibration,
    read_calibration,
    restore_calibration,
)
from tercet.training.assessment.compared import Compared, Comparison, compare_runs, group_runs
from tercet.training.assessment.examination import Examination, check_examined
from tercet.training.assessment.searched import Searched, class_table
from tercet.training.assessment.targets import parse_target
from tercet.training.assessment.verdicts import Verdict, Verdicts, names_of
from tercet.training.assessment.wanted import Wanted
from tercet.training.batches.one_side import of_side, read_side
from tercet.training.batches.pacing import CurriculumOptions
from tercet.training.batches.prompts import ROLES, column_of, has_roles, in_role, prompted, with_prompt
from tercet.training.config import (
    Config,
    DataOptions,
    EncoderOptions,
    field_names,
    read_config,
)
from tercet.training.folder import files
from tercet.training.folder.fingerprints import read_fingerprints
from tercet.training.folder.metrics import (
    NAME_OF_CALIBRATION,
    read_class_sizes,
    read_metrics,
)
from tercet.training.folder.trackers import Tracker
from tercet.training.health.watch import diagnose_folder
from tercet.training.intake import OF_TABLES, is_table, read_source, refuse_idle, warn_of_duplicates
from tercet.training.mined import MinedRecords, mine_records
from tercet.training.model import Model, read_all, weights_hash
from tercet.training.objective.loss import LOSS_FILE, Loss, make_distance
from tercet.training.objective.loss_state import read_state
from tercet.training.reporter import ConsoleReporter, Reporter, SilentReporter
from tercet.training.request import Request, base_request, make_request
from tercet.training.rows import parse_row, rows_of
from tercet.training.session import run_session
from tercet.training.step.shared import told

NOT_COPIED = {"checkpoints", "cache"}
"""Folders of a run that other ranks need no copy of."""


@dataclass(frozen=True)
class Calibrated:
    """A threshold that was calibrated after training, and what it does.

    Attributes:
        target: eer, f1 or far=…; "training" where the threshold is training's again.
        threshold: the one that counts now.
        before: the one that counted before; None if there was none.
        figures: far, frr, accuracy, balanced_accuracy and f1 by what it was counted on: data, and test where given.
    """

    target: str
    threshold: float
    before: float | None
    figures: dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class EmbeddedRecords:
    """Embeddings float32 (N, D) of what could be read of a source, with names and, where known, labels."""

    vectors: np.ndarray
    names: list[str]
    labels: list[str] | list[list[str]] | None
    """Of several labels an item a list of lists."""
    skipped: tuple[Skipped, ...]
    side: str | None = None
    """Of two towers, the name of the side that these are of."""


class Run:
    """A run folder: a trained model, what it was made from, and how good it is.

    Args:
        path: the folder that `tercet.train` wrote.
        encoder: the user's own module, where config.toml alone cannot make it.
        device: "auto", "cpu", "cuda", ...
        dim: how many numbers of each embedding to give, from its start, scaled to length 1 again where the encoder does
            that; all when left open. For runs trained with matryoshka.

    Raises:
        RunError: no such run, one without weights yet, or one of a newer Tercet.
        InputError: more numbers than an embedding has.
    """

    copy: TemporaryDirectory[str] | None = None
    """The folder, where it goes when the run does."""

    def __init__(
        self, path: str | Path, *, encoder: nn.Module | None = None, device: str = "auto", dim: int | None = None
    ) -> None:
        self.path = Path(path)
        if not (self.path / "config.toml").exists():
            raise RunError(_no_run(self.path))
        self.config: Config = read_config(self.path / "config.toml")
        self.model = Model.load(self.config.encoder, self.path, device, encoder)
        if dim is not None:
            self.model.cut_to = self._checked(dim)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _checked(self, dim: int) -> int:
        """The number of dimensions, if embeddings can be cut to it."""
        whole = getattr(self.config.encoder, "dim", None)
        if dim < 1 or (whole is not None and dim > whole):
            raise InputError(
                f"dim is {dim}; an embedding of this run has {whole} numbers, so 1 to {whole} are allowed."
            )
        if isinstance(self.distance, Mahalanobis):
            raise InputError("dim is set, and the run's distance maps whole embeddings; leave it out.")
        return dim

    @property
    def encoder(self) -> nn.Module:
        """The trained encoder, a torch module."""
        return self.model.encoder

    @property
    def metrics(self) -> dict[str, Any]:
        """The contents of metrics.json: "validation.map_at_r", "test.eer", ..."""
        return read_metrics(self.path)

    @property
    def threshold(self) -> float:
        """The distance up to which two items count as the same: training's, or that of the last `calibrate`.

        Raises:
            RunError: the validation data held no pairs of both kinds.
        """
        return self._calibration[1]

    @property
    def _calibration(self) -> tuple[Calibration, float]:
        """The calibration that counts, and its threshold."""
        found = read_calibration(self.path)
        if found is None or found.threshold is None:
            raise RunError(
                f"{self.path} has no calibrated threshold: its training was stopped before the end (go on with "
                f"tercet train --resume --out {self.path}), its validation data held no pair of both kinds, or an "
                "estimator saved it without validation data."
            )
        return found, found.threshold

    @cached_property
    def distance(self) -> Distance:
        """The distance that the run was trained with, a map that it learned included."""
        return make_distance(self.config.loss, read_state(self.path / LOSS_FILE))

    @cached_property
    def weights(self) -> str:
        """The hash of the weights, which indexes are bound to."""
        return weights_hash(self.path)

    @property
    def sides(self) -> tuple[str, ...]:
        """What the sides of a run with two towers are called; nothing for a run with one encoder."""
        options = self.model.options
        return options.sides if isinstance(options, TowersOptions) else ()

    @property
    def roles(self) -> tuple[str, ...]:
        """Query and document where one encoder was trained with a prompt for each; nothing otherwise."""
        return ROLES if has_roles(self.model.options) else ()

    def embed(self, items: Any, side: str | None = None) -> np.ndarray:
        """Embeddings of items, float32 of shape (N, D), in the order given.

        Args:
            items: paths of images, texts, an array of feature rows, rows as dictionaries from columns to values, or
                Records.
            side: with two towers, which of them: the name of a column that it was trained on. For images and texts it
                is found from the items when left open.

        Raises:
            DataError: an item cannot be read.
            InputError: a side that there is not, or that cannot be told.
        """
        embedded = self.model.embed(self._items(items, side))
        if embedded.unreadable:
            position, reason = embedded.unreadable[0]
            given = items.items if isinstance(items, Records) else items
            name = f" ({given[position]})" if isinstance(given[position], (str, Path)) else ""
            raise DataError(f"item {position}{name} cannot be read: {reason}.")
        return embedded.vectors

    def embed_records(
        self, data: Any, *, side: str | None = None, reporter: Reporter | None = None, **options: Any
    ) -> EmbeddedRecords:
        """Embeddings of a whole source with names and labels; what cannot be read is left out, and said.

        Args:
            data: a path, or anything that training takes; labels are not needed.
            side: with two towers, which of them; see `embed`.
            reporter: shows progress.
            **options: how to read the data: kind, label, columns, root.

        Raises:
            DataError: nothing can be read.
        """
        reporter = reporter or Reporter()
        found = self.read_side(data, side, **options)
        readable = read_all(self.model.options, found, reporter, "given")
        records = readable.records
        vectors = self.model.encode(readable.loader, np.arange(len(records)), reporter)
        labels = records.label_names()
        return EmbeddedRecords(vectors, list(records.names), labels, records.skipped, side_of(records) or side)

    def embed_to(
        self, data: Any, out: str | Path, *, shard_rows: int = 100_000, vectors: str = "float32", resume: bool = False,
        processes: int = 1, side: str | None = None, reporter: Reporter | None = None, **options: Any,
    ) -> Embedding:  # fmt: skip
        """Write the embeddings of a source of any size to a folder of Parquet shards; see `tercet.index.shards`.

        Memory does not grow with the source, as far as its items are read when they are needed. Started by torchrun,
        the processes share the shards.

        Args:
            data: a path; or, by one process, anything that training takes.
            out: the folder.
            shard_rows: items of a shard.
            vectors: "float32", "int8" or "binary"; see `tercet.neighbors.quantised`.
            resume: go on with a folder that was begun with the same settings; finished shards are kept.
            processes: how many of this machine share the work, each on a GPU of its own where there are some.
            side: with two towers, which of them; see `embed`.
            reporter: shows progress.
            **options: how to read the data: kind, label, label_level, columns, root.

        Raises:
            DataError: nothing can be read.
            RunError: the folder is in the way, or was begun with other settings.
        """
        is_path = isinstance(data, (str, Path))
        own = functools.partial(_embed_some, self.path, self.model.cut_to, data, Path(out), side, options)
        work = own if is_path else None
        return embed_to_shards(
            self.model, self.weights, lambda: self.read_side(data, side, **options), Path(out), shard_rows, vectors,
            resume, reporter or Reporter(), processes, work,
        )  # fmt: skip

    def index(
        self,
        data: Any,
        *,
        approximate: bool = False,
        vectors: str = "float32",
        side: str | None = None,
        reporter: Reporter | None = None,
        **options: Any,
    ) -> tuple[Index, tuple[Skipped, ...]]:
        """An index of a source's embeddings, and what of it could not be read; arguments as of `embed_records`.

        Args:
            data: see `embed_records`.
            vectors: how they are kept and compared: "float32", "int8", "binary" or "rescored"; see `Index`.
            approximate: search through faiss; the index then holds the recall measured on some of its items.
            side: with two towers, which of them; queries are then of the other side, unless they say otherwise.
            reporter: shows progress.
            **options: see `embed_records`.
        """
        side = ROLES[1] if side is None and self.roles else side
        batch = self.embed_records(data, side=side, reporter=reporter, **options)
        index = Index(
            batch.vectors,
            batch.names,
            batch.labels,
            str(self.path.resolve()),
            self.weights,
            self.distance.name,
            components=self.distance.components.numpy() if isinstance(self.distance, Mahalanobis) else None,
            side=batch.side,
        ).of_kind(vectors)
        return (index.approximated() if approximate else index), batch.skipped

    def parse_item(self, word: str) -> Any:
        """An item written as one word on the command line: a path, a text, or a row of a table.

        A row is its values in the columns' order, or a JSON object: 5.1,3.5,red or {"weight": 5.1, "colour": "red"}.
        """
        return parse_row(word, self.columns) if self.config.data.kind == "tabular" else word

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that the run was trained on."""
        return tuple(self.model.assets.get("columns", ()))

    def verify(self, left: Any, right: Any, *, prior: float = 0.5) -> Verdict:
        """Whether two items are the same, at the calibrated threshold; with two towers one of each side, left first.

        Args:
            left: a path, a text, a row of numbers, ...
            right: another.
            prior: the share of all pairs asked about that are the same, for the probability.
        """
        at_prior(np.empty(0), prior)
        sides = self.sides or self.roles or (None, None)
        rows = [self.embed([item], side) for item, side in zip((left, right), sides, strict=True)]
        vectors = torch.from_numpy(np.concatenate(rows))
        self.distance.check_rows(vectors, "the embeddings")
        with torch.no_grad():
            far = float(self.distance.pairs(vectors[:1], vectors[1:])[0])
        calibration, threshold = self._calibration
        sure = None if calibration.probability is None else float(calibration.probability(far, prior))
        return Verdict(far <= threshold, far, threshold, sure, prior)

    def verify_pairs(
        self, data: Any, *, prior: float = 0.5, reporter: Reporter | None = None, **options: Any
    ) -> Verdicts:
        """The verdict of every pair of a table, each item embedded once; marks that it may hold are not looked at.

        Args:
            data: a table with two columns of texts or of paths to images.
            prior: see `verify`.
            reporter: shows progress.
            **options: how to read the data: kind, columns, root.

        Raises:
            DataError: nothing can be read; single items that cannot be are left out, and listed in the result.
        """
        at_prior(np.empty(0), prior)
        calibration, threshold = self._calibration
        reporter = reporter or Reporter()
        found = self.read(data, labelled=False, form="pairs", **options)
        if found.tuples is None:
            raise DataError(f"{found.source} holds no pairs to verify; give a table with two columns of items.")
        readable = read_all(self.model.options, found, reporter, "given")
        records = readable.records
        assert records.tuples is not None
        vectors = torch.from_numpy(self.model.encode(readable.loader, np.arange(len(records)), reporter))
        self.distance.check_rows(vectors, "the embeddings")
        rows = torch.from_numpy(records.tuples)
        far = self.distance.listed(vectors, vectors, rows[:, 0], rows[:, 1]).double().numpy()
        sure = None if calibration.probability is None else calibration.probability(far, prior)
        return Verdicts(*names_of(records), far, far <= threshold, sure, threshold, prior, records.skipped)

    def calibrate(
        self, data: Any = None, *, target: str | float = "eer", test: Any = None, reporter: Reporter | None = None,
        **options: Any,
    ) -> Calibrated:  # fmt: skip
        """Choose another threshold, on data with labels, pairs or triplets, and fit the probability of `verify` there.

        From then on the run uses both; target="training" takes that back.

        Args:
            data: a path, or anything that training takes; none for "training".
            target: "eer", "f1", or "far=0.001" (or the number alone); or "training". See `tercet.evaluation.calibrate`.
            test: other data, on which to count what the threshold does.
            reporter: shows progress.
            **options: how to read both: kind, form, label, columns, root.

        Raises:
            InputError: a target that is not allowed, or that these pairs cannot tell.
        """
        before = read_calibration(self.path)
        former = None if before is None else before.threshold
        if target == "training":
            if data is not None or test is not None:
                raise InputError("target is 'training', which brings its threshold back; it takes no data.")
            restore_calibration(self.path)
            return Calibrated("training", self.threshold, former, {})
        wanted = parse_target(target)
        if data is None:
            raise InputError("data is missing: a threshold is calibrated on data with labels, pairs or triplets.")
        reporter = reporter or Reporter()
        pairs, source = self._pairs(data, reporter, options)
        found = calibrated(pairs, wanted, source)
        assert found.threshold is not None
        figures = {"data": errors_at(pairs, found.threshold)}
        if test is not None:
            other, where = self._pairs(test, reporter, _fitting(test, options))
            if not other.curve.n_same or not other.curve.n_different:
                raise InputError(f"{where} holds pairs of one kind only; a threshold is judged on both.")
            figures["test"] = errors_at(other, found.threshold)
        choose_calibration(self.path, found, figures["data"])
        return Calibrated(found.target, found.threshold, former, figures)

    def _pairs(self, data: Any, reporter: Reporter, options: Mapping[str, Any]) -> tuple[Pairs, str]:
        """All pairs of data, and how much data that is."""
        records = self.read(data, **options)
        if records.form in ("items", "scored-pairs"):
            scores = "" if records.form == "items" else ", but scores of pairs"
            raise DataError(f"{records.source} has no labels, pairs or triplets to calibrate with{scores}.")
        readable = read_all(self.model.options, records, reporter, "given")
        vectors = self.model.encode(readable.loader, np.arange(len(readable.records)), reporter)
        return pairs_of(vectors, readable.records, self.distance), readable.records.count()

    def evaluate(
        self,
        data: Any,
        *,
        name: str = "test",
        baseline: bool = True,
        folds: int | str | Sequence[Any] | None = None,
        margin: float | None = None,
        clustering: bool = False,
        gallery: Any = None,
        ks: Sequence[int] = (1, 5, 10),
        exclude: str | None = None,
        group: str | None = None,
        group_from: str | None = None,
        groups: Sequence[Any] | None = None,
        gallery_groups: Sequence[Any] | None = None,
        approximate: bool = False,
        by_class: str | Path | None = None,
        vectors: str = "float32",
        reporter: Reporter | None = None,
        **options: Any,
    ) -> Evaluation:
        """Evaluate on data with labels, pairs or triplets, at the calibrated threshold.

        The figures go to metrics.json as `name`.<metric>, with 95 % intervals, and to the report. The folder of a known
        data set is evaluated as its figures are reported, unless something else is asked for; see docs/layouts.md.

        Args:
            data: a path, or anything that training takes.
            name: what to call it; an evaluation of that name is replaced.
            baseline: evaluate the raw inputs too, as "baseline" (or `name`-baseline for another name than test); images
                and texts, which cannot be compared raw, have none.
            folds: of marked pairs, for accuracies by thresholds that the other folds chose: the column of the table
                that holds them, a fold for each pair, or how many to make of the rows in order. See
                `tercet.evaluation.by_folds`.
            margin: of triplets, also the share whose negative is farther by so much.
            clustering: measure how k-means finds the classes again (nmi, ami, ari), which takes a while.
            gallery: what the items of data are searched for in; without it among each other. It needs labels.
            ks: the k of recall@k, precision@k, nDCG@k and CMC@k.
            exclude: "group" leaves an item's own group out of what is searched, "group-and-label" only what shares its
                label too.
            group: the column of a table that holds groups; of both tables with a gallery.
            group_from: or a regular expression with one pair of parentheses, which finds the group in an item's name.
            groups: or the group of each item, None for an item of none.
            gallery_groups: with `groups` and a gallery, its groups.
            approximate: search through faiss, for very large sets; only figures of the k nearest are to be had.
            by_class: a CSV to write the figures of each class and group to.
            vectors: "int8" or "binary" evaluates the embeddings in fewer bytes as well, at the same threshold, as
                `name`-int8 or `name`-binary; see `tercet.neighbors.quantised`.
            reporter: shows progress.
            **options: how to read the data: kind, form, label, columns, root; layout and part of a data set's folder.

        Raises:
            DataError: nothing to evaluate with, or data that cannot be searched as asked for.
            InputError: options that do not go together.
        """
        _check_name(name)
        if groups is not None and (group is not None or group_from is not None):
            raise InputError("group and group_from say where groups are, and groups gives them; give one of them.")
        check_choice("vectors", vectors, VECTORS)
        reporter = reporter or Reporter()
        wanted = Wanted(gallery, exclude, group, group_from, groups, gallery_groups, folds).or_usual(data, options)
        records = self.read(data, usual_part=wanted.part, **options)
        if wanted.said:
            reporter.say(f"evaluated as this data set usually is: {wanted.said}")
            records = dataclasses.replace(records, scores=wanted.scores)
        check_examined(records, clustering, margin, by_class is not None)
        wanted.check(records)
        readable = read_all(self.model.options, records, reporter, name)
        searched = Searched(tuple(ks), wanted.exclude, approximate, wanted.groups_of(data, records, readable.records))
        if wanted.gallery is not None:
            searched = self._with_gallery(searched, wanted, reporter, options)
        known = read_fingerprints(self.path)
        duplicates = warn_of_duplicates(known, readable.records, readable.records.fingerprints(), name, reporter)
        calibration = (
            None if self.model.cut_to is not None else read_calibration(self.path)
        )  # it is of whole embeddings
        threshold, probability = (calibration.threshold, calibration.probability) if calibration else (None, None)
        of_folds = wanted.folds_of(data, records, readable.records)
        rows = self.model.encode(readable.loader, np.arange(len(readable.records)), reporter)
        with reporter.progress("searching") as advance:
            searched = dataclasses.replace(searched, progress=advance)
            asked = Asked(threshold, probability, read_class_sizes(self.path), of_folds, margin, searched)
            examination = Examination(self.path, self.config, self.distance, readable, rows, asked, duplicates)
            found = examination.whole(clustering)
        if by_class is not None:
            files.write_text(Path(by_class), class_table(found.evaluation))
        examination.write(name, found)
        if vectors != "float32":
            examination.write_coarse(name, vectors)
        examination.write_raw(name, wanted=baseline)
        return found.evaluation

    def _with_gallery(
        self, searched: Searched, wanted: Wanted, reporter: Reporter, options: Mapping[str, Any]
    ) -> Searched:  # fmt: skip
        """The gallery read and embedded, with its groups: from a column, by a pattern, or as given."""
        if self.sides:
            raise InputError("a run with two towers searches each side in the other; leave the gallery out.")
        part = {} if wanted.gallery_part is None else {"part": wanted.gallery_part}
        records = self.read(wanted.gallery, **{**_fitting(wanted.gallery, options), **part})
        if records.form not in LABELLED:
            raise DataError(f"{records.source} holds {records.form}; the items of a gallery need labels.")
        readable = read_all(self.model.options, records, reporter, "gallery")
        return dataclasses.replace(
            searched,
            gallery=readable,
            gallery_groups=wanted.groups_of(wanted.gallery, records, readable.records, of_gallery=True),
            gallery_vectors=self.model.encode(readable.loader, np.arange(len(readable.records)), reporter),
        )

    def report(self, out: str | Path | None = None, *, map: str = "pca") -> Path:
        """Write report.html anew from the run folder, or the same page elsewhere; the path of it.

        Args:
            out: another place, ending in .html.
            map: how the map of the embedding is laid out: "pca", "tsne" or "umap".
        """
        return write_report(self.path, out, map)

    def mine(
        self,
        data: Any,
        out: str | Path | None = None,
        *,
        mining: MiningOptions | None = None,
        group: str | None = None,
        groups: Sequence[Any] | None = None,
        margin: float | None = None,
        overwrite: bool = False,
        cache: bool = True,
        reporter: Reporter | None = None,
        **options: Any,
    ) -> MinedRecords:
        """Triplets of a labelled set with the nearest wrong neighbours of each item, and likely label errors.

        Args:
            data: a path, or anything with labels that training takes.
            out: a .parquet file for the triplets, which `tercet.train` reads; the suspects go into a CSV beside it.
                Without it nothing is written, and the triplets are positions in the result's `records`.
            mining: the rules, as an object.
            group: the column of a table that holds groups; items of one group never meet in a triplet.
            groups: or the group of each item, None for an item of none.
            margin: hard, semi-hard and easy triplets are counted by it; by default the run's, or 0.2.
            overwrite: replace files that are there.
            cache: use the embeddings that an earlier call kept in the run folder, and keep these.
            reporter: shows progress.
            **options: rules by their names, such as rank_from=5 (see `MiningOptions`); and how to read the data: kind,
                label, columns, root.

        Raises:
            DataError: no labels, or nothing that could be mined by the rules.
            InputError: rules or items that are not allowed.
            RunError: a file is in the way.
        """
        if group is not None and groups is not None:
            raise InputError("group names a column and groups gives the groups themselves; give one of them.")
        rules = {name: options.pop(name) for name in field_names(MiningOptions) if name in options}
        for word in options:
            check_choice("option", word, (*(one for one in READING if one != "form"), *field_names(MiningOptions)))
        records = self.read(data, form="labels", **options)
        loss = self.config.loss
        return mine_records(
            self.model, records, self.path, self.weights, self.distance,
            dataclasses.replace(mining or MiningOptions(), **rules), reporter or Reporter(),
            groups=groups if group is None else read_groups(data, group, records),
            out=None if out is None else Path(out), overwrite=overwrite, cache=cache,
            margin=loss.margin if margin is None and loss.loss == "triplet" else margin,
        )  # fmt: skip

    def doctor(self) -> Diagnosis:
        """What was wrong with the training, with evidence and remedies; see `diagnose`."""
        return diagnose(self)

    def read(self, data: Any, *, labelled: bool = True, usual_part: str = "train", **options: Any) -> Records:
        """Records of data in the form that the run was trained on, as far as the data leaves that open."""
        for word in options:
            check_choice("option", word, READING)
        refuse_idle(data, options)
        if self.sides and isinstance(data, (str, Path)) and not is_table(data):
            raise DataError(
                f"{data} is no table, and this run has two towers, which are measured on pairs: a table with the "
                f"columns {' and '.join(self.sides)}."
            )
        trained = self.config.data
        inherited = ["kind", "root"]
        if options.get("form") in (None, trained.form):  # a table of another form has other columns
            inherited += ["label", "label_level"] if labelled else []
            inherited += ["label_separator", "columns", "categories", "dates", "texts", "missing"]
        own = {key: getattr(trained, key) for key in inherited}
        if self.sides:
            own |= {"form": "pairs", "towers": "separate"}
        if "features" not in self.model.assets:  # of complete rows the encoder learned nothing to fill in
            own["missing"] = "error" if trained.kind == "tabular" else trained.missing
        merged = DataOptions(**own | {key: value for key, value in options.items() if value is not None})
        records = read_source(data, merged, labelled, usual_part)
        wanted = SIDES if self.sides else trained.kind or "tensor"
        if records.kind != wanted:
            raise DataError(f"{records.source} holds {records.kind} data, and this run was trained on {wanted} data.")
        columns = tuple(self.model.assets.get("columns", ()))
        if records.kind == "tabular" and records.columns and columns and records.columns != columns:
            raise DataError(
                f"{records.source} has the columns {', '.join(records.columns)}; this run was trained on "
                f"{', '.join(columns)}. Name them with --columns."
            )
        return prompted(records, self.model.options)

    def read_side(self, data: Any, side: str | None, **options: Any) -> Records:
        """Records of items without their pairs; of two towers those of one side."""
        towers = self.model.options
        if isinstance(towers, TowersOptions):
            return read_side(data, side, towers, options)
        if self.roles:
            columns = {} if side is None else column_of(data, side, options)
            records = self.read(data, labelled=False, **{"form": "items"} | options | columns)
            return dataclasses.replace(records, items=in_role(records.items, towers, side))
        self._check_one_encoder(side)
        records = self.read(data, labelled=False, **options)
        return dataclasses.replace(records, tuples=None, similar=None, scores=None)

    def _check_one_encoder(self, side: str | None) -> None:
        if side is not None:
            raise InputError(f"side is {side!r}, and this run has one encoder for all items; leave it out.")

    def _items(self, items: Any, side: str | None = None) -> Any:
        towers = self.model.options
        if isinstance(towers, TowersOptions) and not isinstance(items, (Records, str, Path)):
            return of_side(items, side, towers)
        if self.roles and not isinstance(items, (Records, str, Path)):
            return with_prompt(items, towers, side)
        if not self.sides:
            self._check_one_encoder(side)
        if isinstance(items, Records):
            return items.items
        if isinstance(items, (str, Path)):
            raise InputError(f"items must be a list; {str(items)!r} is a single one. Write [{str(items)!r}].")
        if self.config.data.kind == "tabular":
            return rows_of(items, self.config.data, self.columns, "features" in self.model.assets)
        if self.config.data.kind == "image":
            return [str(item) if isinstance(item, Path) else item for item in items]
        return items


def load(path: str | Path, *, encoder: nn.Module | None = None, device: str = "auto", dim: int | None = None) -> Run:
    """Open a run folder. The same as `Run(path)`; see there."""
    return Run(path, encoder=encoder, device=device, dim=dim)


def evaluate(run: Run | str | Path, data: Any, **options: Any) -> Evaluation:
    """Evaluate a run on data; see `Run.evaluate`."""
    return _opened(run).evaluate(data, **options)


def mine(run: Run | str | Path, data: Any, out: str | Path | None = None, **options: Any) -> MinedRecords:
    """Triplets of a labelled set, with the nearest wrong neighbours of each item by a run; see `Run.mine`."""
    return _opened(run).mine(data, out, **options)


def diagnose(run: Run | str | Path) -> Diagnosis:
    """What is wrong with a run's training: findings, each with evidence and remedies, and what was looked for.

    The run may be finished, interrupted or failed: config.toml and history.jsonl are enough.

    Raises:
        RunError: there is no such run, or no history of it.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    if not (path / "config.toml").exists():
        raise RunError(_no_run(path))
    return diagnose_folder(path)


def compare(
    runs: Sequence[Run | str | Path],
    data: Any,
    *,
    against: Sequence[Run | str | Path] = (),
    reporter: Reporter | None = None,
    **options: Any,
) -> Comparison:
    """Is one run better than another? All embed the same items, and differences are told from chance.

    Args:
        runs: two runs or more. A folder that holds runs counts as one method, whose runs differ by their seeds.
        data: a path, or anything that evaluation takes; no run may have been trained on an item of it.
        against: with these, `runs` are the seeds of one method and these the seeds of another.
        reporter: shows progress.
        **options: how to read the data: kind, form, label, columns, root.

    Raises:
        DataError, InputError, RunError: see `compare_runs`.
    """
    groups = group_runs(runs, against)
    opened = {name: [_compared(_opened(run), data, options) for run in of] for name, of in groups.items()}
    return compare_runs(opened, reporter or Reporter())


def _compared(run: Run, data: Any, options: Mapping[str, Any]) -> Compared:
    if run.sides:
        raise InputError(f"{run.path} has two towers; only runs with one encoder can be compared.")
    return Compared(str(run.path), run.path, run.model, run.distance, lambda: run.read(data, **options))


def embed(run: Run | str | Path, items: Any, side: str | None = None) -> np.ndarray:
    """Embeddings of items by a run, float32 of shape (N, D); see `Run.embed`."""
    return _opened(run).embed(items, side)


def train(
    source: Any = None,
    *,
    out: str | Path,
    encoder: str | EncoderOptions | nn.Module | None = None,
    encoder_arguments: Mapping[str, Any] | None = None,
    loss: str | Loss | None = None,
    validation: Any = None,
    augmentation: Augmentation | str | None = None,
    mine: MiningOptions | None = None,
    curriculum: CurriculumOptions | None = None,
    config: str | Path | Config | None = None,
    resume: bool = False,
    progress: bool = True,
    tracker: Tracker | None = None,
    **options: Any,
) -> Run:
    """Train an embedding and leave a run folder with model, evidence and report.

    Args:
        source: a folder with a subfolder for each class; a CSV, JSONL or Parquet table with labels, triplets or pairs;
            an array or list with labels; or a torch Dataset that gives (input, label).
        out: the run folder, which must not exist yet, unless `resume`.
        encoder: "image", "text" or "tabular", or their options such as `ImageOptions(dim=64)`; found out by default.
            Or an encoder of your own: a module that takes a batch and gives (B, D), or "package.module:factory",
            which the run stores, so that `tercet.load` can make it again.
        encoder_arguments: what the factory, or the class of your module, is called with.
        loss: "triplet", "contrastive", "infonce" or "supcon", whose settings are options; one of Tercet's losses as an
            object; or any `loss(embeddings, labels)`, such as another library's. Its parameters are trained too. By
            default triplet, and contrastive for pairs marked similar or not.
        validation: validation data like `source`; by default a fifth of the classes is held out.
        augmentation: random changes of training images: their settings, or a preset by its name, such as "documents".
        mine: the rules of mining, with mine_every=N.
        curriculum: `tercet.training.batches.pacing.CurriculumOptions`, to train on a part of the data that grows.
        config: a config.toml, which may hold only some of the settings, to start from.
        resume: go on with `out`, from its newest checkpoint.
        progress: show it.
        tracker: called as tracker(step, figures) with what each step and each evaluation measures, as it is written to
            history.jsonl; examples/tracker.py has one.
        **options: any setting of config.toml by its name: steps, epochs, seed, learning_rate, margin, mining,
            classes_per_batch, samples_per_class, patience, ...

    Started by torchrun, all its processes train one run together: call this on each, with the same arguments. Rank 0
    writes the folder; the others get a copy of the run, in a temporary folder of their own.

    Raises:
        DataError, InputError, ConfigError, RunError: what was given, what is allowed, and what to do.
        TrainingError: the loss is no longer finite.
        RankError: another process has failed or is gone; the message says which.
        StorageError: the disk is full; the checkpoints before are unharmed.

    Example:
        >>> run = tercet.train("faces/", out="runs/faces", steps=300)      # doctest: +SKIP
        >>> run.metrics["validation.map_at_r"]                             # doctest: +SKIP
        0.83
    """
    folder = Path(out)
    request = make_request(base_request(source, config, folder, resume), encoder, encoder_arguments or {}, loss,
                           validation, augmentation, mine, options)  # fmt: skip
    request = dataclasses.replace(request, tracker=tracker, curriculum=curriculum or request.curriculum)
    with joined(request.training.device) as ranks:
        reporter = ConsoleReporter() if progress else Reporter()
        train_request(request, folder, resume, reporter, ranks)
        return _run_everywhere(request, folder, ranks)


def train_request(request: Request, folder: Path, resume: bool, reporter: Reporter, ranks: Ranks) -> str:
    """Train what was asked for and write the report; how training ended (see `Outcome.reason`)."""
    outcome = run_session(request, folder, resume, reporter if ranks.is_first else SilentReporter(), ranks)
    if ranks.is_first:
        write_report(folder)
    return outcome.reason


def _run_everywhere(request: Request, folder: Path, ranks: Ranks) -> Run:
    """The run; on other ranks than 0 a copy of its own, in a temporary folder that goes with it.

    So a script goes on alike on every rank, whether or not it sees the folder, and no two write to the same file.
    """
    if ranks.size == 1:
        return Run(folder, encoder=request.module, device=request.training.device)
    kept = [
        path for path in folder.rglob("*") if path.is_file() and not NOT_COPIED & set(path.relative_to(folder).parts)
    ]
    names = told([path.relative_to(folder).as_posix() for path in kept] if ranks.is_first else None, ranks)
    copy = None if ranks.is_first else TemporaryDirectory(prefix="tercet-run-")
    target = folder if copy is None else Path(copy.name)
    for name in names:
        content = ranks.told((folder / name).read_bytes() if ranks.is_first else b"")
        if copy is not None:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
    run = Run(target, encoder=request.module, device=local_device(request.training.device, ranks))
    run.copy = copy
    return run


def write_report(folder: Path, out: str | Path | None = None, layout: str = "pca") -> Path:
    """Write report.html from a run folder; the path of it."""
    from tercet.report import write

    return write(folder, out, layout)


def _embed_some(
    run: Path, dim: int | None, data: Any, out: Path, side: str | None, options: dict[str, Any], number: int, of: int,
    device: str,
) -> None:  # fmt: skip
    """What one of several processes that embed does."""
    own = Run(run, device=device, dim=dim)
    write_shards(open_shards(out), own.model, own.read_side(data, side, **options), SilentReporter(), number, of)


def _fitting(data: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options that were given for other data, those that these can be read with."""
    return {name: value for name, value in options.items() if name not in OF_TABLES or is_table(data)}


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run(run)


def _check_name(name: str) -> None:
    taken = ("validation", NAME_OF_CALIBRATION)
    if not name.replace("-", "").replace("_", "").isalnum() or name in taken or name.endswith("baseline"):
        raise InputError(
            f"name is {name!r}; use letters, digits and dashes, and neither 'validation' nor 'calibration' nor an "
            "ending in 'baseline'."
        )


def _no_run(path: Path) -> str:
    if not path.exists():
        near = suggest(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else ""
        return f"there is no run at {path}.{near}"
    return f"{path} is not a run folder: it holds no config.toml. Make one with: tercet train SOURCE --out {path}"
