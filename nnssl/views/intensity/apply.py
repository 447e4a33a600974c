"""Runs a chain of intensity operations over views, with every view's own draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nnssl.engine.randomness import numpy_generator, torch_generator
from nnssl.views.intensity.base import IntensityOp, OpDraw
from nnssl.views.spec import Intensity

Chain = tuple[OpDraw | None, ...]


def draw_chain(intensity: Intensity, channels: int, depth: int, seed: int, key: int, *names: str | int) -> Chain:
    """One draw per operation for one view of `channels` channels and `depth` slices."""
    rows = channels * depth if intensity.slicewise else channels
    return tuple(
        op.draw_view(numpy_generator(seed, key, *names, "intensity", position), rows)
        for position, op in enumerate(intensity.ops)
    )


def apply_chain(
    images: Tensor, intensity: Intensity, chains: Sequence[Chain], seed: int, names: Sequence[tuple[int, str, int]]
) -> None:
    """Apply the operations in place.

    Views go one at a time on the CPU: their sums then never depend on what else is in the batch, so any slicing of a
    batch gives the same bits, and a view stays in the cache through the chain. Other devices take all views at once.

    Args:
        images: (M, C, D, H, W), every one contiguous.
        intensity: the operations, the same for all M views.
        chains: M draws.
        seed: the run's seed, for noise fields.
        names: M times (sample key, group, view).
    """
    step = _at_once(images)
    for start in range(0, len(images), step):
        part = images[start : start + step]
        # One view of several lies in memory with gaps between the samples: its rows are then changed in a copy.
        rows = part.reshape(-1, *part.shape[3 if intensity.slicewise else 2 :]).contiguous()
        for position, op in enumerate(intensity.ops):
            draws = [chain[position] for chain in chains[start : start + step]]
            if any(draw is not None for draw in draws):
                _apply_op(rows, op, draws, seed, [(*name, position) for name in names[start : start + step]])
        if rows.data_ptr() != part.data_ptr():
            part.copy_(rows.view(part.shape))


def apply_fixed(op: IntensityOp, images: Tensor) -> Tensor:
    """(M, C, D, H, W) changed by an operation that leaves nothing to chance, such as a window for inference."""
    rows = images.flatten(0, 1).clone(memory_format=torch.contiguous_format)
    drawn = op.draw(numpy_generator(0, 0, "fixed"), len(rows))
    params = {name: rows.new_tensor(value) for name, value in drawn.items()}
    return op.apply(rows, params, torch.zeros_like).view(images.shape)


def _at_once(images: Tensor) -> int:
    """How many views an operation works on at a time."""
    return 1 if images.device.type == "cpu" else max(len(images), 1)


def _apply_op(
    rows: Tensor, op: IntensityOp, draws: Sequence[OpDraw | None], seed: int, names: Sequence[tuple[int, str, int, int]]
) -> None:
    """Apply one operation, in place, to those of the (len(draws) * r, *spatial) rows that were drawn for it."""
    per_view = len(rows) // len(draws)
    drawn = [(view, draw) for view, draw in enumerate(draws) if draw is not None]
    index = np.concatenate([np.flatnonzero(draw.rows) + view * per_view for view, draw in drawn])
    params = {
        name: torch.from_numpy(np.concatenate([draw.params[name][draw.rows] for _, draw in drawn])).to(rows)
        for name in drawn[0][1].params
    }

    def normal(like: Tensor) -> Tensor:
        """A standard normal field, keyed by view, for the rows that were drawn."""
        fields = [
            torch.randn(
                (int(draw.rows.sum()), *like.shape[1:]),
                generator=torch_generator(seed, names[view][0], *names[view][1:], "noise", device=like.device),
                device=like.device,
            )
            for view, draw in drawn
        ]
        # Drawn in float32 whatever the run's precision, so that a float64 run sees the same noise.
        return (fields[0] if len(fields) == 1 else torch.cat(fields)).to(like.dtype)

    if len(index) == len(rows):
        result = op.apply(rows, params, normal)
        if result.data_ptr() != rows.data_ptr():
            rows.copy_(result)
        return
    where = torch.from_numpy(index).to(rows.device)
    rows.index_copy_(0, where, op.apply(rows.index_select(0, where), params, normal))
