"""tercet benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tercet.cli.console import Json, parse, reporter, show, show_json
from tercet.cli.train import from_config, value_of
from tercet.data.options import Augmentation
from tercet.encoders.options import ImageOptions, TabularOptions, TextOptions
from tercet.errors import ConfigError
from tercet.mining.options import MiningOptions
from tercet.training.batches.pacing import CurriculumOptions
from tercet.training.benchmark.options import BenchmarkOptions
from tercet.training.config import BatchOptions, DataOptions, LossOptions, TrainingOptions, read_partial_config

if TYPE_CHECKING:
    from tercet.training.request import Request


@dataclass(frozen=True)
class Benchmark:
    """Compare losses on classes that none of them has seen, each with the settings that validation chose for it.

    The protocol of Musgrave et al. (2020): folds without a class in common, equal trials for every method, several
    seeds, and a test set that is looked at once, at the end. Encoder, batch, steps and augmentation are the same for
    all.

        tercet benchmark faces/ --losses triplet contrastive supcon --out benchmarks/faces
    """

    source: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder with a subfolder for each class, or a table with labels."""

    out: str
    """The folder to write; it must not exist yet, unless --resume."""

    config: str | None = None
    """A config.toml to start from, without a loss. Options overrule it."""

    resume: FlagCreatePairsOff[bool] = False
    """Go on with the benchmark in --out: finished trainings are kept, another goes on from its checkpoint."""

    dry_run: FlagCreatePairsOff[bool] = False
    """Print the plan: the folds, what is tried, and how many trainings that makes. Nothing is trained or written."""

    json: Json = False

    benchmark: OmitArgPrefixes[BenchmarkOptions] = field(default_factory=BenchmarkOptions)
    data: OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    batch: OmitArgPrefixes[BatchOptions] = field(default_factory=BatchOptions)
    training: OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)
    image: ImageOptions = field(default_factory=ImageOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    mine: MiningOptions = field(default_factory=MiningOptions)
    curriculum: CurriculumOptions = field(default_factory=CurriculumOptions)
    text: TextOptions = field(default_factory=TextOptions)
    tabular: TabularOptions = field(default_factory=TabularOptions)


def main(words: Sequence[str]) -> int:
    """Run the benchmark that the words ask for; the exit code."""
    command = parse(Benchmark, words, default=_defaults(words))
    from tercet.training.benchmark.plan import make_plan
    from tercet.training.benchmark.protocol import benchmark_request, planned_tables, read_settings

    request, folder, said = request_of(command), Path(command.out), reporter(command.json)
    if command.dry_run:
        stored = read_settings(folder) if command.resume else None
        plan = make_plan(request, command.benchmark, planned_tables(command.benchmark, stored))
        show_json(plan.to_json()) if command.json else show("\n".join(plan.sentences()))
        return 0
    found = benchmark_request(request, command.benchmark, folder, command.resume, said)
    if command.json:
        show_json(found.to_json())
    else:
        show(found.to_markdown())
        show(f"results {folder / 'results.md'}, results.csv and benchmark.json")
    return 0


def request_of(command: Benchmark) -> Request:
    """What is common to all methods."""
    from tercet.training.request import Request

    return Request(
        source=command.source, data=command.data, batch=command.batch, augmentation=command.augmentation,
        training=command.training, mine=command.mine, curriculum=command.curriculum,
        encoders={"image": command.image, "text": command.text, "tabular": command.tabular},
    )  # fmt: skip


def _defaults(words: Sequence[str]) -> Benchmark | None:
    """The defaults that --resume or --config puts in place of Tercet's own."""
    out, named = value_of(words, "--out"), value_of(words, "--config")
    if "--resume" in words and out and (Path(out) / "settings.toml").exists():
        return _of_settings(Path(out))
    if named is None:
        return None
    config = read_partial_config(Path(named))
    if config.loss != LossOptions():
        raise ConfigError(f"{named} holds a loss, and losses are what a benchmark compares; write it into --methods.")
    train = from_config(config, out)
    return Benchmark(**{name: getattr(train, name) for name in _shared()}, source=train.source, out=train.out)


def _of_settings(out: Path) -> Benchmark:
    from tercet.training.benchmark.protocol import read_settings

    stored = read_settings(out)
    assert stored is not None
    request, options, _ = stored
    groups: dict[str, Any] = {
        name: getattr(request, name) for name in _shared() if dataclasses.is_dataclass(getattr(request, name, None))
    }
    encoders: dict[str, Any] = {kind: value for kind, value in request.encoders.items() if kind in _shared()}
    return Benchmark(source=request.source, out=str(out), benchmark=options, **groups, **encoders)


def _shared() -> tuple[str, ...]:
    """The groups of options that a training has too."""
    return ("data", "batch", "training", "image", "augmentation", "mine", "curriculum", "text", "tabular")
