"""Schedules as pure functions of the step: nothing is remembered, so a resumed run cannot drift.

A run that is extended follows, from the step it stands at, the schedule of the longer run: its learning rate is what a
run planned that long would have had there. The jump that a cosine would make (a finished run stands at its minimum) is
bridged by a linear re-warm-up, see `rejoined`. Weight decay, momentum and the like move to the longer schedule at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def warmup_cosine(
    step: int, *, total: int, peak: float, floor: float = 0.0, warmup: int = 0, start: float = 0.0
) -> float:
    """Linear from `start` to `peak`, then a cosine to `floor` (DINO's learning rate, Caron et al. 2021).

    The last warm-up step and the first cosine step both stand at the peak, as in the published code.

    Args:
        step: 0-based.
        total: steps of the run.
        peak: highest value.
        floor: what the cosine tends to; reached at step `total`, one past the last.
        warmup: steps of warm-up.
        start: value at step 0 when there is a warm-up.
    """
    warmup = min(warmup, total)
    if step < warmup:
        return start + (peak - start) * step / (warmup - 1) if warmup > 1 else peak
    return cosine(step - warmup, total=total - warmup, start=peak, end=floor)


def cosine(step: int, *, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total` (EMA momentum, weight decay)."""
    if total <= 0:
        return end
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(step, total) / total))


@dataclass(frozen=True)
class Extension:
    """A run of `total_before` steps that got a new length when `step` steps were done."""

    step: int
    total_before: int


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The learning rate of a run, extensions included.

    Attributes:
        total: steps of the run as it stands now.
        peak: highest value.
        floor: end of the cosine.
        warmup: steps of linear warm-up; also the length of the bridge after an extension.
        extensions: earlier lengths, oldest first.
    """

    total: int
    peak: float
    floor: float
    warmup: int
    extensions: Sequence[Extension] = ()

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step `step`, 0-based."""
        value = self._of_length(step, self.total)
        if not self.extensions:
            return value
        last = self.extensions[-1]
        before = LearningRate(
            total=last.total_before,
            peak=self.peak,
            floor=self.floor,
            warmup=self.warmup,
            extensions=self.extensions[:-1],
        )
        bridge = max(1, min(self.warmup, self.total - last.step))
        return rejoined(step, at=last.step, over=bridge, left=before(max(0, last.step - 1)), curve=value)

    def _of_length(self, step: int, total: int) -> float:
        return warmup_cosine(step, total=total, peak=self.peak, floor=self.floor, warmup=self.warmup)


def rejoined(step: int, *, at: int, over: int, left: float, curve: float) -> float:
    """From `left`, the value before step `at`, linearly onto `curve`, reached `over` steps later."""
    share = min(1.0, (step - at + 1) / over) if step >= at else 0.0
    return left + (curve - left) * share
