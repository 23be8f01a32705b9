"""Two towers: which encoder each side of the data takes."""

from __future__ import annotations

import dataclasses
from typing import Any

from tercet.data.options import Augmentation
from tercet.data.records import Records
from tercet.encoders.options import TextOptions, TowersOptions
from tercet.errors import InputError
from tercet.training.config import ENCODERS
from tercet.training.request import Request


def choose_towers(request: Request, records: Records) -> TowersOptions:
    """The options of both encoders for records of two sides; those of other kinds would do nothing, and are refused."""
    if "custom" in request.encoders:
        raise InputError(
            "the data has two sides with an encoder each, and an encoder of your own is one; give a TowersOptions, or "
            "train it on pairs of one kind with --towers shared."
        )
    kinds = [records.of_side(side).kind for side in (0, 1)]
    left, right = records.columns
    if "image" not in kinds and request.augmentation != Augmentation():
        raise InputError("options for image augmentation were given, and neither side holds images.")
    given = request.encoders.get("towers")
    if isinstance(given, TowersOptions):
        wrong = [one.kind for one, kind in zip(given.towers, kinds, strict=True) if one.kind != kind]
        if wrong:
            raise InputError(
                f"the towers are for {given.left.kind} and {given.right.kind}, the data is {' and '.join(kinds)}."
            )
        return dataclasses.replace(given, sides=(left, right))
    for kind, options in request.encoders.items():
        if kind not in kinds and options != type(options)():
            raise InputError(f"options for the {kind} encoder were given, and the data is {' and '.join(kinds)}.")
    towers: list[Any] = [
        _of_role(request.encoders.get(kind, ENCODERS[kind]()), side) for side, kind in enumerate(kinds)
    ]
    return TowersOptions(left=towers[0], right=towers[1], sides=(left, right))


def _of_role(options: Any, side: int) -> Any:
    """The options with the prompt of the side that looks for the other, 0, or is looked for, 1."""
    if not isinstance(options, TextOptions):
        return options
    own = options.document_prompt if side else options.query_prompt
    prompt = options.prompt if own is None else own
    return dataclasses.replace(options, prompt=prompt, query_prompt=None, document_prompt=None)
