"""Layouts of a map: the principal plane that the run folder holds, and t-SNE or UMAP of the same points if wished.

t-SNE and UMAP go by the run's own distance. They show who is near to whom; distances across the map, sizes and gaps of
clusters mean little.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tercet.distances import blocks
from tercet.errors import RunError, check_choice, require
from tercet.report.folder import RunFolder
from tercet.report.wording import percent
from tercet.training.assessment.map import FOLDER
from tercet.training.config import read_partial_config
from tercet.training.objective.loss import LOSS_FILE, make_distance
from tercet.training.objective.loss_state import read_state

LAYOUTS = ("pca", "tsne", "umap")
FEWEST_POINTS = 5
PERPLEXITY, NEIGHBOURS = 30, 15
TILE_ROWS = 256


def layouts(run: RunFolder, name: str, wanted: str) -> dict[str, dict[str, Any]]:
    """Titles, coordinates and captions of the layouts of an evaluation's map; what was asked for comes first.

    Raises:
        InputError: there is no such layout.
        RunError: there is no map, or too few points.
        MissingDependency: UMAP without umap-learn.
    """
    check_choice("map", wanted, LAYOUTS)
    content = run.maps.get(name)
    if not content:
        if wanted != "pca":
            raise RunError(
                f"{run.path} holds no map of an evaluation, so there is nothing to lay out by {wanted}. Make one with: "
                f"tercet evaluate {run.path} --data DATA"
            )
        return {}
    shares = content["shares"]
    said = (
        f"The two directions in which the embeddings differ most; they hold {percent(sum(shares))} of the variance, "
        f"{percent(shares[0])} across and {percent(shares[1])} up."
    )
    plane = {"title": "PCA", "x": content["x"], "y": content["y"], "caption": said}
    if wanted == "pca":
        return {"pca": plane}
    return {wanted: _laid_out(run, name, wanted, np.array([content["x"], content["y"]]).T), "pca": plane}


def _laid_out(run: RunFolder, name: str, wanted: str, start: np.ndarray) -> dict[str, Any]:
    """The points by their distances to each other, from their places in the principal plane."""
    distances = _distances(run.path, name)
    count = len(distances)
    if count < FEWEST_POINTS:
        raise RunError(f"The map of {name!r} in {run.path} has {count} points; {wanted} needs {FEWEST_POINTS} or more.")
    spread = np.abs(start).max()
    start = (start / spread if spread else start).astype(np.float32)
    if wanted == "tsne":
        title, found = "t-SNE", _tsne(distances, 1e-4 * start)
        how = f"t-SNE with a perplexity of {_perplexity(count):g}"
    else:
        title, found = "UMAP", _umap(distances, 10 * start)
        how = f"UMAP with {min(NEIGHBOURS, count - 1)} neighbours"
    caption = f"{how}, by the run's distance: near points are alike; distances across the map mean little."
    x, y = (np.round(values.astype(np.float64), 3).tolist() for values in found.T)
    return {"title": title, "x": x, "y": y, "caption": caption}


def _distances(folder: Path, name: str) -> np.ndarray:
    """Between all points, float64 (M, M), as the run compares embeddings."""
    path = folder / FOLDER / f"{name}.safetensors"
    try:
        rows = load_file(path)["vectors"]
    except (OSError, SafetensorError, KeyError) as cause:
        raise RunError(f"{path} cannot be read: {cause}. Evaluate again to make it anew.") from None
    config = read_partial_config(folder / "config.toml")
    distance = make_distance(config.loss, read_state(folder / LOSS_FILE))
    with torch.no_grad():
        tiles = [distance.tile(rows[part], rows) for part in blocks(len(rows), TILE_ROWS)]
    found = torch.cat(tiles).double().clamp(min=0).numpy()
    np.fill_diagonal(found, 0)
    return np.maximum(found, found.T)  # tiles round; the libraries ask for symmetry


def _perplexity(count: int) -> float:
    return float(min(PERPLEXITY, (count - 1) // 3))


def _tsne(distances: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Van der Maaten and Hinton 2008, as scikit-learn has it; one thread, so that equal runs give equal maps."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        model = TSNE(metric="precomputed", init=start, perplexity=_perplexity(len(distances)), random_state=0, n_jobs=1)
        return model.fit_transform(distances)


def _umap(distances: np.ndarray, start: np.ndarray) -> np.ndarray:
    """McInnes et al. 2018, as umap-learn has it."""
    import warnings

    umap = require("umap", "umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, and that distances cannot be inverted
        model = umap.UMAP(
            metric="precomputed", init=start, n_neighbors=min(NEIGHBOURS, len(distances) - 1), random_state=0, n_jobs=1
        )
        return np.asarray(model.fit_transform(distances))
