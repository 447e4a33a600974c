"""Values that can be saved without pickle: numpy and friends turned into plain Python."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnssl.errors import ExportError


def plain(value: Any, *, where: str = "value") -> Any:
    """`value` with only dict, list, str, int, float, bool and None in it.

    Only these survive both JSON and `torch.load(weights_only=True)`: one numpy scalar anywhere makes a checkpoint
    unreadable without pickle.

    Args:
        value: nested mappings, sequences, sets, dataclasses, numpy arrays and scalars, paths, enums.
        where: name of the value, for the message.

    Raises:
        ExportError: something that has no plain form, named with its place.

    Example:
        >>> plain({"spacing": np.array([2.5, 1.0]), 0: (np.int64(3), None)})
        {'spacing': [2.5, 1.0], '0': [3, None]}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, where=where)
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), where=where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(
            {field.name: getattr(value, field.name) for field in dataclasses.fields(value)},
            where=where,
        )
    if isinstance(value, Mapping):
        return {str(plain(key, where=where)): plain(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(item, where=where) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [plain(item, where=f"{where}[{index}]") for index, item in enumerate(value)]
    for kind in (bool, int, float, str):  # subclasses of them, such as numpy-free enums and typed strings
        if isinstance(value, kind):
            return kind(value)
    raise ExportError(
        f"Only plain values can be written into a weights file, but {where} is a {type(value).__name__}. "
        f"Give it as numbers, text, lists and dictionaries."
    )
