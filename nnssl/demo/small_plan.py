"""A plan small enough for a CPU: nnU-Net's own, with a coarser grid, a smaller patch and a thinner network.

A plans file is JSON that people edit; this edits it. Both arms of the comparison and the pretraining use the result.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from nnssl.errors import PlanError

NAME, CONFIGURATION = "nnsslDemoPlans", "3d_fullres"
CASE_VOXELS = 90_000
PATCH_LIMIT = 40
STAGES, WIDTH = 4, 8
_STRIDE = 1 << (STAGES - 1)


def small_plan(
    plans: Mapping[str, Any], *, case_voxels: int = CASE_VOXELS, patch_limit: int = PATCH_LIMIT
) -> dict[str, Any]:
    """nnU-Net's plans with one small configuration, `3d_fullres`.

    Args:
        plans: a plans file of nnU-Net's default planner (a plain U-Net).
        case_voxels: of the median case; finer scans are planned at a coarser spacing.
        patch_limit: most voxels of a patch's side.

    Raises:
        PlanError: there is no 3D configuration, or cases are too thin for a 3D patch.
    """
    if CONFIGURATION not in plans["configurations"]:
        raise PlanError(
            f"The demonstration needs 3D scans; nnU-Net planned only {', '.join(plans['configurations'])} for "
            f"{plans['dataset_name']}. Give it volumes of more than a few slices."
        )
    configuration = copy.deepcopy(plans["configurations"][CONFIGURATION])
    spacing, shape = _coarse_grid(configuration["spacing"], configuration["median_image_size_in_voxels"], case_voxels)
    configuration |= {
        "data_identifier": f"{NAME}_{CONFIGURATION}",
        "spacing": spacing,
        "median_image_size_in_voxels": shape,
        "patch_size": [_patch_side(side, patch_limit) for side in shape],
        "batch_size": 2,
    }
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": STAGES,
        "features_per_stage": [WIDTH * 2**stage for stage in range(STAGES)],
        "kernel_sizes": [[3, 3, 3]] * STAGES,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (STAGES - 1),
        "n_conv_per_stage": [2] * STAGES,
        "n_conv_per_stage_decoder": [1] * (STAGES - 1),
    }
    return {**plans, "plans_name": NAME, "configurations": {CONFIGURATION: configuration}}


def _coarse_grid(spacing_mm: list[float], shape: list[float], case_voxels: int) -> tuple[list[float], list[float]]:
    """The grid as it is if the median case fits `case_voxels`, else with its finest axes coarsened to one spacing."""
    extent_mm = [spacing * side for spacing, side in zip(spacing_mm, shape, strict=True)]
    floor_mm = min(spacing_mm)
    while True:
        coarse = [max(spacing, floor_mm) for spacing in spacing_mm]
        sides = [length / spacing for length, spacing in zip(extent_mm, coarse, strict=True)]
        if sides[0] * sides[1] * sides[2] <= case_voxels:
            return [round(spacing, 4) for spacing in coarse], [float(round(side)) for side in sides]
        floor_mm *= 1.02


def _patch_side(side: float, limit: int) -> int:
    """The multiple of the network's stride next to the case's side, at most `limit`."""
    nearest = _STRIDE * int(side / _STRIDE + 0.5)
    return min(limit, max(2 * _STRIDE, nearest))
