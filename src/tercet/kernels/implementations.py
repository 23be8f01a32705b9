"""The implementations behind one interface, and the choice between them, which the plan records.

    numba      compiled/      CPU: products by PyTorch, compiled loops between them, all cores
    triton     triton/        CUDA, float32; only by name, until it has been measured on a GPU
    torch      tiled.py       any device, any rule, any distance
    reference  reference.py   the definition by plain loops, for small inputs

Each is a function (batch, rule, plan, need_gradient) -> Totals. Those that cannot do everything say what they cannot.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tercet.errors import InputError, check_choice
from tercet.kernels.pairing import Batch
from tercet.kernels.reference import reduce_by_loops
from tercet.kernels.result import Result, Totals
from tercet.kernels.rule import IMPLEMENTATIONS, Plan, Rule, make_plan
from tercet.kernels.tiled import reduce_by_tiles

COMPILED_TILE = 704  # rows and columns: products near their best speed, and 2 MB in float32, which many caches hold


def make_plan_for(batch: Batch, rule: Rule, implementation: str = "auto") -> Plan:
    """The plan for a batch: the implementation asked for, or with "auto" the fastest that can do it.

    Raises:
        InputError: the implementation is none of IMPLEMENTATIONS, or cannot do this; it says why.
    """
    check_choice("implementation", implementation, IMPLEMENTATIONS)
    wanted = _fastest(batch.anchors.device) if implementation == "auto" else implementation
    obstacle = _obstacle(wanted, batch, rule)
    if obstacle and implementation != "auto":
        raise InputError(f"implementation {implementation!r} cannot do this: {obstacle}; use 'auto' or 'torch'.")
    implementation = "torch" if obstacle else wanted
    anchors, references = len(batch.anchors), len(batch.references)
    if implementation == "numba":
        return Plan("numba", min(COMPILED_TILE, max(1, anchors)), min(COMPILED_TILE, max(1, references)))
    return make_plan(implementation, anchors, references, batch.pairing.largest_class)


def reduce_by_plan(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool) -> Totals:
    """Totals of the rule over all anchors, by the implementation that the plan names."""
    if plan.implementation == "numba":
        from tercet.kernels.compiled import reduce_compiled

        return reduce_compiled(batch, rule, plan, need_gradient)
    if plan.implementation == "triton":
        from tercet.kernels.triton import reduce_by_triton

        return reduce_by_triton(batch, rule, plan, need_gradient)
    if plan.implementation == "reference":
        return reduce_by_loops(batch, rule, plan, need_gradient)
    return reduce_by_tiles(batch, rule, plan, need_gradient)


def carry_out(plan: Plan, job: Callable[[], Result]) -> Result:
    """What a job gives that calls `reduce_by_plan`, done in the thread where the implementation wants it."""
    if plan.implementation == "numba":
        from tercet.kernels.compiled import lead

        return lead(job)
    return job()


def _fastest(device: torch.device) -> str:
    return "numba" if device.type == "cpu" else "torch"


def _obstacle(implementation: str, batch: Batch, rule: Rule) -> str:
    """What keeps an implementation from reducing this batch by this rule; empty if nothing does."""
    if implementation == "numba":
        from tercet.kernels.compiled import obstacle

        return obstacle(batch, rule)
    if implementation == "triton":
        from tercet.kernels import triton

        return triton.obstacle(batch, rule)
    return ""
