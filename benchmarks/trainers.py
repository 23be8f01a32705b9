"""Fine-tuning by Tercet and by sentence-transformers' trainer with its triplet losses: titles and bodies of packages.

    python benchmarks/trainers.py --pairs descriptions.jsonl --weights MODEL --results trainers.jsonl

The pairs and the weights are those of descriptions.py. Both train the whole encoder on the same pairs, drawn by the
seed, one epoch of as many steps, with the same learning rate, warm-up and cosine decay, and are asked for the body of
each of 2,000 titles that neither saw. Which loss of either's five is best is decided by the validation pairs of the
first seed; these two are then trained for every seed. A result is a line of the file, and is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import tercet
from descriptions import Pair, divided, frozen_pairs, write_pairs
from tercet.encoders.options import TextOptions

OURS: dict[str, dict[str, Any]] = {
    "Tercet, default": {},
    "Tercet, default with temperature 0.1": {"temperature": 0.1},
    "Tercet, margin 0.2": {"margin": 0.2},
    "Tercet, semihard, margin 0.2": {"mining": "semihard", "margin": 0.2},
    "Tercet, hard, margin 0.2": {"mining": "hard", "margin": 0.2},
}
THEIRS = {
    "BatchHardSoftMarginTripletLoss": ("BatchHardSoftMarginTripletLoss", {}),
    "BatchAllTripletLoss, margin 0.2": ("BatchAllTripletLoss", {"margin": 0.2}),
    "BatchAllTripletLoss, margin 0.5": ("BatchAllTripletLoss", {"margin": 0.5}),
    "BatchSemiHardTripletLoss, margin 0.2": ("BatchSemiHardTripletLoss", {"margin": 0.2}),
    "BatchHardTripletLoss, margin 0.2": ("BatchHardTripletLoss", {"margin": 0.2}),
}
WARMUP = 0.1
Embed = Callable[[list[str]], np.ndarray]


def recall(embed: Embed, pairs: list[Pair]) -> float:
    """The share of titles whose nearest body, by cosine similarity of rows of length 1, is theirs; a tie is wrong."""
    titles, bodies = (embed(list(side)) for side in zip(*pairs, strict=True))
    scores = titles @ bodies.T
    own = np.diag(scores).copy()
    np.fill_diagonal(scores, -np.inf)
    return float((own > scores.max(axis=1)).mean())


def by_tercet(
    name: str, train: list[Pair], watched: list[Pair], seed: int, given: argparse.Namespace, folder: Path
) -> Embed:  # fmt: skip
    """Tercet with one of its losses, on pairs that belong together; others are watched at the end."""
    run = tercet.train(
        write_pairs(folder / "train.csv", train), validation=write_pairs(folder / "watched.csv", watched),
        out=folder / "run", steps=given.steps, rows_per_batch=given.rows, learning_rate=given.learning_rate,
        warmup=WARMUP, seed=seed, evaluate_every=given.steps, progress=False, **OURS[name],
        encoder=TextOptions(weights=str(given.weights), head="none", dim=384, max_tokens=given.max_tokens),
    )  # fmt: skip
    return run.embed


def by_sentence_transformers(
    name: str, train: list[Pair], seed: int, given: argparse.Namespace, folder: Path
) -> Embed:  # fmt: skip
    """Their trainer with one of their losses; the number of a pair is the label of both its texts."""
    import sentence_transformers as st
    from datasets import Dataset
    from sentence_transformers import losses
    from sentence_transformers.training_args import BatchSamplers

    model = st.SentenceTransformer(str(given.weights), device="cpu", local_files_only=True)
    model.max_seq_length = given.max_tokens
    kind, settings = THEIRS[name]
    texts = [text for pair in train for text in pair]
    labels = [number for number in range(len(train)) for _ in range(2)]
    arguments = st.SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=given.steps, per_device_train_batch_size=2 * given.rows, use_cpu=True,
        learning_rate=given.learning_rate, warmup_steps=round(WARMUP * given.steps), lr_scheduler_type="cosine",
        weight_decay=0.01, batch_sampler=BatchSamplers.GROUP_BY_LABEL, seed=seed, save_strategy="no",
        report_to="none", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    st.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict({"sentence": texts, "label": labels}),
        loss=getattr(losses, kind)(model, **settings),
    ).train()  # fmt: skip
    return lambda items: model.encode(items, normalize_embeddings=True, show_progress_bar=False)


def measure(name: str, seed: int, train: list[Pair], sets: dict[str, list[Pair]], given: argparse.Namespace) -> None:
    """Train and test one method, unless the results have it."""
    if any((one["method"], one["seed"]) == (name, seed) for one in read(given.results)):
        return
    with tempfile.TemporaryDirectory() as folder:
        order = np.random.default_rng(seed).permutation(len(train))[: given.steps * given.rows]
        own = [train[i] for i in order]
        if name in OURS:
            embed = by_tercet(name, own, sets["validation"][:100], seed, given, Path(folder))
        else:
            embed = by_sentence_transformers(name, own, seed, given, Path(folder))
        line = {"method": name, "seed": seed} | {of: recall(embed, pairs) for of, pairs in sets.items()}
    with given.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(line, flush=True)


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of the results."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def show(ours: str, theirs: str, lines: list[dict[str, Any]]) -> None:
    """Each method's mean, and the paired difference with Student's 95 % interval."""
    found = {name: {one["seed"]: one["test"] for one in lines if one["method"] == name} for name in (ours, theirs)}
    for name, values in found.items():
        print(f"{name:<40} recall@1 {statistics.mean(values.values()):.3f} of seeds {sorted(values)}")
    gaps = [found[ours][seed] - value for seed, value in found[theirs].items() if seed in found[ours]]
    if len(gaps) > 1:
        width = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
        print(f"Tercet less theirs: {statistics.mean(gaps):+.3f} ± {width:.3f}")


def main() -> None:
    """Choose their best, train both for every seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("descriptions.jsonl"))
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("trainers.jsonl"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=32, help="pairs in a batch")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    pairs = frozen_pairs(given.pairs, None)
    train, validation, held = divided(pairs)
    sets = {"validation": validation, "test": held}
    best = []
    for names in (OURS, THEIRS):
        for name in names:
            measure(name, given.seeds[0], train, sets, given)
        of_first = [one for one in read(given.results) if one["method"] in names and one["seed"] == given.seeds[0]]
        best.append(max(of_first, key=lambda one: one["validation"])["method"])
    for seed in given.seeds:
        for name in best:
            measure(name, seed, train, sets, given)
    show(*best, read(given.results))


if __name__ == "__main__":
    main()
