"""Configuration: written in full, read strictly, every fault in words."""

import dataclasses

import pytest

from tercet.data.options import Augmentation
from tercet.encoders.options import CustomOptions, ImageOptions, TabularOptions, TextOptions
from tercet.errors import ConfigError, RunError
from tercet.training.config import (
    SETTINGS,
    BatchOptions,
    Config,
    DataOptions,
    LossOptions,
    TrainingOptions,
    field_names,
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
        "loss": LossOptions(
            loss="triplet",
            margin=0.5,
            mining="semihard",
            distance="minkowski",
            p=4.0,
            penalty="hinge",
            reduction="mean",
            fallback="farthest",
        ),
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
    text = make_config().to_toml().replace('penalty = "hinge"\n', "")
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml: loss: the key 'penalty' is missing\."):
        read_config(tmp_path / "config.toml")


def test_an_unknown_key_suggests_the_likely_one(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(make_config().to_toml().replace("samples_per_class", "sample_per_class"))
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert str(raised.value) == (
        f"{path}: batch: unknown key 'sample_per_class'. Did you mean 'samples_per_class'? Known here are "
        "classes_per_batch, samples_per_class, rows_per_batch, singletons, class_sampling, mine_every, memory, "
        "memory_warmup, momentum, batch_size, views, corruption, chunk."
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('mining = "semihard"', 'mining = "semi-hard"', r"loss: mining is 'semi-hard'; it must be 'all' or 'hard' or "
         r"'semihard' or .* or 'distance-weighted'\. Did you mean 'semihard'\?"),
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
            loss=LossOptions(loss="triplet", margin=-1.0, p=3.0, distance="cosine", temperature=0.2, draw_seed=-1),
            training=TrainingOptions(steps=3, epochs=2, warmup=1.5),
        )
    assert str(raised.value) == (
        "warmup is 1.5, it must be 0 or more and below 1; margin is -1.0, it must be a finite number, 0 or more; "
        "draw_seed is -1, it must be 0 or more and below 2**63; "
        "p is 3.0, but it belongs to distance='minkowski' and the distance is 'cosine'; "
        "temperature is 0.2, but it belongs to penalty='logsumexp' or 'lifted' and the penalty is 'hinge'; "
        "draw_seed is -1, but it belongs to mining='distance-weighted' and the mining is 'all'; "
        "steps is 3 and epochs is 2; give one of them."
    )


# The loss.

EVERY_SETTING = [
    LossOptions(loss="triplet", margin=0.35, mining="semihard", distance="minkowski", p=4.0, penalty="squared-hinge",
                reduction="sum", fallback="farthest", normalize=True, statistics="full", implementation="torch"),
    LossOptions(loss="triplet", margin=0.1, mining="distance-weighted", distance="manhattan", penalty="softplus",
                reduction="mean", draw_seed=7),
    LossOptions(loss="triplet", margin=0.3, mining="all", distance="cosine", penalty="lifted", temperature=0.7,
                learn_temperature=True, reduction="mean-active"),
    LossOptions(loss="contrastive", margin=0.9, positive_margin=0.2, distance="chebyshev", reduction="mean-active",
                normalize=True, statistics="full"),
    LossOptions(loss="infonce", temperature=0.3, learn_temperature=True, distance="jaccard",
                implementation="reference"),
    LossOptions(loss="supcon", temperature=0.2, distance="squared-euclidean", statistics="full"),
]  # fmt: skip


@pytest.mark.parametrize("options", EVERY_SETTING, ids=lambda options: f"{options.loss} {options.distance}")
def test_options_make_a_loss_and_the_loss_its_options(options):
    """None is lost on the way: not in the constructor, not in its description, not in the file."""
    from tercet.training.objective.loss import described, make_loss, options_of

    loss = make_loss(options)
    assert options_of(loss) == options
    assert described(loss) is None
    assert make_config(loss=options).loss == options  # no fault


def test_every_option_of_a_loss_is_tried_above():
    for name in field_names(LossOptions):
        default = getattr(LossOptions(), name)
        assert any(getattr(options, name) != default for options in EVERY_SETTING), name
    assert {name for names in SETTINGS.values() for name in names} | {"loss"} == set(field_names(LossOptions))


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_left_open_is_what_the_messages_say(name):
    from tercet.training.config import _when_open
    from tercet.training.objective.loss import completed, make_loss, options_of

    for given in ({}, {"margin": 0.3}, {"mining": "hard"}, {"penalty": "softplus"}):
        if not given or name == "triplet":
            asked = LossOptions(loss=name, **given)
            made = options_of(make_loss(completed(asked, "labels", seed=3)))
            for word in {"distance", "penalty", "mining"} - set(given):
                assert _when_open(asked, word) in (getattr(made, word), None)


def test_the_usual_triplet_loss_and_where_it_is_the_classic_one():
    from tercet.training.objective.loss import completed, make_loss, options_of

    def made(form="labels", **given):
        one = options_of(make_loss(completed(LossOptions(**given), form, seed=3)))
        return one.penalty, one.margin, one.temperature

    usual, classic = ("logsumexp", 0.1, 0.05), ("hinge", 0.2, None)
    assert made() == made("pairs") == made(loss="triplet") == made(distance="cosine") == usual
    assert made(temperature=0.3) == ("logsumexp", 0.1, 0.3)
    assert made("triplets") == made(mining="semihard") == made(penalty="hinge") == classic
    assert made(margin=0.4) == ("hinge", 0.4, None)
    assert made(penalty="logsumexp") == ("logsumexp", 0.2, 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss": "supcon", "margin": 0.3},
            "margin is 0.3, but it belongs to loss='triplet' or 'contrastive' and the loss is 'supcon'.",
        ),
        (
            {"loss": "infonce", "mining": "all"},
            "mining is 'all', but it belongs to loss='triplet' and the loss is 'infonce'.",
        ),
        (
            {"loss": "contrastive", "temperature": 0.3},
            "temperature is 0.3, but it belongs to loss='triplet' or 'infonce' or 'supcon' and the loss is "
            "'contrastive'.",
        ),
        (
            {"loss": "triplet", "positive_margin": 0.1},
            "positive_margin is 0.1, but it belongs to loss='contrastive' and the loss is 'triplet'.",
        ),
        (
            {"loss": "supcon", "normalize": True},
            "normalize is True, but it belongs to loss='triplet' or 'contrastive' and the loss is 'supcon'.",
        ),
        (
            {"learn_temperature": True, "loss": "triplet", "margin": 0.2},
            "learn_temperature is True, but it belongs to penalty='logsumexp' or 'lifted' and the penalty is 'hinge'.",
        ),
        (
            {"loss": "triplet", "fallback": "skip", "mining": "hard"},
            "fallback is 'skip', but it belongs to mining='semihard' or 'easy-positive-semihard' and the "
            "mining is 'hard'.",
        ),
        (
            {"loss": "triplet", "draw_seed": 3},
            "draw_seed is 3, but it belongs to mining='distance-weighted' and the mining is 'all'.",
        ),
        (
            {"loss": "supcon", "p": 3.0},
            "p is 3.0, but it belongs to distance='minkowski' and the distance is 'cosine'.",
        ),
        (
            {"p": 3.0},
            "p is 3.0, but it belongs to distance='minkowski' and the distance is 'euclidean'.",
        ),
        (
            {"distance": "mahalanobis"},
            "distance is 'mahalanobis', whose map a word cannot give; from Python give the loss as an object:"
            " tercet.train(..., loss=tercet.TripletLoss(distance=tercet.Mahalanobis(learned=True, dim=128))).",
        ),
    ],
)
def test_an_option_that_would_do_nothing_names_what_it_belongs_to(settings, message):
    with pytest.raises(ConfigError) as raised:
        make_config(loss=LossOptions(**settings))
    assert str(raised.value) == message


def test_while_the_loss_is_open_its_options_may_be_those_of_any():
    """Pairs marked similar or not take the contrastive loss, others triplets: the data decides."""
    from tercet.training.objective.loss import completed

    options = LossOptions(positive_margin=0.1)
    assert make_config(loss=options).loss == options
    assert completed(options, "marked-pairs", seed=0).loss == "contrastive"
    with pytest.raises(ConfigError, match=r"positive_margin is 0\.1, but it belongs to loss='contrastive'"):
        completed(options, "labels", seed=0)


def test_draws_take_the_seed_of_the_run_unless_they_have_their_own():
    from tercet.training.objective.loss import completed, make_loss

    options = LossOptions(mining="distance-weighted")
    assert make_loss(completed(options, "labels", seed=5)).rule.seed == 5
    assert make_loss(completed(dataclasses.replace(options, draw_seed=9), "labels", seed=5)).rule.seed == 9


@pytest.mark.parametrize(
    ("options", "custom_loss", "missing"),
    [
        (LossOptions(), None, "loss"),
        (LossOptions(), "mine:Loss", "distance"),
        (LossOptions(loss="supcon", distance="cosine"), None, "temperature"),
        (LossOptions(loss="contrastive", margin=0.5, distance="cosine", reduction="mean"), None, "positive_margin"),
    ],
)
def test_a_run_leaves_nothing_of_its_loss_open(tmp_path, options, custom_loss, missing):
    (tmp_path / "config.toml").write_text(make_config(loss=options, custom_loss=custom_loss).to_toml())
    with pytest.raises(ConfigError, match=rf"config\.toml: loss: the key '{missing}' is missing\."):
        read_config(tmp_path / "config.toml")


def test_what_is_not_toml_is_named(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[loss\n")
    with pytest.raises(ConfigError, match=r"config\.toml is not valid TOML: "):
        read_config(path)
