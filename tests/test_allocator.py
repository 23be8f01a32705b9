"""What a step frees is used again by the next one, and given back after the training."""

import resource
import sys
import threading
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
    for turn in range(16):
        if turn == 12:
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


def test_within_another_and_in_a_second_thread_it_goes_on_until_the_last_ends() -> None:
    outside = faults()
    with freed_memory_kept():
        with freed_memory_kept():
            pass
        assert faults() < outside / 10
        thread = threading.Thread(target=lambda: list(map(enter_and_leave, range(3))))
        thread.start()
        thread.join()
        assert faults() < outside / 10


def enter_and_leave(_: int) -> None:
    with freed_memory_kept():
        pass


class Recorded:
    """What is asked of a C library that sets no threshold above 32 MB, as glibc 2.34 and older."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def mallopt(self, name: int, value: int) -> int:
        self.asked.append((name, value))
        return int(name != -3 or value <= 2**25)

    def malloc_trim(self, pad: int) -> None:
        self.asked.append((pad,))


def test_an_older_library_keeps_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Recorded()
    monkeypatch.setattr(allocator, "_glibc", lambda: library)
    monkeypatch.setattr(allocator, "free_bytes", lambda device: 2**40)
    with freed_memory_kept():
        assert library.asked == [(-3, 2**30), (-3, 2**25), (-1, -1)]
        library.asked.clear()
        enter_and_leave(0)
        assert library.asked == []
    assert library.asked == [(-3, 2**25), (-1, 2**26), (0,)]


@pytest.mark.parametrize(("free", "largest"), [(2**40, 2**30), (2**33, 2**29), (0, 2**25)])
def test_where_memory_is_scarce_smaller_blocks_are_kept(
    monkeypatch: pytest.MonkeyPatch, free: int, largest: int
) -> None:
    library = Recorded()
    monkeypatch.setattr(allocator, "_glibc", lambda: library)
    monkeypatch.setattr(allocator, "free_bytes", lambda device: free)
    with freed_memory_kept():
        assert library.asked[0] == (-3, largest)


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
