"""The call that all losses of a batch share: checks, casts, maps, the kernel, and the hand-over to autograd."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tercet import distances
from tercet.collectives import ALONE, Ranks, current_ranks
from tercet.distances import Distance
from tercet.errors import InputError, check_choice, suggest
from tercet.kernels import IMPLEMENTATIONS, Division, Plan, Result, Rule, TripletStats, reduce_triplets
from tercet.losses.formed import Computed, with_gradient
from tercet.losses.gathered import Call, read_gathered
from tercet.losses.inputs import unit_rows
from tercet.losses.items import Items, Relation, read_items
from tercet.losses.labels import Labels

STATISTICS = ("free", "full")
EMBEDDINGS = "embeddings"  # what `across_ranks` puts together where the reference is the same on all ranks
DistanceLike = str | Distance | Callable[[Tensor, Tensor], Tensor]


class BatchLoss(nn.Module):
    """Base of the losses over a batch: what a rule says of embeddings and labels, with its gradient.

    A loss sets the rule in its constructor and hands it here; the call, the figures, learned temperatures and the maps
    of distances are the same for all. The gradient is formed in the forward pass and nothing of size A×M is kept.

    Args:
        rule: what is computed; its words are taken as checked.
        normalize: whether rows are brought to unit length first.
        learn_temperature: whether the rule's temperature is a parameter.
        implementation: of the kernels, as checked.
        statistics: "free" or "full", as checked.
        across_ranks: whether the rows of all ranks (the processes of data-parallel training) are one batch. False: each
            rank's rows are a batch of their own. True: each rank gives its part of the embeddings, and of the reference
            if there is one. "embeddings": each gives its part of the embeddings, and all give the same reference, such
            as a bank.

    Across ranks the value and `stats` are those of one device with the rows of rank 0, rank 1, ... in order, up to
    rounding; the work is divided, and `plan` says among how many.

    *Calls.* Every rank makes the same calls, each with its own labels, ids, groups and weights. Ranks may have unequal
    numbers of rows, and none. Labels, ids and groups mean the same on all ranks; where no labels are given, the numbers
    of the rows go on from rank to rank. What is at fault on one rank, or differs between two, raises on all.

    *Gradients.* With W ranks, the gradient for a rank's rows is W times that of the value. So the mean over ranks of
    the model's gradients, which DistributedDataParallel takes, is the gradient of the value; without it, take that mean
    yourself. The loss's own parameters (temperature, margins, map) get the whole gradient on every rank, wrapped or
    not, which a mean leaves as it is; so does a reference that is the same on all. Parameters, and such a reference,
    must be equal on all ranks to begin with. The backward pass sends nothing.

    *Cost.* Each rank receives all N rows and their labels, and sends and receives about N·D numbers of gradient, twice
    as many where the distance's map is learned; all hold the N rows. Labels, ids and groups that are strings or
    collections go to every rank as text, and each encodes all N.

    On one rank it is the plain loss. Without a process group it is an error.
    """

    log_scale: nn.Parameter | None

    def __init__(
        self,
        rule: Rule,
        *,
        normalize: bool,
        learn_temperature: bool,
        implementation: str,
        statistics: str,
        across_ranks: bool | str,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.normalize = normalize
        self.implementation = implementation
        self.statistics = statistics
        self.across_ranks = across_ranks
        self.dividing = ALONE
        self.stats: TripletStats | None = None
        self.plan: Plan | None = None
        start = nn.Parameter(torch.tensor(-math.log(rule.temperature))) if learn_temperature else None
        self.register_parameter("log_scale", start)
        self.map = rule.distance.module

    @contextlib.contextmanager
    def divided(self, ranks: Ranks) -> Iterator[None]:
        """Within the block each of the ranks gives the same whole batch, and does its share of the work.

        Value, figures and gradients are then those of one device, whole on every rank. Other than with `across_ranks`,
        nothing is gathered and nothing is scaled.
        """
        self.dividing = ranks
        try:
            yield
        finally:
            self.dividing = ALONE

    @property
    def temperature(self) -> float:
        """The temperature as it is now; reading a learned one waits for the device."""
        return self.rule.temperature if self.log_scale is None else math.exp(-self.log_scale.detach().item())

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, from which an equal loss can be built, parameters at their start."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"  # not its modules: the settings name what they are for

    def extra_repr(self) -> str:
        """The settings, as one writes them in the constructor."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    def forward(
        self,
        embeddings: Tensor,
        labels: Labels | None = None,
        *,
        reference: Tensor | None = None,
        reference_labels: Labels | None = None,
        groups: Labels | None = None,
        reference_groups: Labels | None = None,
        ids: Labels | None = None,
        reference_ids: Labels | None = None,
        relation: Relation | None = None,
        weights: Tensor | Sequence[float] | None = None,
    ) -> Tensor:
        """The loss as a 0-d tensor, with a graph to the embeddings, to the reference, and to learned parameters.

        Args:
            embeddings: the anchors, of shape (B, D), real and floating.
            labels: which rows are alike, one of:
                B integers or strings, as a tensor, an array or a list: equal labels are positives, others negatives;
                B collections of these (lists, sets, tuples), several labels an item: positives share at least one;
                a tensor or array of shape (B, C) of marks 0 and 1 (multi-hot): the same, a column for each label;
                with a relation, any tensor or array of first length B;
                None: row i of the embeddings and row i of the reference belong together, and no others. With a
                relation, None stands for the row numbers 0 to B - 1.
            reference: of shape (M, D): positives and negatives come from here instead of from the batch.
            reference_labels: labels of the reference's rows, given with `reference` and `labels`.
            groups: B integers or strings, such as a camera or an author: rows of the same group are neither positive
                nor negative of each other.
            reference_groups: M groups, given with `reference` and `groups`.
            ids: B integers or strings: rows of the same id are one item, never compared. By default each row of the
                batch is an item of its own, and no row of the reference is an item of the batch.
            reference_ids: M ids, given with `reference` and `ids`, for a reference that holds items of the batch.
            relation: a function of two tensors of labels, those of R anchors and those of C references, that gives
                (R, C): booleans, True for positives, or numbers, above 0 for positives, below 0 for negatives, 0 for
                neither. It may be asymmetric: the anchors come first. It is called on tiles of the batch.
            weights: B numbers of at least 0, by which the anchors count: a mean is
                sum_a w_a v_a / sum_a w_a n_a, with v_a the sum of anchor a's terms and n_a their number.

        Returns:
            The loss, of the embeddings' dtype (float32 for half precision). Without any term it is 0, with zero
            gradients; if an embedding is not finite, it is NaN.

        Raises:
            InputError: shapes, lengths, dtypes or devices do not fit, or something is missing.
            TrainingError: the loss is differentiated twice, or mapped by torch.func.vmap.
        """
        found: Tensor = _uncompiled(
            self._call, self._value, embeddings, labels, reference=reference, reference_labels=reference_labels,
            groups=groups, reference_groups=reference_groups, ids=ids, reference_ids=reference_ids, relation=relation,
            weights=weights,
        )  # fmt: skip
        return found

    def per_anchor(
        self,
        embeddings: Tensor,
        labels: Labels | None = None,
        *,
        reference: Tensor | None = None,
        reference_labels: Labels | None = None,
        groups: Labels | None = None,
        reference_groups: Labels | None = None,
        ids: Labels | None = None,
        reference_ids: Labels | None = None,
        relation: Relation | None = None,
        weights: Tensor | Sequence[float] | None = None,
    ) -> Tensor:
        """Each anchor's own value, of shape (B,), without a graph: the mean of its terms, or their sum with `sum`.

        The arguments and errors are those of the loss itself, and `stats` and `plan` are then those of this call. An
        anchor without a term has the value 0. Weights are checked, and change nothing: they say how the anchors are put
        together. Across ranks these are the values of the anchors that are given here, and all ranks call it.
        """
        with torch.no_grad():
            found: Tensor = _uncompiled(
                self._call, self._own_values, embeddings, labels, reference=reference,
                reference_labels=reference_labels, groups=groups, reference_groups=reference_groups, ids=ids,
                reference_ids=reference_ids, relation=relation, weights=weights,
            )  # fmt: skip
        return found

    def _call(self, compute: Callable[[Items], Tensor], embeddings: Tensor, labels: Any, **others: Any) -> Tensor:
        items = self._read(compute.__name__, embeddings, labels, **others)
        with torch.autocast(items.anchors.device.type, enabled=False):
            return compute(items).to(items.returned_dtype)

    def _read(self, purpose: str, embeddings: Tensor, labels: Any, **others: Any) -> Items:
        """What the call is given; across ranks, what all of them are."""
        ranks = current_ranks() if self.across_ranks else ALONE
        if ranks.size == 1:
            items = read_items(embeddings, labels, **others)
            of_reference = items.references is not None and items.references.requires_grad
            return dataclasses.replace(items, division=Division(self.dividing, reference_gradient=of_reference))
        settings = {"the call": f"{type(self).__name__}.{purpose}", **self._agreed_settings()}
        trains = any(parameter.requires_grad for parameter in self.parameters())
        call = Call(settings, self.across_ranks == EMBEDDINGS, trains)
        return read_gathered(ranks, call, embeddings, labels, **others)

    def _agreed_settings(self) -> dict[str, Any]:
        """What all ranks must have in common, in plain words and numbers; of distance-weighted, the draw as well."""
        words = dataclasses.asdict(dataclasses.replace(self._rule(None), distance=distances.Euclidean()))
        words |= {name: getattr(self, name) for name in ("normalize", "implementation", "statistics", "across_ranks")}
        distance = distance_setting(self.rule.distance)
        return words | {"distance": distance if isinstance(distance, str) else type(self.rule.distance).__name__}

    def _value(self, items: Items) -> Tensor:
        """The loss of shape (), with its graph."""
        return self._reduced(items)

    def _own_values(self, items: Items) -> Tensor:
        """The values of the anchors that were given here, without a graph."""
        return self._values(items)[items.division.own]

    def _values(self, items: Items) -> Tensor:
        """Each anchor's value, of shape (A,), without a graph."""
        operands = self._operands(items)
        return self._reduce(items, operands, need_gradient=False).per_anchor

    def _reduced(self, items: Items) -> Tensor:
        """The rule's value, as the kernels define it, with its graph."""
        operands = self._operands(items)
        need_gradient = torch.is_grad_enabled() and any(operand.requires_grad for operand in operands.values())
        need_gradient |= items.gradient_elsewhere

        def compute(*tensors: Tensor) -> Computed:
            result = self._reduce(items, dict(zip(operands, tensors, strict=True)), need_gradient)
            gradients = [getattr(result, f"gradient_{name}") for name in operands] if need_gradient else []
            return result.value, gradients

        return with_gradient(compute, list(operands.values()))

    def _operands(self, items: Items) -> dict[str, Tensor]:
        """What the value is differentiated by, under the names of the kernels, in the working dtype."""
        self._check_device(items.anchors.device)
        mapped = self.rule.distance.mapped
        operands = {"anchors": mapped(self._compared("embeddings", items.anchors, items.dtype))}
        if items.references is not None:
            operands["references"] = mapped(self._compared("reference", items.references, items.dtype))
        margins = self._margins(items)
        if margins is not None:
            operands["margins"] = margins.to(items.dtype)
        temperature = self._learned_temperature(items.dtype)
        if temperature is not None:
            operands["temperature"] = temperature
        return operands

    def _check_device(self, device: torch.device) -> None:
        for name, tensor in itertools.chain(self.named_parameters(), self.named_buffers()):
            if tensor.device != device:
                raise InputError(
                    f"embeddings is on {device} and the loss's own {name} on {tensor.device}; move the loss to the "
                    f"device of the embeddings: loss.to({str(device)!r})."
                )

    def _learned_temperature(self, dtype: torch.dtype) -> Tensor | None:
        """The temperature of shape (), with its graph; None if it is not learned."""
        return None if self.log_scale is None else (-self.log_scale).exp().to(dtype)

    def _compared(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows that the distance is given: cast, of unit length where that is asked for, and in its domain."""
        rows = rows.to(dtype)
        if self.normalize:
            rows = unit_rows(rows)
        self.rule.distance.check_rows(rows, name)
        return rows

    def _margins(self, items: Items) -> Tensor | None:
        """A margin for each anchor, with its graph; None if the rule's serves all."""
        return None

    def _rule(self, temperature: Tensor | None) -> Rule:
        """The rule of this call, on mapped rows."""
        rule = dataclasses.replace(self.rule, distance=self.rule.distance.after_map)
        return rule if temperature is None else dataclasses.replace(rule, temperature=temperature.detach().item())

    def _reduce(self, items: Items, operands: dict[str, Tensor], need_gradient: bool) -> Result:
        result = reduce_triplets(
            operands["anchors"].detach(),
            operands["references"].detach() if "references" in operands else None,
            items.labels,
            items.reference_labels,
            self._rule(operands.get("temperature")),
            ids=items.ids,
            reference_ids=items.reference_ids,
            groups=items.groups,
            reference_groups=items.reference_groups,
            relation=items.relation,
            margins=operands["margins"].detach() if "margins" in operands else None,
            weights=items.weights,
            need_gradient=need_gradient,
            full_stats=self.statistics == "full",
            implementation=self.implementation,
            division=self._division(items),
        )
        self.stats, self.plan = result.stats, result.plan
        return result

    def _division(self, items: Items) -> Division:
        """Who computes, and who needs the gradient: of rows before a learned map, all ranks, for that of the map."""
        if self.map is None or not any(parameter.requires_grad for parameter in self.map.parameters()):
            return items.division
        return Division(items.division.ranks)


def _uncompiled(function: Callable[..., Any], *arguments: Any, **others: Any) -> Any:
    """The call, outside whatever graph torch.compile is making: the kernels decide on data, tile by tile."""
    if torch.compiler.is_compiling():
        function = torch.compiler.disable(function)
    return function(*arguments, **others)


def check_execution(implementation: str, statistics: str, across_ranks: bool | str) -> list[Callable[[], None]]:
    """The checks of the settings that are those of every loss."""
    return [
        lambda: check_choice("implementation", implementation, IMPLEMENTATIONS),
        lambda: check_choice("statistics", statistics, STATISTICS),
        lambda: _check_across_ranks(across_ranks),
    ]


def _check_across_ranks(given: Any) -> None:
    if not isinstance(given, bool) and given != EMBEDDINGS:
        raise InputError(
            f"across_ranks is {given!r}; allowed are False, True and {EMBEDDINGS!r}.{suggest(given, [EMBEDDINGS])}"
        )


def distance_setting(distance: Distance) -> Any:
    """What builds the distance again: its name, or the object where the name does not say all."""
    try:
        rebuilt = distances.resolve(distance.name) == distance
    except InputError:
        rebuilt = False
    return distance.name if rebuilt else getattr(distance, "function", distance)
