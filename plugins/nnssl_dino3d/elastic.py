"""Random elastic deformation of a view, as 3DMedDINO used MONAI's: smoothed noise as a displacement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.views.intensity.base import IntensityOp, Normal, Params, Range, check_range
from nnssl.views.intensity.smoothing import smooth

UNIFORM_STD = 3.0**-0.5  # of the published noise, uniform in [-1, 1]; ours is normal, and smoothing makes both alike


@dataclass(frozen=True, kw_only=True)
class ElasticDeformation(IntensityOp):
    """x(v) becomes x(v + u(v)), u = M G_s * n with n white noise, G_s a Gaussian and M a magnitude in voxels.

    It moves voxels a little and `View.to_source` and `View.valid` say nothing of it: for methods that compare whole
    views. All channels of a view move together, so `channel_probability` must stay 1.

    Attributes:
        sigma: range of s, in voxels.
        magnitude: range of M. The displacement has a standard deviation of 0.58 M (2 sqrt(pi) s)^-1.5 voxels an axis.
    """

    sigma: Range = (3.0, 7.0)
    magnitude: Range = (0.0, 150.0)

    def __post_init__(self) -> None:
        check_range("ElasticDeformation", "sigma", self.sigma, above=0.0)
        check_range("ElasticDeformation", "magnitude", self.magnitude, above=0.0)

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"sigma", "magnitude", "channel"}, each (channels,); the first two are equal for all channels."""
        return {
            "sigma": np.full(channels, rng.uniform(*self.sigma)),
            "magnitude": np.full(channels, rng.uniform(*self.magnitude)),
            "channel": np.arange(channels, dtype=np.float64),
        }

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Resample each row at the displaced places; beyond the border, its border goes on."""
        n, *size = rows.shape
        noise = normal(rows.new_empty((n, 3, *size)))
        # channels of a view are rows one after another: all of them take the noise of their first
        first = torch.arange(n, device=rows.device) - params["channel"].long()
        noise = noise[first].flatten(0, 1)
        moved = smooth(noise, params["sigma"].repeat_interleave(3), largest=self.sigma[1]).reshape(n, 3, *size)
        moved = moved * (UNIFORM_STD * params["magnitude"]).reshape(n, 1, 1, 1, 1)
        at = [torch.arange(side, device=rows.device, dtype=rows.dtype) for side in size]
        where = moved.movedim(1, -1) + torch.stack(torch.meshgrid(*at, indexing="ij"), dim=-1)
        last = rows.new_tensor([max(side - 1, 1) for side in size])
        grid = (2 * where / last - 1).flip(-1)  # grid_sample wants W H D
        sampled = F.grid_sample(rows[:, None], grid, padding_mode="border", align_corners=True)
        return sampled[:, 0].contiguous()
