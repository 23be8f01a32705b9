"""The illnesses: how each shows in a run's history, what its evidence is, and what is known to help.

Thresholds are constants with their reason; docs/doctor.md tells where they come from and how well they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tercet.doctor.chart import Chart, Row, mean, median

MOST = 0.9
"""The share of rows that must show a sign: a batch now and then is an exception in ill and healthy runs alike."""
POINT_SHARE = 0.1
"""Collapsed: the 95 % quantile of the distances is below this share of the margin. The penalty is then flat: all
triplets cost the margin. Without a margin, below POINT_OF_START of what the median was at the start."""
POINT_OF_START = 0.05
SPREADING = 1.2
"""A run whose distances grow by this factor from the first to the last quarter of the window is on its way out."""
FLAT_SHARE, FLAT_FALL = 0.55, 0.3
"""Dimensions are lost where the effective rank is below this share of what classes and numbers leave room for, and
below this share of the start's: an untrained network shows what the data spans."""
LINE = 3.0
"""Or below this, a line or a plane, with room for four times as many."""
FLAT_ROOM = 8
"""With less room than this, a low rank is what the data asks for: three classes need two dimensions."""
IDLE_SHARE = 0.002
"""Nothing left: fewer active triplets, as a share of those mined."""
IDLE_LOSS = 0.01
"""Nothing left, for a softmax over negatives: a loss below this share of the start."""
IDLE_SPAN = 0.3
"""Long before the end: for this share of the run."""
SOLVED = 0.98
"""A run that is this good on validation data has nothing left to learn because it is done."""
OUT_OF_REACH_ACTIVE = 0.9
"""A margin out of reach keeps this share of the triplets active to the end."""
LONE_BATCHES = 0.2
"""The share of single-class batches that is an illness: each is a step that teaches nothing."""
LONE_ANCHORS = 0.5
"""The share of anchors without a positive that is an illness; rare classes alone leave less."""
LEAST_ROWS = 10
"""Batches to see before their composition is judged."""
LOUD_LOSS = 10.0
LOUD_NORM = 30.0
LOUD_GRADIENT = 1000.0
LOUD_UNSEEN = 1000.0
"""Exploding: by these factors above the start. The last is that of norms which the distance does not see, because it is
bounded: in healthy runs they grow a few times, in collapsed ones up to a hundred times."""
NOISY_SHARE = 0.03
"""Label noise: the share of items whose three nearest neighbours are all of one other class, the one they look like."""
NOISY_PURITY = 0.08
"""And their share among all items whose nearest neighbour is of another class: in data that is merely hard, neighbours
are of several classes."""
NOISY_SPAN = 0.5


class Illness:
    """One way in which a training fails.

    Attributes:
        name: what it is called everywhere.
        needs: the figures of the history without which it cannot be seen.
        sure: False where the signs have other causes too.
        fatal: whether going on as before is in vain.
        explained_by: illnesses that bring the same signs; it is not named beside them.
    """

    name: str
    needs: tuple[str, ...] = ()
    sure = True
    fatal = False
    explained_by: tuple[str, ...] = ()

    def hidden(self, chart: Chart) -> str | None:
        """Why it could not be seen in this run, or None."""
        missing = [name for name in self.needs if not chart.has(name)]
        if missing:
            return f"the history holds no {' and no '.join(missing)}"
        if chart.last < chart.case.grace + self.span(chart):
            return f"it takes {chart.case.grace + self.span(chart):,} steps to tell, and there are {chart.last:,}"
        return None

    def span(self, chart: Chart) -> int:
        """For how many steps it must show."""
        return chart.case.persistence

    def window(self, chart: Chart) -> list[Row]:
        """The rows that are judged."""
        return chart.window(self.span(chart))

    def since(self, chart: Chart) -> int | None:
        """The step since which it shows; None if it does not."""
        window = self.window(chart)
        shown = [self.shows(row, chart) for row in window]
        if not window or sum(shown) < MOST * len(window) or not self.confirmed(chart):
            return None
        return _since(chart.rows, [self.shows(row, chart) for row in chart.rows])

    def shows(self, row: Row, chart: Chart) -> bool:
        """Whether a row shows the sign."""
        raise NotImplementedError

    def confirmed(self, chart: Chart) -> bool:
        """Whether what no single row tells speaks for it too."""
        return True

    def evidence(self, chart: Chart) -> str:
        """The figures that tell it."""
        raise NotImplementedError

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """What is known to help, the likeliest first."""
        raise NotImplementedError


def _since(rows: Sequence[Row], shown: Sequence[bool]) -> int:
    """The first step of the last stretch of rows that show a sign, single exceptions aside."""
    first = len(rows) - 1
    for place in range(len(rows) - 1, -1, -1):
        if shown[place]:
            first = place
        elif place and not shown[place - 1]:
            break
    return int(rows[first]["step"])


class Exploding(Illness):
    """Loss, gradient or embeddings grow without bound, or are no numbers any more."""

    name = "exploding"
    needs = ()
    fatal = True

    def hidden(self, chart: Chart) -> str | None:
        """A loss that is not finite shows at once; growth takes its time."""
        return None if self._broken(chart) else super().hidden(chart)

    def since(self, chart: Chart) -> int | None:
        """The step of the first figure that is not finite, or since which something has grown too far."""
        return int(chart.rows[-1]["step"]) if self._broken(chart) else super().since(chart)

    def shows(self, row: Row, chart: Chart) -> bool:
        """Whether any of the figures is far above its start."""
        return bool(self._grown([row], chart))

    def evidence(self, chart: Chart) -> str:
        """Which figures grew, and by how much."""
        if self._broken(chart):
            return f"the loss or its gradient is not finite at step {chart.last:,}"
        return "; ".join(self._grown(self.window(chart), chart))

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """A smaller step, first of all."""
        return (
            "lower --learning-rate, to a tenth at first",
            "a longer --warmup, and --clip-norm 1 if it was raised or set to 0",
            "normalised embeddings, if the encoder does not normalise",
            "look for extreme values in the data",
        )

    def _broken(self, chart: Chart) -> bool:
        return bool(chart.rows) and any(
            name in chart.rows[-1] and chart.rows[-1][name] is None for name in ("loss", "gradient_norm")
        )

    def _grown(self, rows: Sequence[Row], chart: Chart) -> list[str]:
        found = []
        unseen, margin = math.isfinite(chart.case.largest), chart.case.margin or 0.0
        floor = {"loss": margin, "distance_50": margin}  # a packed start may spread up to the margin and beyond
        for name, word, factor in (
            ("loss", "the loss", LOUD_LOSS),
            ("raw_norm_50", "the embeddings' median norm, not normalised,", LOUD_UNSEEN if unseen else LOUD_NORM),
            ("distance_50", "the median distance", math.inf if unseen else LOUD_NORM),
            ("gradient_norm", "the gradient's norm", LOUD_GRADIENT),
        ):
            start, now = chart.start(name), median(rows, name)
            if start is not None and now is not None and now > factor * max(start, floor.get(name, 0.0)) > 0:
                found.append(f"{word} is {now:.3g}, {now / start:,.0f} times what it was at the start ({start:.3g})")
        return found


class MarginOutOfRange(Illness):
    """A margin that the distance cannot reach: every triplet stays active for ever."""

    name = "margin out of the distance's range"
    needs = ("active_share",)

    def hidden(self, chart: Chart) -> str | None:
        """Only a loss with a margin has one out of range."""
        if chart.case.margin is None:
            return "the loss has no margin"
        return super().hidden(chart)

    def shows(self, row: Row, chart: Chart) -> bool:
        """Whether nearly all triplets are still active."""
        return bool(row.get("active_share", 0.0) >= OUT_OF_REACH_ACTIVE)

    def confirmed(self, chart: Chart) -> bool:
        """Whether the margin is beyond what so many classes can keep apart."""
        assert chart.case.margin is not None
        return chart.case.margin >= _reach(chart)

    def evidence(self, chart: Chart) -> str:
        """The margin against the distance."""
        case, active = chart.case, median(self.window(chart), "active_share")
        reach = _reach(chart)
        bound = (
            f"the {case.distance} distance is at most {reach:.3g} between these embeddings"
            if reach == case.largest
            else f"classes as many as a batch holds can be no farther apart than {reach:.3g} on average"
        )
        return f"the margin is {case.margin:g}, and {bound}; {active:.0%} of the triplets are active"

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """A margin within reach."""
        return (
            f"a --margin well within reach, such as {_reach(chart) / 10:.2g}",
            "--penalty softplus, which needs no margin to be met",
            "embeddings that are not normalised, if the margin has a meaning of its own",
        )


def _reach(chart: Chart) -> float:
    """How far apart the classes of a batch can be on average, on the sphere; infinity off it.

    The mean of |x - y|² over pairs of C unit vectors is at most 2C / (C - 1), which the corners of a simplex have.
    """
    case, classes = chart.case, median(chart.rows, "n_classes")
    if not math.isfinite(case.largest) or classes is None or classes < 2:
        return case.largest
    square = 2 * classes / (classes - 1)
    means = {"euclidean": math.sqrt(square), "squared-euclidean": square, "cosine": square / 2}
    return min(case.largest, means.get(case.distance, math.inf))


class PointCollapse(Illness):
    """All embeddings are one: every triplet costs the margin, and nothing tells items apart."""

    name = "collapse to a point"
    needs = ("distance_50", "distance_95")
    fatal = True
    explained_by = (Exploding.name,)

    def shows(self, row: Row, chart: Chart) -> bool:
        """Whether even the far pairs are near."""
        return row.get("distance_95") is not None and row["distance_95"] < self._limit(chart)

    def confirmed(self, chart: Chart) -> bool:
        """Whether the embeddings are not spreading: a packed phase ends by itself."""
        window = self.window(chart)
        quarter = max(1, len(window) // 4)
        before, now = median(window[:quarter], "distance_50"), median(window[-quarter:], "distance_50")
        return before is not None and now is not None and now <= SPREADING * before

    def evidence(self, chart: Chart) -> str:
        """The distances against the start, the loss against the margin."""
        window, case = self.window(chart), chart.case
        said = [
            f"half of all pairs are nearer than {median(window, 'distance_50'):.2g} and 95 % nearer than "
            f"{median(window, 'distance_95'):.2g} (at the start {chart.start('distance_50'):.2g} and "
            f"{chart.start('distance_95'):.2g})"
        ]
        if case.loss == "triplet" and case.margin is not None:
            said.append(f"the loss is {median(window, 'loss'):.4g} and the margin {case.margin:g}")
        active = median(window, "active_share")
        return ", ".join(said + ([f"{active:.0%} of what was mined is active"] if active is not None else []))

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """What users and papers found to help."""
        hard = ("--mining semihard or all instead of hard",) if chart.case.mining == "hard" else ()
        return (
            "lower --learning-rate, to a tenth at first",
            *hard,
            "a smaller --margin",
            "--penalty softplus, and the plain instead of the squared Euclidean distance",
            "begin with small batches: --classes-per-batch 2 --samples-per-class 2",
            "check that pretrained weights were read, if there are any",
        )

    def _limit(self, chart: Chart) -> float:
        case = chart.case
        if case.margin:
            return POINT_SHARE * min(case.margin, case.largest)
        return POINT_OF_START * (chart.start("distance_50") or 0.0)


class DimensionCollapse(Illness):
    """The embeddings lie on a line or a plane, whatever their numbers leave room for."""

    name = "collapse of dimensions"
    needs = ("effective_rank",)
    explained_by = (Exploding.name, PointCollapse.name)

    def hidden(self, chart: Chart) -> str | None:
        """Few classes need few dimensions."""
        reason = super().hidden(chart)
        if reason is None and _room(chart) < FLAT_ROOM:
            return f"there is room for {_room(chart):.0f} dimensions only, by the classes and numbers of an embedding"
        return reason

    def shows(self, row: Row, chart: Chart) -> bool:
        """Whether the effective rank is far below its room."""
        rank, start, room = row.get("effective_rank"), chart.start("effective_rank"), _room(chart)
        if rank is None or start is None:
            return False
        return rank < min(FLAT_SHARE * room, FLAT_FALL * start) or rank < min(LINE, room / 4)

    def evidence(self, chart: Chart) -> str:
        """The effective rank against the start and the dimension."""
        return (
            f"the effective rank of the embeddings is {median(self.window(chart), 'effective_rank'):.1f} (at the "
            f"start {chart.start('effective_rank'):.1f}), and there is room for {_room(chart):.0f}"
        )

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """What keeps dimensions alive."""
        return (
            "lower --learning-rate, and --weight-decay if it was raised",
            "weaker augmentation: what it varies is forgotten",
            "more classes in a batch, whose negatives ask for more dimensions",
            "a smaller --temperature, for infonce and supcon",
        )


def _room(chart: Chart) -> float:
    """Dimensions that the classes of a batch can use: C points span C - 1, and an embedding has D numbers."""
    classes = median(chart.rows, "n_classes")
    room = math.inf if classes is None else classes - 1
    return min(room, chart.case.dim or math.inf)


class NoNegative(Illness):
    """Batches of a single class: nothing to tell apart."""

    name = "no negative in the batch"
    needs = ("anchors_without_negative",)
    fatal = True

    def hidden(self, chart: Chart) -> str | None:
        """The composition of batches shows from the first step."""
        return _few(chart) or (None if chart.has(*self.needs) else super().hidden(chart))

    def since(self, chart: Chart) -> int | None:
        """From the first such batch on."""
        alone = [row["step"] for row in chart.rows if self.shows(row, chart)]
        return int(alone[0]) if len(alone) >= LONE_BATCHES * len(chart.rows) > 0 else None

    def shows(self, row: Row, chart: Chart) -> bool:
        """Whether no anchor has a negative."""
        return bool(row.get("anchors_without_negative")) and not row.get("n_valid")

    def evidence(self, chart: Chart) -> str:
        """How many batches."""
        alone = sum(self.shows(row, chart) for row in chart.rows)
        return f"{alone:,} of {len(chart.rows):,} batches hold a single class, and teach nothing"

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """Batches of several classes."""
        return (
            "more --classes-per-batch, or fewer --samples-per-class",
            "divide the class that fills whole batches, or use fewer of its samples",
            "check the labels: a column with one value for nearly all rows is not what tells items apart",
        )


class NoPositive(Illness):
    """Anchors without another item of their class: nothing to bring together."""

    name = "no positive in the batch"
    needs = ("anchors_without_positive",)
    fatal = True

    def hidden(self, chart: Chart) -> str | None:
        """The composition of batches shows from the first step."""
        return _few(chart) or (None if chart.has(*self.needs) else super().hidden(chart))

    def since(self, chart: Chart) -> int | None:
        """From the first step on, if it is so on average."""
        return int(chart.rows[0]["step"]) if self._share(chart) >= LONE_ANCHORS else None

    def evidence(self, chart: Chart) -> str:
        """How many anchors."""
        return f"{self._share(chart):.0%} of the items in the batches have no other item of their class there"

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """Batches with several items of a class."""
        return (
            "--singletons drop, which leaves out classes of one item",
            "labels that several items share: check that the label column is not a name or a number of its own",
            "more items of a class, or an augmented copy of each",
        )

    def _share(self, chart: Chart) -> float:
        shares = []
        for row in chart.rows:
            items = row.get("n_items") or chart.case.batch
            if items and row.get("anchors_without_positive") is not None:
                shares.append(min(1.0, row["anchors_without_positive"] / items))
        return sum(shares) / len(shares) if shares else 0.0


def _few(chart: Chart) -> str | None:
    seen = len(chart.rows)
    return f"it takes {LEAST_ROWS} batches to tell, and there are {seen}" if seen < LEAST_ROWS else None


class NothingLeft(Illness):
    """No triplet is active long before the end, and validation could be better."""

    name = "nothing left to learn"
    needs = ("active_share",)
    explained_by = (Exploding.name, NoNegative.name, NoPositive.name)

    def span(self, chart: Chart) -> int:
        """Long before the end."""
        return max(chart.case.persistence, math.ceil(IDLE_SPAN * chart.case.steps))

    def shows(self, row: Row, chart: Chart) -> bool:
        """Whether (nearly) nothing costs anything."""
        if chart.case.loss == "infonce":
            return bool((row.get("loss") or math.inf) < IDLE_LOSS * (chart.start("loss") or 0.0))
        return bool(row.get("active_share", 1.0) < IDLE_SHARE)

    def confirmed(self, chart: Chart) -> bool:
        """A run that is as good as can be on validation data is done, not ill."""
        quality = chart.quality()
        return quality is not None and quality[1] < SOLVED

    def evidence(self, chart: Chart) -> str:
        """How little is active, and how good validation is."""
        window, quality = self.window(chart), chart.quality()
        assert quality is not None
        return (
            f"{mean(window, 'active_share') or 0:.2%} of what was mined is active over the last {self.span(chart):,} "
            f"steps, and the best {quality[0]} on validation data is {quality[1]:.3f}"
        )

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """Harder triplets, or an end."""
        harder = "" if chart.case.mining in ("hard", "semihard") else ", --mining semihard or hard"
        return (
            f"a larger --margin{harder}, and larger batches, which hold harder negatives",
            "more data, or augmentation: what is learned by heart is not learned",
            "--patience, which ends a run that no longer gets better",
        )


class LabelNoise(Illness):
    """Items in the midst of one other class: their labels may be wrong."""

    name = "label noise"
    needs = ("adopted_share", "strange_share")
    sure = False
    explained_by = (Exploding.name, PointCollapse.name, DimensionCollapse.name, MarginOutOfRange.name)

    def span(self, chart: Chart) -> int:
        """The second half of the run, when what is plain is learned and what is wrong is not yet learned by heart."""
        return max(chart.case.persistence, math.floor(NOISY_SPAN * chart.case.steps))

    def hidden(self, chart: Chart) -> str | None:
        """It is told by the end of a run alone."""
        reason = super().hidden(chart)
        if reason is None and chart.last < 0.9 * chart.case.steps:
            return "it is told by the end of a run, and this one has not come so far"
        return reason

    def since(self, chart: Chart) -> int | None:
        """On average: a batch holds few wrong labels."""
        window = self.window(chart)
        adopted, strange = mean(window, "adopted_share"), mean(window, "strange_share")
        if adopted is None or strange is None or adopted < max(NOISY_SHARE, NOISY_PURITY * strange):
            return None
        return int(window[0]["step"])

    def evidence(self, chart: Chart) -> str:
        """How many lie within another class, among how many that lie near one."""
        window = self.window(chart)
        return (
            f"the three nearest neighbours of {mean(window, 'adopted_share') or 0:.1%} of the items are all of one "
            f"other class, of {mean(window, 'strange_share') or 0:.1%} whose nearest is of another class; in data that "
            f"is merely hard they are of several"
        )

    def remedies(self, chart: Chart) -> tuple[str, ...]:
        """Look at them; then learn from what is not in doubt."""
        return (
            "look at the hardest pairs in the report: wrong labels show there first",
            "--mining all or semihard instead of hard, which chases wrong labels",
            "join classes that are the same thing, and leave out items that are in doubt",
        )


ILLNESSES: tuple[Illness, ...] = (
    Exploding(), NoNegative(), NoPositive(), MarginOutOfRange(), PointCollapse(), DimensionCollapse(), NothingLeft(),
    LabelNoise(),
)  # fmt: skip
"""All that is looked for, causes before what they bring about."""
