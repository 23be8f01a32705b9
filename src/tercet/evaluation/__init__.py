"""Evaluation of embeddings: retrieval, verification, and the intervals around both."""

from tercet.evaluation.across import evaluate_across, pairs_across
from tercet.evaluation.evaluation import Evaluation, evaluate_embeddings, evaluate_tuples
from tercet.evaluation.folds import by_folds, in_order
from tercet.evaluation.intervals import interval_over_seeds, mean_intervals, verification_intervals
from tercet.evaluation.pairs import Pairs, all_pairs, given_pairs
from tercet.evaluation.probability import Probability, fit_probability
from tercet.evaluation.retrieval import Retrieval, retrieval
from tercet.evaluation.similarity import evaluate_scores
from tercet.evaluation.verification import Verification, calibrate, errors_at, verification

__all__ = [
    "evaluate_embeddings",
    "evaluate_tuples",
    "evaluate_scores",
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
    "errors_at",
    "Probability",
    "fit_probability",
    "by_folds",
    "in_order",
    "mean_intervals",
    "verification_intervals",
    "interval_over_seeds",
]
