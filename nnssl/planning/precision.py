"""Numbers of many digits as 32-bit floats, which keep seven: refused where voxels would become alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.planning.refusal import Refused

PRECISION = "precision"  # the reason's name
EXACT = 2.0**24  # up to here float32 holds every whole number
_STEPS = 1000  # that float32 must have between dark and bright; scanners store 4096 and more
_LARGEST = float(np.finfo(np.float32).max)  # beyond it float32 is infinite, which is refused as `not_finite`
_SAMPLE = 200_000  # voxels that say where most values lie


def check_precision(file: Path, numbers: npt.NDArray[Any]) -> None:
    """Refuse values whose differences are lost as float32, all of them or all but a few.

    Args:
        file: for the message.
        numbers: of any real type, as stored or as scaled in float64; those that float32 holds exactly pass unseen.

    Raises:
        Refused: `precision`.
    """
    kind = numbers.dtype
    if kind.kind not in "iuf" or kind.itemsize < 4 or kind == np.float32 or not numbers.size:
        return
    ends = float(numbers.min()), float(numbers.max())
    if not np.isfinite(ends).all() or ends[0] == ends[1]:
        return  # which have reasons of their own
    flat = numbers.reshape(-1)
    most = np.percentile(flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64), (1, 99))
    for low, high in (ends, (float(most[0]), float(most[1]))):
        largest = max(abs(low), abs(high))
        if largest <= _LARGEST and np.spacing(np.float32(largest)) * _STEPS > high - low > 0:
            raise Refused(
                PRECISION,
                f"{file} has values from {low:.10g} to {high:.10g}, whose differences are lost in the 32-bit numbers "
                f"that training uses. Subtract the lowest value, or bring them into another unit.",
            )


def shifted(file: Path, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The same in float64 with 0 as the lowest value.

    Raises:
        Refused: `precision`, if that does not help.
    """
    moved: npt.NDArray[np.float64] = numbers.astype(np.float64) - float(numbers.min())
    check_precision(file, moved)
    return moved
