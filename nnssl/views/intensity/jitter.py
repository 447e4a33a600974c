"""The chain of intensity operations that DeSD and CADS were published with (Ye et al. 2022 and 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnssl.views.intensity.base import IntensityOp, Normal, Params, Range
from nnssl.views.intensity.blur import GaussianBlur
from nnssl.views.intensity.brightness import BrightnessAdd, BrightnessMultiply
from nnssl.views.intensity.contrast import Contrast, Gamma
from nnssl.views.intensity.noise import GaussianNoise
from nnssl.views.spec import Intensity


@dataclass(frozen=True, kw_only=True)
class HounsfieldUnits(IntensityOp):
    """clip(x, -1024, 1024) / 1024, as published: HU to [-1, 1] without statistics of the data."""

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """Nothing is random."""
        return {}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Clip and scale, in place."""
        return rows.clamp_(-1024.0, 1024.0).div_(1024.0)


@dataclass(frozen=True, kw_only=True)
class Chances:
    """How often a view is changed: (per view, per channel of a changed view) where the two differ."""

    blur: tuple[float, float]
    multiply: float
    add: tuple[float, float]
    gamma: float


FIRST = Chances(blur=(0.8, 0.8), multiply=0.8, add=(0.8, 0.8), gamma=0.8)
SECOND = Chances(blur=(0.8, 0.5), multiply=1.0, add=(0.5, 0.8), gamma=1.0)
LOCAL = Chances(blur=(0.5, 0.8), multiply=1.0, add=(0.8, 0.8), gamma=0.8)


def jitter(chances: Chances, *, blur_sigma: Range, hounsfield: bool, slicewise: bool) -> Intensity:
    """The published operations in the published order.

    Args:
        chances: of the view.
        blur_sigma: range, in voxels.
        hounsfield: the images are HU, and become [-1, 1] first.
        slicewise: every slice on its own, in 2D, as the published runs did.
    """
    ops: tuple[IntensityOp, ...] = (
        GaussianNoise((0.0, 0.1)),
        GaussianBlur(blur_sigma, probability=chances.blur[0], channel_probability=chances.blur[1]),
        BrightnessMultiply((0.75, 1.25), probability=chances.multiply),
        BrightnessAdd(0.4, probability=chances.add[0], channel_probability=chances.add[1]),
        Contrast((0.75, 1.25)),
        Gamma((0.7, 1.5), probability=chances.gamma),
    )
    return Intensity(ops=((HounsfieldUnits(),) if hounsfield else ()) + ops, slicewise=slicewise)
