"""Softmax losses over a batch: InfoNCE (NT-Xent), SupCon, and CLIP's symmetric loss of two sides."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tercet import distances
from tercet.errors import InputError
from tercet.kernels import Rule
from tercet.losses.base import BatchLoss, DistanceLike, check_execution, distance_setting
from tercet.losses.inputs import attempt, check_flag, check_number, faults_of
from tercet.losses.items import Items

LARGEST_SCALE = 100.0  # of CLIP, Radford et al. 2021, section 2.5


class SoftmaxLoss(BatchLoss):
    """Base of the losses with a temperature and nothing else to choose."""

    penalty: str

    def __init__(
        self,
        temperature: float = 0.1,
        distance: DistanceLike = "cosine",
        learn_temperature: bool = False,
        implementation: str = "auto",
        *,
        statistics: str = "free",
        across_ranks: bool | str = False,
    ) -> None:
        faults: list[str] = []
        resolved = attempt(lambda: distances.resolve(distance), distances.Euclidean(), faults)
        faults += faults_of(
            lambda: check_number("temperature", temperature, above_zero=True),
            lambda: check_flag("learn_temperature", learn_temperature),
            *check_execution(implementation, statistics, across_ranks),
        )
        if faults:
            raise InputError("\n".join(faults))
        super().__init__(
            Rule(resolved, margin=0.0, penalty=self.penalty, reduction="mean", temperature=temperature),
            normalize=False,
            learn_temperature=learn_temperature,
            implementation=implementation,
            statistics=statistics,
            across_ranks=across_ranks,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, from which an equal loss can be built, parameters at their start.

        A distance that its name does not give is the object itself; those after `implementation` are named only if they
        are in use.
        """
        named = {
            "temperature": self.rule.temperature,
            "distance": distance_setting(self.rule.distance),
            "learn_temperature": self.log_scale is not None,
            "implementation": self.implementation,
        }
        further = {"statistics": self.statistics, "across_ranks": self.across_ranks}
        return named | {name: value for name, value in further.items() if value not in (False, "free")}


class InfoNCE(SoftmaxLoss):
    """InfoNCE, or NT-Xent: each positive against the negatives of its anchor.

    It is the mean, over anchors a that have a negative and their positives p, of

        -log( exp(-d_ap / tau) / (exp(-d_ap / tau) + sum over negatives n of a of exp(-d_an / tau)) )

    with distances d and temperature tau. With `cosine`, d = 1 - cos, and the constant cancels: these are the logits
    cos / tau (van den Oord et al. 2018, eq. 4; the other positives of a are left out of the denominator). For two views
    of each item, labelled by the item, it is NT-Xent (Chen et al. 2020, SimCLR, eq. 1), and PyTorch Metric Learning's
    NTXentLoss. Anchors against a reference that holds one positive and the queue make MoCo's loss (He et al. 2020).

    It equals `TripletLoss(margin=0, penalty="logsumexp", reduction="mean", ...)` divided by tau.

    Time: three products of (B, D) by (D, B), forward and backward together, and one more visit of the distances.
    Memory: O(B·D + tile); the usual way keeps B² logits. The gradient is formed in the forward pass, so the loss cannot
    be differentiated twice.

    Relations: `SupConLoss` puts the other positives of an anchor into the denominator too; with one positive an anchor
    both are equal.

    Args:
        temperature: tau, above 0. SimCLR takes 0.1 to 0.5, MoCo 0.07.
        distance: as in `TripletLoss`.
        learn_temperature: whether tau is trained, as log_scale = log(1 / tau), from `temperature` on.
        implementation: as in `TripletLoss`.
        statistics: as in `TripletLoss`, with margin 0.
        across_ranks: as in `TripletLoss`.

    Attributes:
        stats: `TripletStats` of the last call; None before.
        plan: how the last call was computed; None before.
        temperature: tau as it is now.

    Raises:
        InputError: any setting is not allowed; all faults are named together.

    Example:
        >>> import torch
        >>> loss = InfoNCE(temperature=0.5)
        >>> loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), reference=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor(0.1269)
        >>> torch.log(1 + torch.exp(torch.tensor(-1 / 0.5)))            # the same by hand
        tensor(0.1269)
    """

    penalty = "logsumexp"

    def _value(self, items: Items) -> Tensor:
        return self._reduced(items) / self._divisor(items)

    def _values(self, items: Items) -> Tensor:
        return super()._values(items) / self._divisor(items)

    def _divisor(self, items: Items) -> Tensor | float:
        learned = self._learned_temperature(items.dtype)
        return self.rule.temperature if learned is None else learned


class SupConLoss(SoftmaxLoss):
    """Supervised contrastive loss: each positive against all other items.

    It is the mean, over anchors a with a positive, of

        -1/|P(a)| · sum over positives p of a of
            log( exp(-d_ap / tau) / (sum over positives and negatives j of a of exp(-d_aj / tau)) )

    which is Khosla et al. 2020, eq. 2 (L_out), with cos = 1 - d for `cosine`; they sum over the anchors of a batch, and
    their code takes the mean. An anchor without a positive is left out; one without a negative counts.

    Time: three products of (B, D) by (D, B), forward and backward together, and one more visit of the distances.
    Memory: O(B·D + tile); the usual way keeps B² logits. The gradient is formed in the forward pass, so the loss cannot
    be differentiated twice.

    Relations: in `InfoNCE` a positive has only negatives to compete with. Here it also competes with the anchor's other
    positives, so that with K - 1 of them a term is at least log(K - 1), never 0.

    Args:
        temperature: tau, above 0.
        distance: as in `TripletLoss`.
        learn_temperature: whether tau is trained, as log_scale = log(1 / tau), from `temperature` on.
        implementation: as in `TripletLoss`.
        statistics: as in `TripletLoss`, with margin 0.
        across_ranks: as in `TripletLoss`.

    Attributes:
        stats: `TripletStats` of the last call; None before.
        plan: how the last call was computed; None before.
        temperature: tau as it is now.

    Raises:
        InputError: any setting is not allowed; all faults are named together.

    Example:
        >>> import torch
        >>> SupConLoss()(torch.eye(4), [0, 0, 0, 0])                    # all equally far: log 3
        tensor(1.0986)
    """

    penalty = "supcon"


class ClipLoss(SoftmaxLoss):
    """CLIP's loss of two sides, called as loss(images, reference=texts).

    With logits s_ij = -d(image i, text j) / tau it is

        ( mean over i of -log softmax_j(s_ij)[j = i]  +  mean over j of -log softmax_i(s_ij)[i = j] ) / 2

    (Radford et al. 2021, figure 3), the mean of `torch.nn.functional.cross_entropy` of the logits and of their
    transpose. tau is learned, as log_scale = log(1 / tau), CLIP's `logit_scale`; at each call in training it is clipped
    so that the scale is at most 100, as there.

    With labels of both sides, or a relation, an image may have several texts and a text several images. Each direction
    is then `SupConLoss`: the mean over anchors with a positive of the mean over their positives (Yang et al. 2022,
    UniCL, eq. 2 and 3).

    Time: six products of (B, D) by (D, B), forward and backward together, and two more visits of the distances.
    Memory: O(B·D + tile); the usual way keeps B² logits. The gradient is formed in the forward pass, so the loss cannot
    be differentiated twice.

    It is called as the other losses are, with a reference always. A relation is given the labels of the embeddings
    first, in both directions. Weights are those of pairs, so they go without labels; in both directions they count
    alike. `per_anchor` gives, of pairs, the mean of both directions; with labels or a relation, each image's value
    among the texts.

    Args:
        temperature: tau at the start, above 0; at least 0.01 where it is learned.
        learn_temperature: whether it is trained.
        distance: as in `TripletLoss`.
        implementation: as in `TripletLoss`.
        statistics: as in `TripletLoss`, with margin 0.
        across_ranks: as in `TripletLoss`.

    Attributes:
        stats: `TripletStats` of the last call, with the images as anchors; None before.
        plan: how the last call was computed; None before.
        temperature: tau as it is now.

    Raises:
        InputError: any setting is not allowed; all faults are named together.

    Example:
        >>> import torch
        >>> loss = ClipLoss()
        >>> loss(torch.eye(3), reference=torch.eye(3)).item() < 1e-5    # each text is exactly its image
        True
        >>> round(loss.temperature, 4)
        0.07
    """

    penalty = "supcon"

    def __init__(
        self,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        distance: DistanceLike = "cosine",
        implementation: str = "auto",
        *,
        statistics: str = "free",
        across_ranks: bool | str = False,
    ) -> None:
        super().__init__(
            temperature, distance, learn_temperature, implementation,
            statistics=statistics, across_ranks=across_ranks,
        )  # fmt: skip
        if learn_temperature and temperature < 1 / LARGEST_SCALE:
            raise InputError(
                f"temperature is {temperature!r}; a learned one is clipped at {1 / LARGEST_SCALE:g}, as in CLIP: start "
                f"there or above, or keep it fixed with learn_temperature=False."
            )

    def _value(self, items: Items) -> Tensor:
        _check_two_sides(items)
        if self.log_scale is not None and self.training and self.log_scale.detach().item() > math.log(LARGEST_SCALE):
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        of_texts = self._reduced(items.swapped())  # first, so that the figures kept are those of the images
        return (self._reduced(items) + of_texts) / 2

    def _values(self, items: Items) -> Tensor:
        _check_two_sides(items)
        if not _are_pairs(items):
            return super()._values(items)
        of_texts = super()._values(items.swapped())
        return (super()._values(items) + of_texts) / 2


def _are_pairs(items: Items) -> bool:
    return items.given_labels is None and items.relation is None


def _check_two_sides(items: Items) -> None:
    if items.references is None:
        raise InputError("ClipLoss compares two sides; call it as loss(images, reference=texts).")
    if items.weights is not None and not _are_pairs(items):
        raise InputError("the weights of ClipLoss are those of pairs; leave labels and relation out, or the weights.")
