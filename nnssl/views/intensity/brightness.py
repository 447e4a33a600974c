"""Brightness: a factor or an offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnssl.views.intensity.base import IntensityOp, Normal, Params, Range, check_range, per_row


@dataclass(frozen=True)
class BrightnessMultiply(IntensityOp):
    """x f, f uniform in `factor`, one draw per channel."""

    factor: Range

    def __post_init__(self) -> None:
        check_range("BrightnessMultiply", "factor", self.factor)

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"factor": (channels,)}."""
        return {"factor": rng.uniform(*self.factor, size=channels)}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Multiply, in place."""
        return rows.mul_(per_row(params["factor"], rows))


@dataclass(frozen=True)
class BrightnessAdd(IntensityOp):
    """x + o, o normal with mean 0 and standard deviation `std`, one draw per channel."""

    std: float

    def __post_init__(self) -> None:
        check_range("BrightnessAdd", "std", (self.std, self.std), above=0.0)

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"offset": (channels,)}."""
        return {"offset": rng.normal(0.0, self.std, size=channels)}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Add, in place."""
        return rows.add_(per_row(params["offset"], rows))
