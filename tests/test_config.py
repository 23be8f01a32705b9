"""Configuration: written in full, read strictly, every fault in words."""

import dataclasses

import pytest

from tercet.data.options import Augmentation
from tercet.encoders.options import CustomOptions, ImageOptions, TabularOptions, TextOptions
from tercet.errors import ConfigError, RunError
from tercet.training.config import (
    BatchOptions,
    Config,
    DataOptions,
    LossOptions,
    TrainingOptions,
    read_config,
    read_partial_config,
)

ENCODERS = [
    ImageOptions(dim=17, size=(40, 24), channels=3, width=24, fit="pad", normalize=False),
    TextOptions(dim=9, pooling="max", vocabulary=321),
    TabularOptions(dim=5, hidden=(7, 11)),
    TabularOptions(hidden=()),
    CustomOptions(factory="package.module:make", arguments={"width": 3, "names": ["a", "b"]}, input="tensor"),
]


def make_config(**changes):
    settings = {
        "source": "faces/",
        "data": DataOptions(kind="image", form="labels", columns=("a", "b"), holdout=0.3, holdout_by="row"),
        "encoder": ENCODERS[0],
        "loss": LossOptions(margin=0.5, mining="semihard", distance="minkowski", p=4.0, fallback="farthest"),
        "batch": BatchOptions(classes_per_batch=5, samples_per_class=3, rows_per_batch=7, singletons="drop"),
        "augmentation": Augmentation(mirror=False, erase=0.25),
        "training": TrainingOptions(epochs=3, learning_rate=0.01, threshold_target=0.01, seed=9, patience=2),
    }
    return Config(**{**settings, **changes})


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda options: type(options).__name__)
def test_what_is_written_is_read_again(tmp_path, encoder):
    config = make_config(encoder=encoder)
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert read_config(tmp_path / "config.toml") == config


def test_every_setting_is_written_so_that_later_defaults_do_not_matter(tmp_path):
    text = make_config().to_toml()
    for group in (DataOptions, LossOptions, BatchOptions, Augmentation, TrainingOptions, ImageOptions):
        for entry in dataclasses.fields(group):
            if "None" not in str(entry.type):
                assert f"\n{entry.name} = " in text, entry.name


def test_a_missing_key_of_a_run_is_an_error(tmp_path):
    text = make_config().to_toml().replace('mining = "semihard"\n', "")
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml: loss: the key 'mining' is missing\."):
        read_config(tmp_path / "config.toml")


def test_an_unknown_key_suggests_the_likely_one(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(make_config().to_toml().replace("samples_per_class", "sample_per_class"))
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert str(raised.value) == (
        f"{path}: batch: unknown key 'sample_per_class'. Did you mean 'samples_per_class'? Known here are "
        "classes_per_batch, samples_per_class, rows_per_batch, singletons."
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('mining = "semihard"', 'mining = "semi-hard"', r"loss: mining is 'semi-hard'; it must be 'all' or 'hard' or "
         r"'semihard'\. Did you mean 'semihard'\?"),
        ("epochs = 3", 'epochs = "3"', r"training: epochs is '3'; it must be a whole number\."),
        ("mirror = false", "mirror = 0", r"augmentation: mirror is 0; it must be true or false\."),
        ('kind = "image"\ndim', 'kind = "imagen"\ndim', r"encoder\.kind is 'imagen'.* Did you mean 'image'\?"),
        ("[loss]", "loss = 3\n[lost]", r"config\.toml is not valid TOML|unknown key"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(tmp_path, old, new, message):
    text = make_config().to_toml()
    assert old in text
    (tmp_path / "config.toml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "config.toml")


def test_a_run_of_a_newer_version_says_so(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(make_config().to_toml().replace("format = 1", "format = 99\nshiny = true"))
    with pytest.raises(RunError, match=r"in format 99; this is Tercet .* pip install --upgrade tercet"):
        read_config(path)


def test_a_partial_configuration_takes_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[loss]\nmargin = 0.7\n[training]\nsteps = 12\n")
    config = read_partial_config(path)
    assert config.loss == LossOptions(margin=0.7)
    assert config.training == TrainingOptions(steps=12)
    assert config.batch == BatchOptions()


def test_faults_are_reported_together():
    with pytest.raises(ConfigError) as raised:
        make_config(
            loss=LossOptions(margin=-1.0, p=3.0, distance="cosine", temperature=0.2),
            training=TrainingOptions(steps=3, epochs=2, warmup=1.5),
        )
    assert str(raised.value) == (
        "margin is -1.0, it must be a finite number, 0 or more; warmup is 1.5, it must be 0 or more and below 1; "
        "p is 3.0, but it belongs to distance='minkowski' and the distance is 'cosine'; "
        "temperature is 0.2, but it belongs to penalty='logsumexp', not 'hinge'; "
        "steps is 3 and epochs is 2; give one of them."
    )


def test_what_is_not_toml_is_named(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[loss\n")
    with pytest.raises(ConfigError, match=r"config\.toml is not valid TOML: "):
        read_config(path)
