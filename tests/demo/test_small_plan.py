"""The small plan: legal for the network, coarse enough for a CPU, an ordinary plans file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nnssl.demo.small_plan import CASE_VOXELS, NAME, PATCH_LIMIT, small_plan
from nnssl.errors import PlanError
from nnssl.nnunet import build_network
from tests.tiny import tiny_plans


def plans(shape: list[float], spacing_mm: list[float]) -> dict[str, Any]:
    made = tiny_plans("Dataset746_X")
    made["configurations"]["3d_fullres"] |= {"median_image_size_in_voxels": shape, "spacing": spacing_mm}
    return made


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ([31, 43, 43], [6, 6, 6]),
        ([36, 50, 35], [1, 1, 1]),
        ([160, 512, 512], [2.5, 0.8, 0.8]),
        ([12, 40, 40], [5, 1, 1]),
    ],
)
def test_patch_and_grid_fit_network_and_cpu(shape: list[float], spacing_mm: list[float]) -> None:
    small = small_plan(plans(shape, spacing_mm))["configurations"]["3d_fullres"]
    assert all(side % 8 == 0 and 16 <= side <= PATCH_LIMIT for side in small["patch_size"])
    assert np.prod(small["median_image_size_in_voxels"]) <= 1.1 * CASE_VOXELS
    extent = np.array(small["spacing"]) * small["median_image_size_in_voxels"]
    assert np.allclose(extent, np.array(shape) * spacing_mm, rtol=0.1)
    assert all(after >= before for after, before in zip(small["spacing"], spacing_mm, strict=True))


def test_nnunet_builds_the_network_and_the_patch_goes_through() -> None:
    small = small_plan(plans([31, 43, 43], [6, 6, 6]))["configurations"]["3d_fullres"]
    network = build_network(small["architecture"], channels=1, classes=3)
    assert network(torch.zeros(1, 1, *small["patch_size"])).shape == (1, 3, *small["patch_size"])


def test_the_original_plans_stay_as_they_were() -> None:
    original = plans([31, 43, 43], [6, 6, 6])
    patch = list(original["configurations"]["3d_fullres"]["patch_size"])
    assert small_plan(original)["plans_name"] == NAME
    assert original["configurations"]["3d_fullres"]["patch_size"] == patch


def test_flat_scans_are_refused() -> None:
    flat = plans([1, 64, 64], [1, 1, 1])
    flat["configurations"] = {"2d": {}}
    with pytest.raises(PlanError, match="needs 3D scans"):
        small_plan(flat)
