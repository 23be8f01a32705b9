"""The baseline: the raw inputs as vectors, which anything learned has to beat.

Images: cosine distance of their pixels, each image less its mean. Texts: cosine distance of TF-IDF vectors. Tables:
Euclidean distance of standardised columns. Anything else: Euclidean distance of the flattened inputs.
"""

from __future__ import annotations

import numpy as np
import torch

from tercet.data.features import Features, places
from tercet.data.records import Records
from tercet.data.sides import SIDES
from tercet.encoders.features import Coded, describe_features
from tercet.encoders.options import TabularOptions
from tercet.training.model import Readable

_DESCRIBED = {
    "image": ("raw pixels", "cosine"),
    "text": ("TF-IDF", "cosine"),
    "tabular": ("standardised columns", "euclidean"),
}


def has_raw(records: Records) -> bool:
    """Whether the inputs can be compared without learning: not an image with a text."""
    return records.kind != SIDES or records.items.kinds_held == {"text"}


def described_raw(records: Records) -> tuple[str, str]:
    """What the raw inputs are, in words, and the distance that they are compared by."""
    return _DESCRIBED.get(_kind(records), ("raw inputs", "euclidean"))


def raw_vectors(datas: list[Readable]) -> np.ndarray:
    """The inputs of one or two sets themselves, one after the other, made comparable together."""
    data = datas[0]
    if _kind(data.records) == "text":
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(max_features=2048, dtype=np.float32, token_pattern=r"(?u)\b\w+\b")
        return words.fit_transform([text for one in datas for text in _texts(one)]).toarray()
    vectors = np.concatenate([_flat(one) for one in datas])
    if data.records.kind == "image":
        return vectors - vectors.mean(axis=1, keepdims=True)
    if data.records.features is not None:
        return standard_features(data.records.features, np.concatenate([one.records.items for one in datas]))
    if data.records.kind == "tabular":
        deviation = vectors.std(axis=0)
        return (vectors - vectors.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return vectors


def _texts(data: Readable) -> list[str]:
    if data.records.kind == SIDES:
        return [item.value for item in data.records.items]
    return list(data.loader.batch(np.arange(len(data.records))))


def _flat(data: Readable) -> np.ndarray:
    positions = np.arange(len(data.records))
    parts = (positions[i : i + 256] for i in range(0, len(positions), 256))
    flat = [np.asarray(data.loader.batch(part)).reshape(len(part), -1) for part in parts]
    return np.concatenate(flat).astype(np.float32)


def standard_features(features: Features, items: np.ndarray) -> np.ndarray:
    """Coded rows as features without learning: standardised, and up to 16 categories of a column as one each."""
    rows = torch.from_numpy(items)
    described = describe_features(features.names, features.kinds, rows)
    few = [one.get("categories", 0) <= TabularOptions.one_hot for one in described]
    kept = [one for one, is_few in zip(described, few, strict=True) if is_few]
    columns = [place for place, is_few in zip(places(features.kinds), few, strict=True) if is_few]
    if not kept:
        return np.zeros((len(items), 1), dtype=np.float32)
    chosen = torch.cat([rows[:, place] for place in columns], dim=1)
    coded = Coded(kept, TabularOptions.one_hot)
    coded.fit(chosen)
    return coded(chosen).numpy()


def _kind(records: Records) -> str:
    return "text" if records.kind == SIDES else records.kind
