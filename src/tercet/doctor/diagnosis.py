"""The diagnosis: which illnesses a run shows, with evidence and remedies, and what could not be looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.doctor.chart import Case, Chart, Row
from tercet.doctor.illnesses import ILLNESSES, Illness


@dataclass(frozen=True)
class Finding:
    """An illness that was found.

    Attributes:
        illness: its name.
        sure: False where the signs have other causes too.
        since: the step from which it shows.
        until: the last step that was looked at.
        evidence: the figures that tell it, in a sentence.
        remedies: what is known to help, the likeliest first.
        fatal: whether going on as before is in vain.
    """

    illness: str
    sure: bool
    since: int
    until: int
    evidence: str
    remedies: tuple[str, ...]
    fatal: bool

    @property
    def sentence(self) -> str:
        """The finding in one sentence, remedies apart."""
        return f"{self.illness}{'' if self.sure else ' (suspected)'}, since step {self.since:,}: {self.evidence}"

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return dataclasses.asdict(self) | {"remedies": list(self.remedies)}


@dataclass(frozen=True)
class Diagnosis:
    """What was found, what was looked for, and what could not be, each with its reason."""

    findings: tuple[Finding, ...]
    looked_for: tuple[str, ...]
    not_looked_for: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "looked_for": list(self.looked_for),
            "not_looked_for": dict(self.not_looked_for),
        }

    def lines(self) -> list[str]:
        """The diagnosis for reading, a line each."""
        said = []
        for finding in self.findings:
            said += [finding.sentence, *(f"  try: {remedy}" for remedy in finding.remedies)]
        if not self.findings:
            said.append("nothing was found")
        if self.looked_for:
            said.append(f"looked for: {', '.join(self.looked_for)}")
        return said + [f"could not look for {illness}: {reason}" for illness, reason in self.not_looked_for]


def diagnose(rows: Sequence[Row], case: Case) -> Diagnosis:
    """What is wrong with a training, from its history so far.

    Args:
        rows: of history.jsonl, in order of their steps.
        case: what else is known of the run.

    Time: O(rows) for each illness.
    """
    chart = Chart(rows, case)
    findings: list[Finding] = []
    looked, unseen = [], []
    for illness in ILLNESSES:
        reason = illness.hidden(chart)
        if reason is not None:
            unseen.append((illness.name, reason))
            continue
        looked.append(illness.name)
        since = illness.since(chart)
        if since is not None and not {finding.illness for finding in findings} & set(illness.explained_by):
            findings.append(_finding(illness, chart, since))
    return Diagnosis(tuple(findings), tuple(looked), tuple(unseen))


def _finding(illness: Illness, chart: Chart, since: int) -> Finding:
    return Finding(
        illness.name, illness.sure, since, chart.last, illness.evidence(chart), illness.remedies(chart), illness.fatal
    )
