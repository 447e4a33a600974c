"""Additive Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnssl.views.intensity.base import IntensityOp, Normal, Params, Range, check_range, per_row


@dataclass(frozen=True)
class GaussianNoise(IntensityOp):
    """x + s n, n standard normal. One s for all channels of a view.

    Attributes:
        std: range of s, in units of the image. (batchgenerators calls its number a variance and uses it as a standard
            deviation; this one is named for what it is.)
    """

    std: Range

    def __post_init__(self) -> None:
        check_range("GaussianNoise", "std", self.std, above=0.0)

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"std": (channels,)}, all equal."""
        return {"std": np.full(channels, rng.uniform(*self.std))}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Add the field; in place."""
        return rows.addcmul_(normal(rows), per_row(params["std"], rows))
