"""Lets torch's unpickler read the few numpy numbers that nnU-Net leaves in its checkpoints, without running numpy.

`torch.load(weights_only=True)` refuses a stock nnU-Net checkpoint because `_best_ema` is a numpy scalar. torch can be
told to take a global of the file for a function of ours: those below decode numbers and do nothing else, so that a file
made to do harm reaches neither numpy's reconstruction nor any other code.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# numpy's short dtype name -> struct's letter
_LETTERS = {
    "f2": "e", "f4": "f", "f8": "d", "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip
_ORDERS = {"<": "<", ">": ">", "=": "<", "|": "<"}  # files come from little-endian machines unless they say otherwise
_NUMBER_STATE = (3, None, None, None, -1, -1, 0)  # a dtype's pickled state without its byte order
# numpy 2, numpy 1
_SCALAR_NAMES = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")


class _Dtype:
    """Stands for a pickled `numpy.dtype` of a plain number; anything else is refused.

    Strict even where a loose stand-in could do no harm: who has found a file readable here may hand it to nnU-Net's
    loader, where real numpy does what the file says.
    """

    def __init__(self, name: object, align: object = False, copy: object = True) -> None:
        if not isinstance(name, str) or name not in _LETTERS or align is not False or copy is not True:
            raise ValueError(f"a numpy type that is no plain number ({name!r})")
        self.name = name
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 8 or state[1] not in _ORDERS:
            raise ValueError("a numpy type in an unknown form")
        if (state[0], *state[2:]) != _NUMBER_STATE:
            raise ValueError("a numpy type with fields, which no plain number has")
        self.order = _ORDERS[state[1]]


def _number(dtype: Any, data: Any = b"") -> float | int | bool:
    """The plain number that a pickled numpy scalar stands for.

    Raises:
        ValueError: not one of numpy's plain numbers.
    """
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise ValueError("a numpy value that is not a single number")
    try:
        (value,) = struct.unpack(dtype.order + _LETTERS[dtype.name], data)
    except struct.error as error:
        raise ValueError(f"a numpy number of {len(data)} bytes called {dtype.name}") from error
    number: float | int | bool = value
    return number


@contextmanager
def numpy_numbers_allowed() -> Iterator[None]:
    """Within it, `torch.load(weights_only=True)` turns numpy numbers into Python's; all else is refused as before.

    With torch 2.4, which cannot exchange globals, nothing changes: such files are refused.
    """
    allow = getattr(torch.serialization, "safe_globals", None)
    if allow is None:
        yield
        return
    table: list[tuple[Callable[..., Any], str]] = [(_Dtype, "numpy.dtype")]
    table += [(_number, name) for name in _SCALAR_NAMES]
    with allow(table):
        yield
