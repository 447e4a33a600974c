"""Operations on raw values: windows and clipping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nnssl.errors import RecipeError
from nnssl.views.intensity.base import IntensityOp, Normal, Params, Range, check_range, per_row


@dataclass(frozen=True)
class Window(IntensityOp):
    """clip((x - l) / (h - l), 0, 1), the window of a viewing station with random ends.

    Attributes:
        low: range of l, e.g. in HU.
        high: range of h.
        usual: (l, h) where the ends are not drawn, so that every view is windowed.
        jitter_probability: chance that the ends are drawn; one draw for all channels of a view.
    """

    low: Range
    high: Range
    usual: Range
    jitter_probability: float = field(default=1.0, kw_only=True)

    @classmethod
    def fixed(cls, ends: Range) -> Window:
        """The window from `ends[0]` to `ends[1]` without chance: what a network sees outside of training too."""
        low, high = ends
        return cls((low, low), (high, high), ends, jitter_probability=0.0)

    def __post_init__(self) -> None:
        check_range("Window", "low", self.low)
        check_range("Window", "high", self.high)
        if self.low[1] >= self.high[0] or self.usual[0] >= self.usual[1]:
            raise RecipeError(
                f"Window needs every low end below every high end; found low {self.low}, high {self.high}, "
                f"usual {self.usual}."
            )

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"low", "high"}, each (channels,), all equal."""
        jitter, low, high = rng.random() < self.jitter_probability, rng.uniform(*self.low), rng.uniform(*self.high)
        ends = (low, high) if jitter else self.usual
        return {"low": np.full(channels, ends[0]), "high": np.full(channels, ends[1])}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Map the window to [0, 1], in place."""
        low, high = per_row(params["low"], rows), per_row(params["high"], rows)
        return rows.sub_(low).div_(high - low).clamp_(0, 1)


@dataclass(frozen=True)
class PercentileWindow(IntensityOp):
    """clip((x - l) / (h - l), 0, 1) with l and h at percentiles of the row, for values without a unit (MR).

    Attributes:
        percentiles: of l and h, in [0, 100].
        jitter: each end is moved by up to this share of h - l, inwards or outwards; below 0.5.
        jitter_probability: chance that the ends are moved; one draw for all channels of a view.
    """

    percentiles: Range = (0.5, 99.5)
    jitter: float = field(default=0.0, kw_only=True)
    jitter_probability: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not 0 <= low < high <= 100 or not 0 <= self.jitter < 0.5:
            raise RecipeError(
                f"PercentileWindow needs 0 <= low < high <= 100 and a jitter in [0, 0.5); found {self.percentiles} and "
                f"{self.jitter}."
            )

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"low", "high"}: how far the ends move, in units of h - l, each (channels,), all equal."""
        moved, shift = rng.random() < self.jitter_probability, rng.uniform(-self.jitter, self.jitter, 2)
        low, high = shift if moved else (0.0, 0.0)
        return {"low": np.full(channels, low), "high": np.full(channels, high)}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Map the window to [0, 1], in place; a row of one value becomes 0."""
        flat = rows.flatten(1)
        ends = [flat.kthvalue(1 + round(share / 100 * (flat.shape[1] - 1)), dim=1).values for share in self.percentiles]
        span = ends[1] - ends[0]
        low, high = ends[0] + params["low"] * span, ends[1] + params["high"] * span
        width = torch.where(high > low, high - low, torch.ones_like(span))
        return rows.sub_(per_row(low, rows)).div_(per_row(width, rows)).clamp_(0, 1)


@dataclass(frozen=True)
class Clip(IntensityOp):
    """Values limited to [low, high]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        check_range("Clip", "low and high", (self.low, self.high))

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """Nothing is random."""
        return {}

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Clip, in place."""
        return rows.clamp_(self.low, self.high)
