"""Forgeries: alike to nothing, in training and in evaluation, and held out with the writer that they imitate."""

import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_curve

import tercet
from conftest import QUICK, write_images
from tercet.data.readers import read
from tercet.data.split import hold_out
from tercet.errors import DataError, InputError
from tercet.evaluation.forgeries import evaluate_forgeries
from tercet.training.assessment.assessment import evaluate_vectors
from tercet.training.batches.supervision import labels_of


def write_signatures(folder, writers=range(6), genuine=5, forged=3):
    """A folder a writer, with one of genuine and one of forged images in it."""
    drawn = write_images(folder.parent / "drawn", writers, genuine + forged)
    for writer in drawn.iterdir():
        for number, path in enumerate(sorted(writer.iterdir())):
            target = folder / writer.name / ("genuine" if number < genuine else "forged")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / path.name)
    return folder


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    return write_signatures(tmp_path_factory.mktemp("signatures") / "all")


def test_a_folder_says_what_is_forged(signatures):
    records = read(signatures)
    assert records.description.startswith("48 images in 6 classes, 18 of them forged (folder with a subfolder for each")
    assert [("forged" in name) for name in records.names] == records.forged.tolist()
    assert records.label_names()[0] in ("class00", "class00 (forged)")
    only = read(signatures / ".." / "drawn")
    assert only.forged is None


def test_other_folders_within_classes_mean_nothing(signatures, tmp_path):
    copy = shutil.copytree(signatures, tmp_path / "copy")
    (copy / "class00" / "else").mkdir()
    shutil.copy(next((copy / "class00" / "genuine").iterdir()), copy / "class00" / "else" / "a.png")
    assert read(copy).forged is None


def test_a_table_says_what_is_forged(signatures, tmp_path):
    rows = ["path,writer,forged"]
    paths = sorted(signatures.rglob("*.png"))
    rows += [f"{path},{path.parts[-3]},{int('forged' in path.parts)}" for path in paths]
    rows.insert(3, "gone.png,class00,1")
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    records = read(tmp_path / "t.csv")
    assert len(records) == 48
    assert "forgeries marked in 'forged'" in records.description
    assert records.forged.tolist() == ["/forged/" in name for name in records.names]
    (tmp_path / "t.csv").write_text("\n".join(rows).replace(",1", ",maybe"), encoding="utf-8")
    with pytest.raises(DataError, match=r"'maybe' does not say whether the item is forged"):
        read(tmp_path / "t.csv")


def test_features_do_not_hold_the_mark(tmp_path):
    rows = ["speed,pressure,writer,forged", *(f"{i},{i / 3},w{i % 2},{int(i > 6)}" for i in range(10))]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    records = read(tmp_path / "t.csv")
    assert records.columns == ("speed", "pressure")
    assert records.forged.sum() == 3


def test_a_forgery_is_like_nothing(signatures):
    records = read(signatures)
    labels, forged = labels_of(records), records.forged
    alike = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    assert not alike[forged].any()
    same_writer = records.labels[:, None] == records.labels[None]
    genuine = ~forged[:, None] & ~forged[None]
    assert (alike == (same_writer & genuine & ~np.eye(len(labels), dtype=bool))).all()


def test_forgeries_are_held_out_with_their_writer(signatures):
    records = read(signatures)
    train, held, sentence = hold_out(records, 0.4, "class", 0)
    assert "2 classes of 6" in sentence
    assert not set(train.classes) & set(held.classes)
    assert (train.forged.sum(), held.forged.sum()) == (12, 6)
    for part in (train, held):
        assert ["/forged/" in name for name in part.names] == part.forged.tolist()


def eer_of(genuine, impostor):
    far, tar, _ = roc_curve([1] * len(genuine) + [0] * len(impostor), [-d for d in [*genuine, *impostor]],
                            drop_intermediate=False)  # fmt: skip
    gap = far + tar - 1
    after = int(np.argmax(gap >= 0))
    return far[after - 1] - gap[after - 1] / (gap[after] - gap[after - 1]) * (far[after] - far[after - 1])


@pytest.mark.parametrize("seed", range(4))
def test_figures_by_their_definition(seed):
    draw = np.random.default_rng(seed)
    writers = draw.integers(0, 4, 40)
    forged = draw.random(40) < 0.3
    vectors = (draw.normal(size=(4, 3))[writers] + draw.normal(size=(40, 3))).astype(np.float32)
    lists = {kind: [] for kind in ("same", "skilled", "random")}
    for i in range(40):
        for j in range(40):
            if forged[i] or i == j:
                continue
            kind = None
            if writers[i] == writers[j]:
                kind = "skilled" if forged[j] else "same" if i < j else None
            elif not forged[j]:
                kind = "random"
            if kind:
                lists[kind].append((writers[i], float(np.linalg.norm(vectors[i] - vectors[j]))))
    found, missing = evaluate_forgeries(vectors, writers, forged, "euclidean", 1.5)
    assert not missing
    assert (found["n_writers"], found["n_forged"]) == (4, forged.sum())
    for kind in ("skilled", "random"):
        far = [d for _, d in lists[kind]]
        assert found[f"{kind}_eer"] == pytest.approx(eer_of([d for _, d in lists["same"]], far), abs=1e-6)
        assert found[f"{kind}_far"] == pytest.approx(np.mean(np.array(far) <= 1.5))
        own = [
            eer_of([d for w, d in lists["same"] if w == writer], [d for w, d in lists[kind] if w == writer])
            for writer in range(4)
        ]
        assert found[f"{kind}_eer_by_writer"] == pytest.approx(np.mean(own), abs=1e-6)


def test_what_cannot_be_told_is_missing_with_the_reason():
    vectors = np.eye(4, 3, dtype=np.float32)
    found, missing = evaluate_forgeries(vectors, np.array([0, 0, 0, 0]), np.array([False, False, True, True]),
                                        "euclidean", None)  # fmt: skip
    assert found["random_eer"] is None
    assert missing["random_eer"] == "no random and genuine pairs"
    assert missing["skilled_far"] == "no threshold was calibrated"


def test_every_figure_takes_forgeries_as_unlike(signatures):
    records = read(signatures)
    labels = labels_of(records)  # a perfect model puts alike items at one place, and every forgery far from all
    found = evaluate_vectors(np.eye(labels.max() + 1, dtype=np.float32)[labels], records, "euclidean")
    assert (found.metrics["auc"], found.metrics["eer"], found.metrics["map_at_r"]) == (1, 0, 1)
    assert found.metrics["n_same_pairs"] == 6 * 10
    assert (found.metrics["n_queries"], found.metrics["n_classes"]) == (6 * 5, 6)


def test_a_run_on_signatures(signatures, tmp_path):
    run = tercet.train(str(signatures), out=tmp_path / "run", holdout_by="class", holdout=0.4, progress=False, **QUICK)
    assert run.metrics["validation.n_forged"] == 6
    assert 0 <= run.metrics["validation.skilled_eer"] <= 1
    assert 0 <= run.metrics["validation.random_eer_by_writer"] <= 1
    assert "class00 (forged)" in run.embed_records(str(signatures)).labels
    with pytest.raises(DataError, match=r"marks forgeries, which mining would take as alike"):
        run.mine(str(signatures))
    with pytest.raises(InputError, match=r"mine_every is set, which takes all items of a class as alike"):
        tercet.train(str(signatures), out=tmp_path / "b", mine_every=1, progress=False, **QUICK)
