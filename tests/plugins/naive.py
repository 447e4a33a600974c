"""Formulas written out number by number: what the equation tests of several methods compare with."""

from __future__ import annotations

import math


def naive_softmax(row: list[float]) -> list[float]:
    """exp(x_k) / sum_j exp(x_j), without the shift that keeps large numbers from overflowing."""
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]
