"""Random monotone change of the grey values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnssl.errors import RecipeError
from nnssl.views.intensity.base import IntensityOp, Normal, Params, row_min_max


@dataclass(frozen=True)
class HistogramShift(IntensityOp):
    """A piecewise-linear, monotone map of the row's range onto itself (MONAI's RandHistogramShift, as in 3DMedDINO).

    The control points stand at equal distances; inner ones move, in order, to a uniform place between their left
    neighbour's new and their right neighbour's old height.

    Attributes:
        points: number of control points, ends included.
    """

    points: int = 10

    def __post_init__(self) -> None:
        if self.points < 3:
            raise RecipeError(f"HistogramShift needs at least 3 points (the two ends stay); found {self.points}.")

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"heights": (channels, points)}, from 0 to 1 and never falling."""
        heights = np.tile(np.linspace(0.0, 1.0, self.points), (channels, 1))
        u = rng.random((channels, self.points))
        for i in range(1, self.points - 1):
            heights[:, i] = heights[:, i - 1] + u[:, i] * (heights[:, i + 1] - heights[:, i - 1])
        return {"heights": heights}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Interpolate between the control points; a constant row stays as it is."""
        low, high = row_min_max(rows)
        span = high - low
        place = (rows - low).div_(span.masked_fill(span == 0, 1)).mul_(self.points - 1).flatten(1)
        left = place.long().clamp_(max=self.points - 2)
        rise = params["heights"].diff(dim=1)
        height = params["heights"].gather(1, left).add_((place - left) * rise.gather(1, left))
        return height.reshape(rows.shape).mul_(span).add_(low)
