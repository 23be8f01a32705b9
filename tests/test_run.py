"""A run from Python: what it embeds, verifies and evaluates is what its folder says."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import tercet
from tercet.errors import DataError, InputError, RunError


def paths(folder):
    return sorted(str(path) for path in folder.rglob("*.png"))


def test_embeddings_do_not_depend_on_company(image_run, unseen_images):
    run = tercet.load(image_run)
    together = run.embed(paths(unseen_images))
    assert together.shape == (30, 128)
    assert together.dtype == np.float32
    alone = np.concatenate([run.embed([path]) for path in paths(unseen_images)])
    assert np.abs(together - alone).max() < 1e-5
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(tercet.embed(image_run, paths(unseen_images)[:3]), run.embed(paths(unseen_images)[:3]))


def test_pictures_and_arrays_are_embedded_as_their_files(image_run, unseen_images):
    run = tercet.load(image_run)
    path = paths(unseen_images)[0]
    with Image.open(path) as picture:
        expected = run.embed([path])
        assert np.array_equal(run.embed([picture]), expected)
        assert np.array_equal(run.embed([np.asarray(picture)]), expected)


def test_verify_is_distance_against_threshold(image_run, unseen_images):
    run = tercet.load(image_run)
    left, right = paths(unseen_images)[0], paths(unseen_images)[9]
    vectors = run.embed([left, right])
    verdict = run.verify(left, right)
    assert verdict.distance == pytest.approx(float(np.linalg.norm(vectors[0] - vectors[1])), abs=1e-5)
    assert verdict.threshold == run.metrics["validation.threshold"]
    assert verdict.same == (verdict.distance <= verdict.threshold)
    assert run.verify(left, left).same
    far = max((run.verify(left, other) for other in paths(unseen_images)[6::6]), key=lambda one: one.distance)
    assert not far.same


def test_evaluate_writes_figures_and_baseline(image_run, unseen_images, tmp_path):
    run = tercet.load(shutil.copytree(image_run, tmp_path / "run"))
    found = tercet.evaluate(run, str(unseen_images), name="others")
    metrics = run.metrics
    assert metrics["others.auc"] == found.metrics["auc"]
    assert metrics["others.threshold"] == metrics["validation.threshold"]
    assert {"others-baseline.eer", "others-baseline.auc", "others.auc_interval"} <= set(metrics)
    before = metrics["validation.auc"]
    run.evaluate(str(unseen_images))
    assert "baseline.eer" in run.metrics
    run.evaluate(str(unseen_images), baseline=False)
    assert "baseline.eer" not in run.metrics
    with pytest.raises(InputError, match="nor an ending in 'baseline'"):
        run.evaluate(str(unseen_images), name="others-baseline")
    assert run.metrics["validation.auc"] == before


def test_the_threshold_is_calibrated_on_validation_alone(image_run, unseen_images, tmp_path):
    run = tercet.load(shutil.copytree(image_run, tmp_path / "run"))
    before = run.threshold
    run.evaluate(str(unseen_images))
    assert run.threshold == before


def test_a_run_works_from_its_folder_alone(images, texts, tmp_path):
    """The training data is gone, the folder has moved: embeddings are the same."""
    source = tmp_path / "texts.csv"
    shutil.copy(texts, source)
    first = tercet.train(str(source), out=tmp_path / "run", columns=("sentence",), steps=3, progress=False)
    expected = first.embed(["apple river stone", "tiger"])
    source.unlink()
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert np.array_equal(tercet.load(moved).embed(["apple river stone", "tiger"]), expected)


def test_a_pretrained_text_encoder_needs_its_folder_only_once(texts, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "apple", "river", "stone", "tiger"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16)  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    from tercet.encoders import TextOptions

    run = tercet.train(str(texts), out=tmp_path / "run", encoder=TextOptions(weights=str(folder), dim=8),
                       columns=("sentence",), steps=3, progress=False)  # fmt: skip
    assert run.config.training.learning_rate == 5e-5
    expected = run.embed(["apple river", "tiger stone"])
    shutil.rmtree(folder)
    assert np.array_equal(tercet.load(run.path).embed(["apple river", "tiger stone"]), expected)


def test_the_columns_of_training_are_read_again(numbers, texts, tmp_path):
    """A table with more columns, in another order, without labels: the features are found by their names."""
    run = tercet.train(str(numbers), out=tmp_path / "run", steps=3, progress=False)
    assert run.config.data.columns == ("length", "width", "height", "weight")
    (tmp_path / "more.csv").write_text("extra,weight,height,width,length\n9,4,3,2,1\n9,8,7,6,5\n")
    batch = run.embed_records(str(tmp_path / "more.csv"))
    assert np.array_equal(batch.vectors, run.embed([[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert batch.labels is None
    (tmp_path / "less.csv").write_text("weight,height,width\n4,3,2\n")
    with pytest.raises(DataError, match="length"):
        run.embed_records(str(tmp_path / "less.csv"))


def test_refusals(image_run, images, tmp_path):
    run = tercet.load(image_run)
    with pytest.raises(InputError, match="items must be a list"):
        run.embed(paths(images)[0])
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"item 1 \(.*bad\.png\) cannot be read"):
        run.embed([paths(images)[0], str(tmp_path / "bad.png")])
    with pytest.raises(InputError, match="name is 'validation'"):
        run.evaluate(str(images), name="validation")
    with pytest.raises(RunError, match=r"holds no config\.toml"):
        tercet.load(tmp_path)
    with pytest.raises(RunError, match=rf"there is no run at {image_run}x\. Did you mean 'images'"):
        tercet.load(str(image_run) + "x")


def test_a_run_without_weights_says_how_to_go_on(image_run, tmp_path):
    copy = shutil.copytree(image_run, tmp_path / "run")
    (copy / "model.safetensors").unlink()
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError) as raised:
        tercet.load(copy)
    assert str(raised.value) == (
        f"{copy} holds no model.safetensors: the training stopped before its first checkpoint. "
        f"Go on with: tercet train --resume --out {copy}"
    )
