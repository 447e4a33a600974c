"""The plans every method must run on: both networks, both kinds of voxels, one channel and two, CT and MR."""

from __future__ import annotations

import itertools
from typing import Any

PLANS: list[dict[str, Any]] = [
    {"residual": residual, "anisotropic": anisotropic, "channels": channels, "modality": modality}
    for residual, anisotropic, channels, modality in itertools.product(
        (False, True), (False, True), (1, 2), ("ct", "t1")
    )
]


def name_of(plan: dict[str, Any]) -> str:
    """What pytest calls it."""
    return "-".join(str(value) for value in plan.values())
