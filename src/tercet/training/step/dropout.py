"""Dropout and other draws of an encoder, keyed by (seed, step, call, row of the batch).

So a batch that goes through the encoder in chunks, and twice, draws what it would draw in one piece and once. What is
drawn does not depend on the chunk, the device, the number of threads, or how far a text is padded.

Shapes: R rows of a chunk, M numbers of a row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tercet.data.randomness import keyed

TILE = 2**16  # numbers mixed at a time, which stay in a core's cache
_ODD = 0x9E3779B1  # its powers tell the places of a row apart, whatever the sizes of its dimensions
_MIX = (0x7FEB352D, 0x846CA68B)  # Wellons' lowbias32


class KeyedDraws(TorchDispatchMode):
    """Within it, draws on tensors of R rows are keyed by row, and all others by chunk.

    Below autograd every dropout ends in a few random operations: those of torch.nn.functional, of attention on the CPU,
    of recurrent networks, and stochastic depth. These are taken here; torch.overrides.TorchFunctionMode would not see
    those inside nn.MultiheadAttention. A tensor is drawn row by row whose first dimension is R, or else its second, or
    else whose first is k·R, such as heads side by side. Of any other (a bag of tokens, what was flattened unevenly),
    and of attention fused on a GPU, nobody can say which row owns what: it draws by (seed, step, call, first row of the
    chunk). Then a second pass over the same chunk still draws the same, and another chunk size does not.

    The call is drawn from torch's generator, which is seeded on entry: torch.utils.checkpoint puts that
    generator back when it computes anew, and so repeats the draws, if the backward pass is within the mode as well.
    Fork the generator (torch.random.fork_rng) where its state matters. A generator of the encoder's own is not used.

    Cost: about 10 µs an operation of torch, and some ns for each number drawn.

    Args:
        seed: of the run.
        step: of the training.
        rows: which rows of the batch the chunk holds, start and stop, or the number of each.
    """

    def __init__(self, seed: int, step: int, rows: slice | np.ndarray) -> None:
        super().__init__()
        self.seed, self.step = seed, step
        self.rows = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        self.count = len(self.rows)

    def __enter__(self) -> KeyedDraws:
        torch.manual_seed(int(keyed(self.seed, "dropout", self.step).integers(2**63)))
        super().__enter__()
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation; a random one with the draws of these rows."""
        given = dict(kwargs or {})
        if not _draws(func, args, given):
            return func(*args, **given)
        own = {"generator": None} if given.pop("generator", None) is not None else {}
        row_keys = self._row_keys(int(torch.randint(2**62, (), device="cpu")))
        shape = _shape_drawn(args)
        axis = self._axis(shape)
        if func in _BY_ROW and axis is not None:
            return _BY_ROW[func](_Draw(row_keys, shape, axis), *args, **given)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(row_keys[0]))
            return func(*args, **given, **own)

    def _axis(self, shape: tuple[int, ...]) -> int | None:
        """The dimension whose parts belong to the rows, in their order; None where that cannot be said."""
        if not math.prod(shape) or not shape:
            return None
        if shape[0] != self.count and len(shape) > 1 and shape[1] == self.count:
            return 1
        return 0 if shape[0] % self.count == 0 else None

    def _row_keys(self, call: int) -> np.ndarray:
        """A key for each row of the chunk, uint64 (R,)."""
        bits: Any = keyed(self.seed, "dropout", self.step, call).bit_generator
        keys: np.ndarray = bits.random_raw(int(self.rows.max()) + 1)[self.rows]
        return keys


class _Draw:
    """What one operation draws, of a shape whose rows lie along an axis and have these keys, uint64 (R,)."""

    def __init__(self, row_keys: np.ndarray, shape: tuple[int, ...], axis: int) -> None:
        self.shape, self.axis = shape, axis
        self.row_keys = torch.from_numpy(row_keys.view(np.int32).reshape(-1, 2).copy())
        self.inner = (shape[axis] // len(row_keys), *shape[:axis], *shape[axis + 1 :])

    def bits(self, device: torch.device) -> Tensor:
        """Uniform int32 numbers of the shape, a hash of the row's key and the place in the row."""
        keys = self.row_keys.to(device)
        places = _places(self.inner, device)
        drawn = torch.empty(len(keys), places.shape[1], dtype=torch.int32, device=device)
        height = max(1, TILE // places.shape[1]) if device.type == "cpu" else len(keys)
        for start in range(0, len(keys), height):
            own = keys[start : start + height]
            _hash(places, own[:, :1], own[:, 1:], drawn[start : start + height])
        rows_first = (self.shape[self.axis], *self.shape[: self.axis], *self.shape[self.axis + 1 :])
        return drawn.view(rows_first).movedim(0, self.axis)

    def below(self, share: float, device: torch.device) -> Tensor:
        """True with this probability, to within 2^-32."""
        limit = round(share * 2**32) - 2**31
        if limit >= 2**31:
            return torch.ones(self.shape, dtype=torch.bool, device=device)
        return self.bits(device) < limit

    def uniform(self, device: torch.device) -> Tensor:
        """float64 between 0 and 1, neither included."""
        return (self.bits(device).double() + (2**31 + 0.5)) / 2**32


def _places(sizes: Sequence[int], device: torch.device) -> Tensor:
    """A number for each place of a row, int32 (1, M), that depends on its coordinates and not on the sizes."""
    places = torch.zeros((), dtype=torch.int64, device=device)
    for power, size in enumerate(sizes, start=1):
        odd = pow(_ODD, power, 2**32)
        places = (places[..., None] + odd * torch.arange(size, device=device)) & 0xFFFFFFFF
    return places.reshape(1, -1).to(torch.int32)


def _hash(places: Tensor, first: Tensor, second: Tensor, out: Tensor) -> None:
    """Mix places (1, M) with two keys a row (R, 1) into int32 (R, M); products wrap around."""
    torch.add(places, first, out=out)
    _fold(out, 16)
    out.mul_(_signed(_MIX[0])).bitwise_xor_(second)
    _fold(out, 15)
    out.mul_(_signed(_MIX[1]))
    _fold(out, 16)


def _fold(numbers: Tensor, places: int) -> None:
    """In place, numbers ^ (numbers >> places), as of numbers without a sign."""
    shifted = (numbers >> places).bitwise_and_(2 ** (32 - places) - 1)
    numbers.bitwise_xor_(shifted)


def _signed(number: int) -> int:
    return number - 2**32 if number >= 2**31 else number


@functools.cache
def _is_random(func: Any) -> tuple[bool, int | None]:
    """Whether an operation draws from torch's generator, and which argument is the share that its attention drops."""
    names = [argument.name for argument in func._schema.arguments]
    place = names.index("dropout_p") if "dropout_p" in names else None
    return torch.Tag.nondeterministic_seeded in func.tags, place


def _draws(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call draws: attention without dropout does not, fused or not."""
    random, place = _is_random(func)
    if random and place is not None:
        share = args[place] if place < len(args) else kwargs.get("dropout_p", 0.0)
        return bool(share)
    return random


def _shape_drawn(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape of what is drawn, which the first argument has or is."""
    first = args[0] if args else ()
    if isinstance(first, Tensor):
        return tuple(first.shape)
    return tuple(first) if isinstance(first, (list, tuple)) else ()


def _fill_marks(draw: _Draw, target: Tensor, share: float = 0.5) -> Tensor:
    return target.copy_(draw.below(share, target.device))


def _marks(draw: _Draw, like: Tensor, share: float) -> Tensor:
    return _fill_marks(draw, torch.empty_like(like), share)


def _marks_by_shares(draw: _Draw, shares: Tensor) -> Tensor:
    return (draw.uniform(shares.device) < shares).to(shares.dtype)


def _dropout(draw: _Draw, rows: Tensor, share: float, train: bool | None = True) -> tuple[Tensor, Tensor]:
    """What is kept, scaled, and where: the operation that dropout is on a GPU."""
    dropped = share if train or train is None else 0.0
    kept = draw.below(1.0 - dropped, rows.device)
    scale = 1.0 / (1.0 - dropped) if dropped < 1 else 0.0
    return rows * kept * scale, kept


def _rand(draw: _Draw, shape: Sequence[int], **kwargs: Any) -> Tensor:
    target = torch.empty(shape, **kwargs)
    return target.copy_(draw.uniform(target.device))


def _rand_like(draw: _Draw, like: Tensor, **kwargs: Any) -> Tensor:
    target = torch.empty_like(like, **kwargs)
    return target.copy_(draw.uniform(target.device))


def _randn(draw: _Draw, shape: Sequence[int], **kwargs: Any) -> Tensor:
    target = torch.empty(shape, **kwargs)
    return target.copy_(torch.special.ndtri(draw.uniform(target.device)))


def _randn_like(draw: _Draw, like: Tensor, **kwargs: Any) -> Tensor:
    target = torch.empty_like(like, **kwargs)
    return target.copy_(torch.special.ndtri(draw.uniform(target.device)))


_aten = torch.ops.aten
_BY_ROW: dict[Any, Callable[..., Any]] = {
    _aten.bernoulli_.float: _fill_marks,
    _aten.bernoulli.p: _marks,
    _aten.bernoulli.default: _marks_by_shares,
    _aten.native_dropout.default: _dropout,
    _aten.rand.default: _rand,
    _aten.rand_like.default: _rand_like,
    _aten.randn.default: _randn,
    _aten.randn_like.default: _randn_like,
}  # the random operations that are drawn row by row
