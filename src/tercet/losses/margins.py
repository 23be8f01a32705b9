"""Margins of one's own for each class, given or learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tercet.errors import InputError
from tercet.losses.inputs import as_plain, check_number, faults_of
from tercet.losses.labels import Labels, entries_of

DEFAULT_NU = 0.5


class PerClassMargin(nn.Module):
    """A margin m_c for each class c, which a triplet takes from its anchor's class.

    Learned margins are softplus(raw_c) = log(1 + exp(raw_c)) of a parameter, so they are always above 0. A triplet
    alone never asks for a larger margin: its cost grows with m. So the loss becomes

        L - nu · (mean over the batch's anchors a of m_c(a))

    as the nu-SVM rewards its margin (Schölkopf et al. 2000); Wu et al. (2017) learn a boundary for each class, with a
    regulariser of weight nu. With `hinge` and the reduction `mean`, in batches of K samples a class, the derivative by
    m_c is in proportion to (share of active triplets among those of class c) - nu, so that each class settles where
    that share is nu: confusable classes get small margins, easy ones large. Nothing else bounds the scale, so let
    distances be bounded: `cosine`, or rows of unit length. With nu=0 the loss is L, and the margins only shrink.

    Args:
        classes: how many there are, with labels 0 to classes - 1; or their labels, integers or strings.
        initial: one margin for all, or one for each class; at least 0, and above 0 where they are learned.
        learned: whether they are a parameter of the loss, or kept as given.
        nu: from 0 to below 1, of learned margins; 0.5 by default. Above 0 it needs the reduction `mean`.

    Attributes:
        classes: the labels, in order.

    Raises:
        InputError: the arguments are not allowed; all faults are named together.

    Example:
        >>> PerClassMargin(["cat", "dog"], [0.1, 0.3], learned=False)(["dog", "cat", "dog"])
        tensor([0.3000, 0.1000, 0.3000], dtype=torch.float64)
    """

    given: Tensor

    def __init__(
        self,
        classes: int | Labels,
        initial: float | Sequence[float] | Tensor | np.ndarray = 0.2,
        learned: bool = True,
        nu: float | None = None,
    ) -> None:
        super().__init__()
        initial = as_plain(initial)
        faults = faults_of(lambda: _names(classes), lambda: _check_nu(nu, learned))
        names = _names(classes) if not faults else []
        faults += faults_of(lambda: _check_margins(initial, names, learned, known=not faults))
        if faults:
            raise InputError("\n".join(faults))
        self.classes, self.initial, self.learned = names, initial, learned
        self.nu = (DEFAULT_NU if nu is None else float(nu)) if learned else 0.0
        start = torch.tensor(initial, dtype=torch.float64).expand(len(names)).clone()
        if learned:
            raw = start + torch.log(-torch.expm1(-start))  # the inverse of softplus
            self.raw = nn.Parameter(raw.to(torch.get_default_dtype()))
        else:
            self.register_buffer("given", start)
        self._places = {name: place for place, name in enumerate(names)}

    def values(self) -> Tensor:
        """The margins of all classes, of shape (classes,); with a graph where they are learned."""
        found: Tensor = softplus(self.raw) if self.learned else self.given
        return found

    def forward(self, labels: Labels) -> Tensor:
        """The margins of these labels' classes, of shape (len(labels),).

        Raises:
            InputError: a label without a margin, or several labels an item.
        """
        values = self.values()
        return values[self._index(entries_of("labels", labels)).to(values.device)]

    def extra_repr(self) -> str:
        """The arguments, as one writes them in the constructor."""
        return f"{self.classes!r}, {self.initial!r}, learned={self.learned!r}" + (
            f", nu={self.nu!r}" if self.learned else ""
        )

    def _index(self, entries: Tensor | list[str]) -> Tensor:
        """The place of each label's class, int64 of shape (len(entries),)."""
        if isinstance(entries, list):
            return torch.tensor([self._place(word) for word in entries], dtype=torch.int64)
        labels, inverse = entries.unique(return_inverse=True)  # few classes are looked up, however many rows there are
        places = torch.tensor([self._place(label) for label in labels.tolist()], dtype=torch.int64)
        return places.to(inverse.device)[inverse]

    def _place(self, label: int | str) -> int:
        if label not in self._places:
            listed = ", ".join(repr(name) for name in self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
            raise InputError(
                f"labels holds the class {label!r}, which has no margin; the margins given are for {listed}. Give that "
                f"class a margin too."
            )
        return self._places[label]


def margin_module(margin: Any) -> PerClassMargin | None:
    """The margins per class that are meant by a mapping, a sequence, a tensor or an array; None for a number.

    Raises:
        InputError: what is given holds no allowed margins.
    """
    if isinstance(margin, PerClassMargin):
        return margin
    if isinstance(margin, (Mapping, Sequence)) and not isinstance(margin, str) and not margin:
        raise InputError("margin is empty; allowed is a number, or a margin for each class.")
    if isinstance(margin, Mapping):
        return PerClassMargin(list(margin), list(margin.values()), learned=False)
    if isinstance(margin, Tensor) and margin.requires_grad:
        raise InputError(
            "margin is a tensor that requires a gradient; give PerClassMargin(classes, initial), whose parameter the "
            "loss holds and trains, or margin.detach()."
        )
    numbers = as_plain(margin)
    if isinstance(numbers, (list, tuple)):
        return PerClassMargin(len(numbers), list(numbers), learned=False)
    return None


def _names(classes: Any) -> list[Any]:
    """The labels of the classes, as Python's integers or strings."""
    if isinstance(classes, (bool, float)) or (isinstance(classes, int) and classes < 1):
        raise InputError(f"classes is {classes!r}; allowed is how many there are, at least 1, or their labels.")
    if isinstance(classes, int):
        return list(range(classes))
    found = as_plain(entries_of("classes", classes))
    if not found:
        raise InputError("classes is empty; allowed is how many there are, at least 1, or their labels.")
    if len(set(found)) < len(found):
        twice = next(name for place, name in enumerate(found) if name in found[:place])
        raise InputError(f"classes names {twice!r} twice; give each class once.")
    return list(found)


def _check_nu(nu: Any, learned: Any) -> None:
    if not isinstance(learned, bool):
        raise InputError(f"learned is {learned!r}; allowed are True and False.")
    if nu is None:
        return
    if not learned:
        raise InputError("nu belongs to learned margins; with learned=False leave it out.")
    check_number("nu", nu)
    if nu >= 1:
        raise InputError(f"nu is {nu!r}; allowed is a number from 0 to below 1.")


def _check_margins(initial: Any, names: list[Any], learned: bool, known: bool) -> None:
    several = isinstance(initial, (list, tuple))
    if known and several and len(initial) != len(names):
        raise InputError(f"initial has {len(initial)} margins for {len(names)} classes; give one for each, or one.")
    for margin in initial if several else [initial]:
        check_number("margin", margin, above_zero=bool(learned))
