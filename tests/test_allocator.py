"""What a step frees is used again by the next one, and given back after the training."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from tercet.training.step import allocator
from tercet.training.step.allocator import freed_memory_kept

SIZE = 48 * 2**20  # above what glibc keeps by itself

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or allocator._glibc() is None, reason="what is set is the GNU C library's"
)


def faults() -> int:
    """Pages that the system had to give this thread for a block that is taken, filled and freed four times.

    Not counted are some times before it: at first small blocks may come to lie between the large ones.
    """
    for turn in range(10):
        if turn == 6:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        torch.empty(SIZE, dtype=torch.uint8).numpy()[:] = 1
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


def test_a_freed_block_is_used_again() -> None:
    outside = faults()
    with freed_memory_kept():
        assert faults() < outside / 10


def test_it_is_given_back_afterwards_even_after_an_error() -> None:
    inside = []

    def fail() -> None:
        with freed_memory_kept():
            faults()
            inside.append(resident_bytes())
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert resident_bytes() < inside[0] - SIZE / 2


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = faults()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with freed_memory_kept():
        assert faults() > outside / 2
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")
    with freed_memory_kept():
        assert faults() > outside / 2


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    outside = faults()
    with freed_memory_kept():
        assert faults() > outside / 2
