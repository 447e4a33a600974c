"""The plan that a preset was published with, and how nnU-Net's plan becomes it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from nnssl.errors import PlanError, PluginError

CONFIGURATION = "3d_fullres"
LEAST_CELLS = 8  # of the bottleneck, as `PlanInfo.fit_view` asks of every view
WIDEST = 320  # features of a 3D stage, nnU-Net's own bound

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PlanWish:
    """What a preset's views and encoder need of a plan; everything else stays as nnU-Net's planner chose it.

    Attributes:
        name: ends the plans file's default name: "DeSDPaper" gives nnsslPlansDeSDPaper.
        spacing_mm: side of isotropic voxels, or D H W with D the largest. nnU-Net keeps the axes of the files then, so
            D H W here and below are z y x.
        patch_size: D H W voxels.
        strides: D H W of every stage, from the first on.
    """

    name: str
    spacing_mm: float | tuple[float, float, float]
    patch_size: Size
    strides: tuple[Size, ...]

    def __post_init__(self) -> None:
        total = [prod(stride[axis] for stride in self.strides) for axis in range(3)]
        cells = prod(side // step for side, step in zip(self.patch_size, total, strict=True))
        divided = all(side % step == 0 for side, step in zip(self.patch_size, total, strict=True))
        spaced = min(self.spacing) > 0 and self.spacing[0] == max(self.spacing)
        if not self.name.isalnum() or not spaced or not divided or cells < LEAST_CELLS:
            raise PluginError(
                f"A PlanWish needs a name of letters and digits, a spacing_mm above 0 (D the largest) and a patch_size "
                f"that the total stride {tuple(total)} divides into at least {LEAST_CELLS} cells; found {self}."
            )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size D H W in mm."""
        return (self.spacing_mm,) * 3 if isinstance(self.spacing_mm, int | float) else self.spacing_mm

    @property
    def spacing_words(self) -> str:
        """The voxel size for people: "1 mm", or "2 x 1 x 1 mm" in the order D H W."""
        sides = sorted(set(self.spacing)) if len(set(self.spacing)) == 1 else self.spacing
        return f"{' x '.join(f'{side:g}' for side in sides)} mm"


def wished(plans: Mapping[str, Any], wish: PlanWish) -> dict[str, Any]:
    """nnU-Net's plans, made for the wish's spacing, with the wish's patch and strides in the one configuration left.

    The network keeps class, widths and blocks per stage of the planner; stages are cut off or repeat the last one.

    Args:
        plans: of nnU-Net's planner.
        wish: what a preset needs.

    Raises:
        PlanError: the planner's network is not one of nnU-Net's convolutional U-Nets, or the axes were transposed.
    """
    if list(plans["transpose_forward"]) != [0, 1, 2]:
        raise PlanError(
            f"The plan {wish.name} needs the axes in the order of the files; the planner chose "
            f"{plans['transpose_forward']}. Choose another planner with -pl."
        )
    configuration = copy.deepcopy(dict(plans["configurations"][CONFIGURATION]))
    network, stages = configuration["architecture"]["arch_kwargs"], len(wish.strides)
    lists = [name for name in ("n_conv_per_stage", "n_blocks_per_stage") if name in network]
    if not lists or "strides" not in network:
        raise PlanError(
            f"The plan {wish.name} is made from one of nnU-Net's convolutional U-Nets; the planner chose "
            f"{configuration['architecture']['network_class_name']}. Use ExperimentPlanner or a ResEnc planner."
        )
    first = int(network["features_per_stage"][0])
    network |= {
        "n_stages": stages,
        "features_per_stage": [min(WIDEST, first * 2**stage) for stage in range(stages)],
        "kernel_sizes": [[3, 3, 3]] * stages,  # nnU-Net's own where no side is over twice another
        "strides": [list(stride) for stride in wish.strides],
        **{name: _of_length(network[name], stages) for name in lists},
        "n_conv_per_stage_decoder": _of_length(network["n_conv_per_stage_decoder"], stages - 1),
    }
    configuration |= {"patch_size": list(wish.patch_size), "spacing": list(wish.spacing)}
    return {**plans, "configurations": {CONFIGURATION: configuration}}


def _of_length(values: Sequence[int], length: int) -> list[int]:
    return [int(values[min(index, len(values) - 1)]) for index in range(length)]
