"""How far the probability of "same" is to be trusted, as charts."""

from __future__ import annotations

from typing import Any

from tercet.report.chart import FIRST, SECOND, Chart, Figure, Series
from tercet.report.folder import RunFolder
from tercet.report.wording import number, percent

TENTHS = 10


def certainty_figures(run: RunFolder, name: str) -> list[Figure]:
    """What came of what was said, and what was said of either kind; nothing where no probability was judged."""
    rows = run.outcome(name).get("reliability", [])
    return [_reliability(run, name, rows), _said(rows)] if rows else []


def _reliability(run: RunFolder, name: str, rows: list[dict[str, float]]) -> Figure:
    brier, error = (number(run.figure(name, key)) for key in ("brier", "calibration_error"))
    caption = (
        "The run's probability that a pair is the same, by tenths, and the share that was, of "
        f"{number(sum(row['n_pairs'] for row in rows))} pairs, both kinds weighing equally. On the dashed diagonal "
        f"what was said is what was; below it too much was said. Brier score {brier} (0.25 for always saying a "
        f"half), calibration error {error}."
    )
    line = Series("pairs", FIRST, [row["probability"] for row in rows], [row["same"] for row in rows])
    table: Any = (
        ["probability from", "to", "pairs", "said on average", "share that was same"],
        [[row["low"], row["high"], row["n_pairs"], row["probability"], row["same"]] for row in rows],
    )
    return Chart("reliability", "Reliability", caption, [line], "probability of same", "share that was same",
                 diagonal=True, table=table).figure()  # fmt: skip


def _said(rows: list[dict[str, float]]) -> Figure:
    """Of each kind the share in each tenth, which the weights tell, each kind making up half of them."""
    shares = {"same pairs": [0.0] * TENTHS, "different pairs": [0.0] * TENTHS}
    for row in rows:
        place = round(row["low"] * TENTHS)
        shares["same pairs"][place] = 2 * row["weight"] * row["same"]
        shares["different pairs"][place] = 2 * row["weight"] * (1 - row["same"])
    edges = [place / TENTHS for place in range(TENTHS + 1)]
    series = [
        Series(label, look, edges, own) for (label, own), look in zip(shares.items(), (FIRST, SECOND), strict=True)
    ]
    sure = percent(shares["same pairs"][-1]), percent(shares["different pairs"][0])
    caption = f"Of the same pairs {sure[0]} are given 0.9 or more, and of the different ones {sure[1]} less than 0.1."
    return Chart("said", "What was said of either kind", caption, series, "probability of same", "share of its kind",
                 bars=True).figure()  # fmt: skip
