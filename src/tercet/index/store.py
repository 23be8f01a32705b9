"""An index as a folder: vectors.safetensors, items.parquet, index.json, and faiss.safetensors where it is approximate.

With a Mahalanobis distance vectors.safetensors holds its map too.

It names its run and the hash of that run's weights, so that vectors of another model are refused rather than compared.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tercet.distances import Distance, Mahalanobis, resolve
from tercet.errors import InputError, RunError, check_choice
from tercet.index.shards import Label, label_column
from tercet.neighbors import ApproximateNeighbors, nearest
from tercet.neighbors.quantised import VECTORS, Quantised, nearest_bits, quantised
from tercet.training.folder import files

FORMAT = 1
KINDS = (*VECTORS, "rescored")
SHORTLIST = 10


@dataclass(frozen=True)
class Found:
    """One neighbour of a query."""

    name: str
    label: Label | None
    distance: float
    position: int


@dataclass(frozen=True, eq=False)
class Index:
    """N embeddings with names and, where they are known, labels.

    Attributes:
        vectors: float32 (N, D).
        names: what each item is called.
        labels: the class of each item, or of several labels an item a list of them; or None.
        run: the folder of the run that made the vectors.
        weights: the hash of that run's weights.
        distance: its name, which `tercet.distances.resolve` knows; or "mahalanobis".
        approximate: a faiss index over the vectors, or None for exact search.
        recall: the share of the 10 nearest that the approximate search finds, measured on some of the items.
        components: the map of a Mahalanobis distance, of shape (k, D).
        kind: "float32"; "int8", which keeps a byte for each number; "binary", which keeps a bit for each and counts
            those that differ (Hamming distance); or "rescored", which finds `SHORTLIST` times k candidates by their
            bits and orders these by the floats, which it keeps.
        side: which side of a run with two towers the items are of; queries are of the other.

    Raises:
        InputError: vectors that the distance cannot compare.
    """

    vectors: np.ndarray
    names: Sequence[str]
    labels: Sequence[Label] | None
    run: str
    weights: str
    distance: str
    approximate: ApproximateNeighbors | None = None
    recall: float | None = None
    components: np.ndarray | None = None
    side: str | None = None
    kind: str = "float32"

    def __post_init__(self) -> None:
        self.metric.check_rows(torch.from_numpy(self.vectors), "the index")

    @property
    def metric(self) -> Distance:
        """The distance as an object."""
        return resolve(self.distance) if self.components is None else Mahalanobis(components=self.components)

    def of_kind(self, kind: str) -> Index:
        """This index with vectors of another kind.

        Raises:
            InputError: an unknown kind.
        """
        check_choice("vectors", kind, KINDS)
        fewer = kind if kind in VECTORS else "float32"
        return dataclasses.replace(self, vectors=quantised(self.vectors, fewer).restored(), kind=kind)

    @cached_property
    def bits(self) -> np.ndarray:
        """The signs of the vectors, uint8 (N, D / 8)."""
        return quantised(self.vectors, "binary").codes

    def approximated(self) -> Index:
        """This index with approximate search, and the recall that it was measured to have.

        Raises:
            InputError: a distance that faiss cannot search.
            MissingDependency: faiss is not installed.
        """
        if self.kind not in ("float32", "int8"):
            raise InputError(f"vectors is {self.kind!r}, whose bits are compared with all; leave approximate out.")
        approximate = ApproximateNeighbors.build(self.vectors, self.distance)
        recall = approximate.recall_against_exact(self.vectors)
        return dataclasses.replace(self, approximate=approximate, recall=recall)

    def search(self, queries: np.ndarray, k: int) -> list[list[Found]]:
        """The k nearest items of each query vector, nearest first; all of them where there are fewer than k.

        Args:
            queries: float32 (Q, D), embedded by the run of this index.
            k: at least 1.

        Raises:
            InputError: k below 1, or vectors of another length.
        """
        if k < 1:
            raise InputError(f"k is {k}; it must be 1 or more.")
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"queries have shape {queries.shape}; this index holds vectors of {self.vectors.shape[1]}."
            )
        self.metric.check_rows(torch.from_numpy(queries), "queries")
        wanted = min(k, len(self.vectors))
        distances: Any
        positions: Any
        if self.kind in ("binary", "rescored"):
            distances, positions = self._by_bits(queries, wanted)
        elif self.approximate is not None:
            distances, positions = self.approximate.search(queries, wanted)
        else:
            distances, positions = nearest(queries, self.vectors, wanted, distance=self.metric)
        return [
            [self._found(position, far) for far, position in zip(row, where, strict=True)]
            for row, where in zip(distances.tolist(), positions.tolist(), strict=True)
        ]

    def _by_bits(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and positions, (Q, k): bits that differ; or, rescored, the metric of the candidates."""
        signs = quantised(queries, "binary").codes
        if self.kind == "binary":
            return nearest_bits(signs, self.bits, k)
        candidates = nearest_bits(signs, self.bits, min(SHORTLIST * k, len(self.vectors)))[1]
        found = [nearest(one[None], self.vectors[own], k, distance=self.metric) for one, own in
                 zip(queries, np.sort(candidates, axis=1), strict=True)]  # fmt: skip
        places = [np.sort(own)[at[0]] for own, (_, at) in zip(candidates, found, strict=True)]
        return np.concatenate([np.asarray(far) for far, _ in found]), np.stack(places)

    def save(self, folder: Path) -> None:
        """Write the index to a folder that must not exist yet.

        Raises:
            RunError: the folder exists.
            StorageError: it could not be written; then nothing is left of it.
        """
        if folder.exists():
            raise RunError(f"{folder} exists already; choose another name, or remove it first.")
        columns: dict[str, Any] = {"name": list(self.names)}
        if self.labels is not None:
            columns["label"] = label_column(self.labels)
        manifest = {
            "format": FORMAT, "run": self.run, "weights": self.weights, "distance": self.distance,
            "items": len(self.names), "dimensions": int(self.vectors.shape[1]),
            "approximate": self.approximate is not None, "recall": self.recall,
        }  # fmt: skip
        manifest |= {} if self.side is None else {"side": self.side}
        manifest |= {} if self.kind == "float32" else {"kind": self.kind}
        kept = quantised(self.vectors, self.kind if self.kind in VECTORS else "float32")
        with files.new_folder(folder) as target:
            tensors = {"vectors": kept.codes} | ({} if kept.scales is None else {"scales": kept.scales})
            tensors |= {} if self.components is None else {"components": self.components}
            files.write_tensors(
                target / "vectors.safetensors", {name: torch.from_numpy(array) for name, array in tensors.items()}
            )
            pq.write_table(pa.table(columns), target / "items.parquet")
            if self.approximate is not None:
                content = torch.from_numpy(self.approximate.to_array())
                files.write_tensors(target / "faiss.safetensors", {"index": content})
            files.write_json(target / "index.json", manifest)

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Open an index that `save` wrote.

        Raises:
            RunError: no index there, a damaged one, or one of a newer Tercet.
        """
        try:
            manifest = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if manifest["format"] > FORMAT:
                raise RunError(f"{folder} was written by a newer Tercet; upgrade with: pip install --upgrade tercet")
            items = pq.read_table(folder / "items.parquet")
            arrays = {name: part.numpy() for name, part in load_file(folder / "vectors.safetensors").items()}
            kind = manifest.get("kind", "float32")
            stored_as = kind if kind in VECTORS else "float32"
            held = Quantised(stored_as, arrays["vectors"], arrays.get("scales"), manifest["dimensions"])
            vectors = held.restored()
            stored = load_file(folder / "faiss.safetensors")["index"].numpy() if manifest["approximate"] else None
        except FileNotFoundError as cause:
            raise RunError(
                f"{folder} is not an index: {Path(cause.filename or '').name or cause} is missing. "
                f"Make one with: tercet index RUN DATA --out {folder}"
            ) from None
        except (ValueError, KeyError, pa.ArrowException, SafetensorError) as cause:
            raise RunError(f"the index {folder} is damaged ({cause}); make it again with tercet index.") from None
        approximate = None if stored is None else ApproximateNeighbors.from_array(stored, manifest["distance"])
        labels = items["label"].to_pylist() if "label" in items.column_names else None
        keys = ("run", "weights", "distance", "recall")
        return cls(vectors, items["name"].to_pylist(), labels, **{key: manifest[key] for key in keys},
                   approximate=approximate, components=arrays.get("components"), side=manifest.get("side"),
                   kind=kind)  # fmt: skip

    def check_weights(self, weights: str) -> None:
        """Refuse a run whose weights are not those that made this index.

        Raises:
            RunError: the hashes differ.
        """
        if weights != self.weights:
            raise RunError(
                f"this index was made by {self.run} with weights {self.weights[:8]}, and the run has weights "
                f"{weights[:8]}: their distances mean nothing to each other. Make the index again with tercet index."
            )

    def _found(self, position: int, far: float) -> Found:
        label = None if self.labels is None else self.labels[position]
        return Found(str(self.names[position]), label, far, position)
