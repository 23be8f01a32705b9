"""tercet train."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tercet.cli.console import BY_THIRDS, Json, figure, parse, reporter, show, show_json
from tercet.data.options import PRESETS, Augmentation, preset
from tercet.encoders.options import ImageOptions, TabularOptions, TextOptions, TowersOptions
from tercet.mining.options import MiningOptions
from tercet.training.batches.pacing import CurriculumOptions
from tercet.training.config import (
    BatchOptions,
    Config,
    DataOptions,
    LossOptions,
    TrainingOptions,
    read_config,
    read_partial_config,
)

if TYPE_CHECKING:
    from tercet.training.request import Request

Preset = Literal["faces", "products", "documents", "icons", "photographs", "none"]
INTERRUPTED = 130
STOPPED = 3


@dataclass(frozen=True)
class Train:
    """Train an embedding, and leave a run folder with the model, its figures and a report.

    What SOURCE holds is found out and said aloud. Everything has a default, so that this is enough:

        tercet train faces/ --out runs/faces
    """

    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A folder with a subfolder for each class (images, or .txt files); or a table (.csv, .tsv, .jsonl, .parquet) \
with a label column and a column of paths or texts, or columns of numbers; or a table of triplets (anchor, positive, \
negative) or of pairs."""

    out: str
    """The run folder to write; it must not exist yet, unless --resume."""

    config: str | None = None
    """A config.toml to start from, of another run or your own with only some of the settings. Options overrule it."""

    resume: FlagCreatePairsOff[bool] = False
    """Go on with the run in --out from its newest checkpoint, or start it if there is none."""

    preset: Annotated[Preset | None, tyro.conf.arg(name="augmentation.preset")] = None
    """Augmentation for images of this kind (signatures: documents); its single settings may be given too, and win."""

    json: Json = False

    data: OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    loss: OmitArgPrefixes[LossOptions] = field(default_factory=LossOptions)
    batch: OmitArgPrefixes[BatchOptions] = field(default_factory=BatchOptions)
    training: OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)
    image: ImageOptions = field(default_factory=ImageOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    mine: MiningOptions = field(default_factory=MiningOptions)
    curriculum: CurriculumOptions = field(default_factory=CurriculumOptions)
    text: TextOptions = field(default_factory=TextOptions)
    tabular: TabularOptions = field(default_factory=TabularOptions)


def main(words: Sequence[str]) -> int:
    """Train as the words say; the exit code."""
    command = parse(Train, words, default=_defaults(words))
    from tercet.collectives import joined
    from tercet.run import train_request

    request, folder = request_of(command), Path(command.out)
    with joined(request.training.device) as ranks:
        reason = train_request(request, folder, command.resume, reporter(command.json), ranks)
        if ranks.is_first:
            _show_end(folder, reason, command.json)
    if reason.startswith("stopped: "):
        return STOPPED
    return INTERRUPTED if reason == "interrupted" else 0


def request_of(command: Train) -> Request:
    """What the parsed words ask for."""
    from tercet.training.request import Request

    return Request(
        source=command.source, data=command.data, loss=command.loss, batch=command.batch,
        augmentation=command.augmentation, preset=command.preset, training=command.training, mine=command.mine,
        curriculum=command.curriculum,
        encoders={"image": command.image, "text": command.text, "tabular": command.tabular},
    )  # fmt: skip


def _show_end(folder: Path, reason: str, as_json: bool) -> None:
    from tercet.training.folder.metrics import read_metrics

    metrics = read_metrics(folder)
    if as_json:
        show_json({"run": str(folder), "ended": reason, "metrics": metrics})
    else:
        show(_summary(folder, metrics))


def _defaults(words: Sequence[str]) -> Train | None:
    """The defaults that --config, --resume or a preset puts in place of Tercet's own."""
    found, name = _of_file(words), value_of(words, "--augmentation.preset")
    if name not in PRESETS:  # none is given, or one that there is not, as the parser will say
        return found
    missing: Any = tyro.MISSING
    return dataclasses.replace(found or Train(source=missing, out=missing), augmentation=preset(name))


def _of_file(words: Sequence[str]) -> Train | None:
    """The defaults of --config, or of the run that is resumed."""
    out, named = value_of(words, "--out"), value_of(words, "--config")
    if "--resume" in words and out and (Path(out) / "config.toml").exists():
        return from_config(read_config(Path(out) / "config.toml"), out)
    if named is not None:
        return from_config(read_partial_config(Path(named)), out)
    return None


def from_config(config: Config, out: str | None) -> Train:
    """The command that has a configuration's values."""
    if config.custom_loss is not None:
        from tercet.training.request import check_recorded_loss

        check_recorded_loss(config.custom_loss)
    missing: Any = tyro.MISSING
    encoder = config.encoder
    encoders = encoder.towers if isinstance(encoder, TowersOptions) else (encoder,)
    return Train(
        source=config.source or missing, out=out or missing, data=config.data, loss=config.loss, batch=config.batch,
        training=config.training, augmentation=config.augmentation, mine=config.mine,
        curriculum=config.curriculum,
        image=next((one for one in encoders if isinstance(one, ImageOptions)), ImageOptions()),
        text=_text_of([one for one in encoders if isinstance(one, TextOptions)]),
        tabular=encoder if isinstance(encoder, TabularOptions) else TabularOptions(),
    )  # fmt: skip


def _text_of(towers: list[TextOptions]) -> TextOptions:
    """The options that lead to these encoders of texts: of two, with a prompt for each."""
    if len(towers) < 2 or towers[0].prompt == towers[1].prompt:
        return towers[0] if towers else TextOptions()
    query, document = (one.prompt for one in towers)
    return dataclasses.replace(towers[0], prompt=None, query_prompt=query, document_prompt=document)


def value_of(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag that is needed before the words can be parsed."""
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(flag + "="):
            return word[len(flag) + 1 :]
    return None


def _summary(path: Path, metrics: dict[str, Any]) -> str:
    named = ["map_at_r", "recall_at_1", "auc", "eer", "triplet_accuracy", *BY_THIRDS]
    named[2:2] = sorted(name for key in metrics if (name := key.removeprefix("validation.")).endswith(".recall_at_1"))
    width = max(18, *map(len, named))
    found = [
        f"  {name:<{width}} {figure(metrics[key], metrics.get(key + '_interval'))}"
        for name in named
        if (key := f"validation.{name}") in metrics
    ]
    of = (
        "views of validation items, which no label tells apart"
        if "validation.n_views" in metrics
        else "the validation data"
    )
    with_intervals = ", with 95 % intervals" if any("[" in line for line in found) else ""
    return "\n".join([
        f"on {of}{with_intervals} (optimistic: it chose the checkpoint and the threshold):",
        *found,
        f"run     {path}",
        f"report  {path / 'report.html'}",
        f"next    tercet evaluate {path} --data DATA-IT-NEVER-SAW",
    ])  # fmt: skip
