"""What a fine-tuning that measured itself left behind."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.evaluate.statistics import mean_dice

Scores = dict[str, float]  # {test case: mean Dice over classes, 0 to 1}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One fine-tuning.

    Attributes:
        curve: (iteration, mean Dice over the curve's cases) in order.
        final: Dice of every test case, on the scan's own grid.
        organs: mean Dice per organ, in the order of the labels.
    """

    curve: tuple[tuple[int, float], ...]
    final: Scores
    organs: tuple[float, ...]


def read_arm(folder: Path) -> Arm:
    """What `NnsslMeasuredFinetune` left in a fold's folder."""
    curve = json.loads((folder / "curve.json").read_text())
    final = json.loads((folder / "final.json").read_text())["dice"]
    rows = np.array([[math.nan if value is None else value for value in row] for row in final.values()])
    return Arm(
        curve=tuple((point["iteration"], _mean(point["dice"].values())) for point in curve),
        final={case: _mean([row]) for case, row in final.items()},
        organs=tuple(float(value) for value in np.nanmean(rows, axis=0)),
    )


def _mean(rows: Any) -> float:
    """Mean over cases of the mean over organs; organs that are nowhere do not count."""
    per_case = [_row_mean(row) for row in rows]
    counted = [value for value in per_case if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan


def _row_mean(row: Sequence[float | None]) -> float:
    return mean_dice(dict(enumerate(math.nan if value is None else value for value in row)))
