"""What an intensity operation is. Parameters are drawn on the CPU in one place and applied on the device in another.

An operation works on *rows*: (N, D, H, W), each row one channel of one view, or (N, H, W), each row one slice where
`Intensity.slicewise` is set. A row is changed by its own parameters and values only, so a batch equals its elements.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nnssl.errors import RecipeError

Range = tuple[float, float]
Params = dict[str, npt.NDArray[np.float64]]
Normal = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class OpDraw:
    """One operation's draw for one view.

    Attributes:
        rows: (channels,) bool, the rows to change.
        params: arrays whose first axis is channels, as `IntensityOp.draw` gave them.
    """

    rows: npt.NDArray[np.bool_]
    params: Params


@dataclass(frozen=True, kw_only=True)
class IntensityOp(ABC):
    """Base of all intensity operations; subclass it in a plugin to add one.

    Attributes:
        probability: chance that a view is changed at all.
        channel_probability: chance that a channel (slice, if slicewise) of a changed view is changed.
    """

    probability: float = 1.0
    channel_probability: float = 1.0

    @abstractmethod
    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """Parameters of one view by name; the first axis of every array is `channels`."""

    @abstractmethod
    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Change the rows.

        Args:
            rows: (N, *spatial) floating point, C-contiguous; may be overwritten.
            params: what `draw` gave, (N, ...) in the rows' dtype and on their device.
            normal: gives a standard normal field like its argument, keyed per view; call it at most once.

        Returns:
            (N, *spatial), `rows` itself or a new tensor.
        """

    def draw_view(self, rng: np.random.Generator, channels: int) -> OpDraw | None:
        """Whether, where and how to change one view; None if not at all."""
        if rng.random() >= self.probability:
            return None
        rows = rng.random(channels) < self.channel_probability
        params = self.draw(rng, channels)
        return OpDraw(rows, params) if rows.any() else None


def check_range(owner: str, name: str, value: Range, *, above: float | None = None) -> None:
    """Refuse a range that is upside down, or whose low end is not above `above`.

    Raises:
        RecipeError: naming the operation, the range and what is allowed.
    """
    low, high = value
    if low > high or (above is not None and low < above):
        least = "" if above is None else f" with low >= {above}"
        raise RecipeError(f"{owner} needs {name} as (low, high), low <= high{least}; found {value}.")


def draw_about_one(rng: np.random.Generator, value: Range, channels: int) -> npt.NDArray[np.float64]:
    """(channels,) factors: half of them below 1 and half above, uniform on either side, if the range holds 1.

    A plain uniform draw from (0.7, 1.5) would be above 1 in 62 % of cases; batchgenerators and nnU-Net halve it.
    """
    low, high = value
    below, u = rng.random(channels) < 0.5, rng.random(channels)
    if not low < 1 < high:
        return low + u * (high - low)
    return np.where(below, low + u * (1 - low), 1 + u * (high - 1))


def per_row(values: Tensor, rows: Tensor) -> Tensor:
    """(N,) as (N, 1, ..., 1), to broadcast over `rows`."""
    return values.reshape(-1, *([1] * (rows.ndim - 1)))


def row_mean(rows: Tensor) -> Tensor:
    """(N, 1, ..., 1) mean of every row."""
    return per_row(rows.flatten(1).mean(1), rows)


def row_min_max(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Two (N, 1, ..., 1): least and greatest value of every row."""
    flat = rows.flatten(1)
    # Not aminmax(dim=1): on the CPU it takes 20 times as long as these two.
    return per_row(flat.amin(1), rows), per_row(flat.amax(1), rows)
