"""Gaussian blur and its counterpart, sharpening."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from nnssl.views.intensity.base import IntensityOp, Normal, Params, Range, check_range, per_row
from nnssl.views.intensity.smoothing import smooth

IN_PLANE = (-2, -1)


@dataclass(frozen=True)
class GaussianBlur(IntensityOp):
    """Gaussian smoothing with mirrored borders.

    Attributes:
        sigma: range, in voxels; one draw per channel.
        per_axis: draw a sigma for every axis.
        in_plane: leave the D axis alone.
    """

    sigma: Range
    per_axis: bool = field(default=False, kw_only=True)
    in_plane: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_range("GaussianBlur", "sigma", self.sigma, above=0.0)

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"sigma": (channels, 3)} for axes D H W."""
        drawn = rng.uniform(*self.sigma, size=(channels, 3 if self.per_axis else 1))
        return {"sigma": np.broadcast_to(drawn, (channels, 3)).copy()}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Blur each row."""
        axes = IN_PLANE if self.in_plane else tuple(range(1 - rows.ndim, 0))
        sigma = params["sigma"][:, -len(axes) :] if self.per_axis else params["sigma"][:, 0]
        return smooth(rows, sigma, largest=self.sigma[1], axes=axes)


@dataclass(frozen=True)
class Sharpen(IntensityOp):
    """y = b + a (b - G * b) with b the image blurred by s (vox2vec, Goncharov et al. 2023, section 3).

    Attributes:
        sigma: range of s, in voxels.
        alpha: range of a.
        narrow_sigma: sigma of G, in voxels.
        in_plane: leave the D axis alone.
    """

    sigma: Range = (0.5, 1.0)
    alpha: Range = (10.0, 30.0)
    narrow_sigma: float = field(default=0.5, kw_only=True)
    in_plane: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_range("Sharpen", "sigma", self.sigma, above=0.0)
        check_range("Sharpen", "alpha", self.alpha, above=0.0)

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"sigma", "alpha"}, each (channels,)."""
        return {"sigma": rng.uniform(*self.sigma, size=channels), "alpha": rng.uniform(*self.alpha, size=channels)}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Blur, then add the detail back many times over."""
        axes = IN_PLANE if self.in_plane else None
        blurred = smooth(rows, params["sigma"], largest=self.sigma[1], axes=axes)
        narrow = params["sigma"].new_full((len(rows),), self.narrow_sigma)
        twice = smooth(blurred, narrow, largest=self.narrow_sigma, axes=axes)
        return blurred + per_row(params["alpha"], rows) * (blurred - twice)
