"""How the processes of a training find each other, and how they part: after the work, or when one of them fails.

`torchrun` starts the processes, on one machine or several, and tells each in its environment who it is (RANK,
WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE) and where they meet (MASTER_ADDR, MASTER_PORT). Whatever else sets these does
as well.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tercet.collectives.pulse import LOST, Fault, Pulse
from tercet.collectives.ranks import ALONE, Ranks, current_ranks
from tercet.errors import InputError, RankError, TercetError, TercetWarning

MEETING = timedelta(minutes=5)
"""How long ranks wait for each other at the start."""
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits in one call. Long: they wait while rank 0 evaluates, and a dead one is known by its pulse."""
_meeting: dict[str, Any] = {}  # the store of this process, which can be opened once, and how often ranks have met in it


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """The processes that this one was started with, for as long as the block runs; ALONE if it was started alone.

    They send each other what is on the CPU through gloo, and what is on GPUs, unless `device` is "cpu", through NCCL.

    What is raised in one process is raised in all: in the others as RankError, with the message of the first. Only
    rank 0 warns (TercetWarning). A process group of the user's own is used as it is, its timeouts and errors included.

    Raises:
        InputError: the environment names several processes, and not where they meet.
        RankError: another process has failed, is gone, or never came.
    """
    if dist.is_available() and dist.is_initialized():
        ranks = current_ranks()
        if ranks.size > 1 and "cpu:" not in dist.get_backend_config():
            raise InputError(
                "the process group sends nothing that is on the CPU. Open it with init_process_group("
                "'cpu:gloo,cuda:nccl'), or leave that to tercet.train."
            )
        with _warning_once(ranks):
            yield ranks
        return
    ranks = _started()
    if ranks.size == 1:
        yield ALONE
        return
    pulse = _met(ranks, _backend(device))
    try:
        with _warning_once(ranks):
            yield ranks
        pulse.rest()  # before the others are: whose process ends first is nobody's fault
        ranks.wait()
    except BaseException as error:
        reason = _parted(pulse, error)
        if reason is error:
            raise
        raise reason from None
    dist.destroy_process_group()


def local_device(device: str, ranks: Ranks) -> str:
    """The name of this rank's device, where the user has named that of all: "auto", "cpu", "cuda", ...

    Raises:
        InputError: there are more ranks on this machine than GPUs, or all were given the same GPU.
    """
    if ranks.size == 1 or device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return device
    if device not in ("auto", "cuda"):
        if device.startswith("cuda:") and ranks.local_size > 1:
            raise InputError(
                f"device is {device!r}, and {ranks.local_size} ranks share this machine: say cuda or auto."
            )
        return device
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise InputError(
            f"{ranks.local_size} ranks were started on this machine, which has {torch.cuda.device_count()} GPUs: start "
            "one for each GPU (torchrun --nproc-per-node), or train with --device cpu."
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def started_together() -> bool:
    """Whether this process is one of several that torchrun has started."""
    return _started().size > 1


def _started() -> Ranks:
    """The processes that the environment names."""
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    size = _number("WORLD_SIZE", given["WORLD_SIZE"] or "1")
    if size <= 1:
        return ALONE
    missing = [name for name, value in given.items() if not value]
    if missing or not dist.is_available():
        lacking = f"{', '.join(missing)} is not set" if missing else "this PyTorch was built without torch.distributed"
        raise InputError(
            f"WORLD_SIZE is {size}, and {lacking}. Start the processes with torchrun, or unset WORLD_SIZE to train in "
            "one process."
        )
    rank = _number("RANK", given["RANK"] or "")
    if not 0 <= rank < size:
        raise InputError(f"RANK is {rank} and WORLD_SIZE is {size}; a rank is 0 or more and below WORLD_SIZE.")
    return Ranks(rank, size, _number("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _number(name: str, given: str) -> int:
    try:
        return int(given)
    except ValueError:
        raise InputError(f"{name} is {given!r} in the environment; it must be a whole number.") from None


def _backend(device: str) -> str:
    return "cpu:gloo,cuda:nccl" if device != "cpu" and torch.cuda.is_available() else "gloo"


def _met(ranks: Ranks, backend: str) -> Pulse:
    """Open the process group, in a place of its own for each meeting of the same processes."""
    # Imported later, the defaults of its functions would hold the group open, and nobody would see this rank go.
    importlib.import_module("torch.distributed.nn.functional")
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        if "store" not in _meeting:
            _meeting["store"] = next(dist.rendezvous("env://", timeout=MEETING))[0]
        number = _meeting["number"] = _meeting.get("number", 0) + 1
        prefix = f"tercet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{number}"
        dist.init_process_group(
            backend, store=dist.PrefixStore(prefix, _meeting["store"]),
            rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT,
        )  # fmt: skip
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        own = dist.TCPStore(address, port, is_master=False, timeout=MEETING)  # the other connection may be kept waiting
        return Pulse(dist.PrefixStore(f"{prefix}/pulse", own), ranks)
    except (RuntimeError, ValueError) as cause:
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise RankError(
            f"rank {ranks.rank} of {ranks.size} has not met the others at {place}: {reason}. Start all of them, with "
            "the same address and port, and see that it can be reached from every machine."
        ) from None


def _parted(pulse: Pulse, error: BaseException) -> BaseException:
    """What this rank is to raise, after all ranks know what has failed."""
    if threading.current_thread() is threading.main_thread():
        # torchrun ends the others at once when one has ended, and each is to end by itself, with the reason said
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pulse.rest()
    own, said = not isinstance(error, RankError), _said(error)
    fault: Fault | None = None
    with contextlib.suppress(RuntimeError, OSError):  # the store may be gone, with rank 0
        if own:
            pulse.post(said)
        if dist.get_backend() == "gloo":  # NCCL would wait for what cannot end any more
            dist.destroy_process_group()  # so that those who wait for this rank see it at once
        fault = pulse.fault() if own else pulse.ask()
        pulse.linger()
    fault = fault or pulse.known
    if own and (fault is None or fault.message == said):
        reason = error
    else:
        reason = RankError(f"{said} {LOST}" if fault is None else str(fault))
    if isinstance(reason, TercetError) and fault is not None:
        reason.quiet = not _speaks(fault, pulse.ranks)
    return reason


def _said(error: BaseException) -> str:
    if isinstance(error, TercetError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _speaks(fault: Fault, ranks: Ranks) -> bool:
    """Whether this rank is to say what has failed: the one that said it first, and on other machines one of each."""
    if fault.rank == ranks.rank:
        return True
    return fault.machine != socket.gethostname() and os.environ.get("LOCAL_RANK", "0") == "0"


@contextlib.contextmanager
def _warning_once(ranks: Ranks) -> Iterator[None]:
    with warnings.catch_warnings():
        if not ranks.is_first:
            warnings.simplefilter("ignore", TercetWarning)
        yield
