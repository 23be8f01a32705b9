"""What the adapters ask of a loss, and a triplet loss on triplets that are given instead of mined."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tercet.errors import InputError
from tercet.losses import TripletLoss
from tercet.losses.base import BatchLoss


def check_loss(loss: Any) -> BatchLoss:
    """The loss, if it is one of Tercet's over a batch.

    Raises:
        InputError: it is not.
    """
    if isinstance(loss, BatchLoss):
        return loss
    given = f"the class {loss.__name__}" if isinstance(loss, type) else f"a {type(loss).__name__}"
    raise InputError(
        f"loss is {given}; allowed is a loss of Tercet's over a batch, such as tercet.TripletLoss(margin=0.2)."
    )


def given_triplets(loss: TripletLoss, anchor: Tensor, positive: Tensor, negative: Tensor, remedy: str) -> Tensor:
    """`loss.triplets` of N triplets, three tensors of shape (N, D), if its settings mean something there.

    Args:
        loss: its margin, distance, penalty, temperature, reduction and normalize are used.
        anchor: of shape (N, D), as the next two.
        positive: see anchor.
        negative: see anchor.
        remedy: what to do where the loss mines, as the end of a sentence.

    Raises:
        InputError: a setting means nothing for given triplets, or gets no gradient; all are named together.
    """
    faults = _faults(loss, remedy)
    if faults:
        raise InputError("\n".join(faults))
    return loss.triplets(anchor, positive, negative)


def _faults(loss: TripletLoss, remedy: str) -> list[str]:
    found = []
    if loss.rule.mining != "all":
        found.append(f"mining is {loss.rule.mining!r}, and of given triplets nothing is left to mine; {remedy}.")
    if loss.margins is not None:
        found.append("margins per class do not go with given triplets; give one margin for all.")
    if loss.rule.penalty == "lifted":
        found.append(
            "penalty 'lifted' takes all positives and negatives of an anchor together, and given triplets are taken "
            "one by one; choose another penalty, such as 'hinge'."
        )
    if loss.log_scale is not None:
        found.append("a learned temperature gets no gradient from given triplets; set learn_temperature=False.")
    return found
