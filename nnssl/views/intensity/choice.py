"""One of several operations, at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnssl.errors import RecipeError
from nnssl.views.intensity.base import IntensityOp, Normal, Params, per_row


@dataclass(frozen=True)
class OneOf(IntensityOp):
    """One of `ops`, each equally likely; one choice for all channels of a view.

    Every operation's parameters are drawn, chosen or not, so that the choice leaves all other draws as they were.

    Attributes:
        ops: at least one. Whether anything happens is up to our own `probability`, so theirs must stay at 1.
    """

    ops: tuple[IntensityOp, ...]

    def __post_init__(self) -> None:
        if not self.ops or any(op.probability < 1 or op.channel_probability < 1 for op in self.ops):
            raise RecipeError(
                f"OneOf needs operations with probability and channel_probability 1 and has its own; found {self.ops}."
            )

    def draw(self, rng: np.random.Generator, channels: int) -> Params:
        """{"choice": (channels,), all equal, and "POSITION.NAME" for every parameter of every operation}."""
        params: Params = {"choice": np.full(channels, float(rng.integers(len(self.ops))))}
        for position, op in enumerate(self.ops):
            params |= {f"{position}.{name}": value for name, value in op.draw(rng, channels).items()}
        return params

    def apply(self, rows: Tensor, params: Mapping[str, Tensor], normal: Normal) -> Tensor:
        """Change each row by the operation that was chosen for it."""
        out = rows
        for position, op in enumerate(self.ops):
            chosen = params["choice"] == position
            # Views come one at a time on the CPU, where a look is free; elsewhere it would stall the device.
            if rows.device.type == "cpu" and not bool(chosen.any()):
                continue
            prefix = f"{position}."
            own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
            out = torch.where(per_row(chosen, rows), op.apply(rows.clone(), own, normal), out)
        return out
