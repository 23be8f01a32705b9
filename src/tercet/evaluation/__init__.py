"""Evaluation of embeddings: retrieval, verification, and the intervals around both."""

from tercet.evaluation.across import evaluate_across, pairs_across
from tercet.evaluation.evaluation import Evaluation, evaluate_embeddings, evaluate_tuples
from tercet.evaluation.intervals import mean_intervals, verification_intervals
from tercet.evaluation.pairs import Pairs, all_pairs, given_pairs
from tercet.evaluation.retrieval import Retrieval, retrieval
from tercet.evaluation.verification import Verification, calibrate, verification

__all__ = [
    "evaluate_embeddings",
    "evaluate_tuples",
    "evaluate_across",
    "pairs_across",
    "Evaluation",
    "retrieval",
    "Retrieval",
    "all_pairs",
    "given_pairs",
    "Pairs",
    "verification",
    "Verification",
    "calibrate",
    "mean_intervals",
    "verification_intervals",
]
