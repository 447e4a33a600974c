"""Views of DINO3D, DeSD and CADS on strides of nnU-Net's own planner: thin slices and thick, four to seven stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnssl_cads.method import CADS, CADSConfig
from nnssl_desd.method import DeSD, DeSDConfig
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.method import DINO3D
from torch import nn

from nnssl.encoders.factory import PlanNetworks
from nnssl.encoders.pyramid import cumulative_strides
from nnssl.engine.plan import check_views
from nnssl.method import DataInfo, PlanInfo
from nnssl.testing_world import local_step, noise_batch, small_architecture
from nnssl.views.spec import Size

HEAD: dict[str, Any] = {"prototypes": 8, "hidden": 8, "bottleneck": 4}
# spacing in mm and patch D H W, as nnU-Net plans them
PLANS: list[tuple[tuple[float, float, float], Size]] = [
    ((5.0, 0.7, 0.7), (20, 256, 224)),
    ((8.0, 0.5, 0.5), (10, 384, 320)),
    ((2.5, 0.8, 0.8), (48, 192, 192)),
    ((1.0, 1.0, 1.0), (128, 128, 128)),
    ((1.0, 1.0, 1.0), (160, 192, 64)),
    ((1.0, 1.0, 1.0), (40, 56, 40)),
]


def planned(spacing_mm: tuple[float, float, float], patch: Size, *, residual: bool = False) -> PlanNetworks:
    """Networks with the strides and kernels of nnU-Net's planner; cases are twice as large as the patch."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    torch.manual_seed(0)
    _, pool, kernels, padded, _ = get_pool_and_conv_props(spacing_mm, patch, 4, 999_999)
    strides = [[int(step) for step in stage] for stage in pool]
    block = small_architecture(residual=residual, features=(2,) * len(strides))
    block["arch_kwargs"] |= {"strides": strides, "kernel_sizes": [[int(side) for side in k] for k in kernels]}
    plan = PlanInfo(
        patch_size=(int(padded[0]), int(padded[1]), int(padded[2])),
        spacing_mm=spacing_mm,
        strides=cumulative_strides(strides),
        features=(2,) * len(strides),
        channels=1,
    )
    double = (2 * patch[0], 2 * patch[1], 2 * patch[2])
    data = DataInfo(
        modality=("ct",),
        cases=64,
        shape_quantiles={percent: double for percent in (0, 10, 50, 90, 100)},
        batch_size=2,
        steps_per_epoch=10,
    )
    return PlanNetworks(block, plan, data)


def sizes(method: Any, config: Any, networks: PlanNetworks) -> list[Size]:
    spec = method.views(config, networks.plan, networks.data)
    check_views(spec, networks.plan, method.needs(config))
    return [group.size for group in spec.groups]


@pytest.mark.parametrize(("spacing_mm", "patch"), PLANS)
def test_every_map_of_every_view_has_whole_cells_and_more_than_one(
    spacing_mm: tuple[float, float, float], patch: Size
) -> None:
    networks = planned(spacing_mm, patch)
    d, h, w = networks.plan.total_stride

    def cells(size: Size) -> int:
        assert (size[0] % d, size[1] % h, size[2] % w) == (0, 0, 0)
        return (size[0] // d) * (size[1] // h) * (size[2] // w)

    large, local = sizes(DINO3D, DINO3DConfig(), networks)
    assert cells(large) >= 8
    assert cells(local) >= 4
    assert max(large) <= 128
    assert all(cells(size) >= 4 for size in sizes(DeSD, DeSDConfig(local_views=2), networks))
    (crop,) = sizes(CADS, CADSConfig(), networks)
    assert cells((crop[0], crop[1] // 2, crop[2] // 2)) >= 4
    assert (crop[1] // h) * (crop[2] // w) >= 2  # the projection has no depth


@pytest.mark.parametrize(
    ("method", "config", "residual"),
    [
        (DINO3D, DINO3DConfig(**HEAD, local_views=1), True),
        (DeSD, DeSDConfig(**HEAD, local_views=1), False),
        (CADS, CADSConfig(**HEAD), True),
    ],
    ids=["dino3d", "desd", "cads"],
)
def test_a_step_on_the_flattest_plan_shows_no_norm_a_single_voxel(method: Any, config: Any, residual: bool) -> None:
    networks = planned((5.0, 0.7, 0.7), (10, 128, 96), residual=residual)
    assert len(networks.plan.strides) >= 5
    built = method(config, networks)
    voxels: list[int] = []
    for module in built.student.encoder.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.register_forward_pre_hook(lambda module, inputs: voxels.append(inputs[0][0, 0].numel()))
    spec = method.views(config, networks.plan, networks.data)
    losses = built(noise_batch(spec, networks, needs=method.needs(config), keys=(0, 1)), local_step())
    losses.total.backward()
    assert losses.total.isfinite()
    assert min(voxels) >= 2
