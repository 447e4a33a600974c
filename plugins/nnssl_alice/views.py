"""The views of Alice (Jiang et al. 2023): a crop of one case and a crop of the same anatomy in another, both masked."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING

from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity import Window
from nnssl.views.published import PublishedViews
from nnssl.views.spec import BlockMask, IntegerCrop, Intensity, Size, Source, ViewGroup, ViewSpec

if TYPE_CHECKING:
    from nnssl_alice.config import AliceConfig

QUERY, KEY = "query", "key"
OWN, PARTNER = "case", "partner"
LARGEST_BLOCK = 16  # voxels a side; published
PUBLISHED_SIZE: Size = (64, 64, 64)
PUBLISHED = PublishedViews(run="Alice", sizes=(PUBLISHED_SIZE,), other_plan="a plan with fewer stages")
PUBLISHED_HU = (-125.0, 225.0)


def view_spec(config: AliceConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two crops of equal size around a matched point of two cases, moved by the same vector.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    size = view_size(config, plan, data)
    sides = ((size[0],) * 2, (size[1],) * 2, (size[2],) * 2)
    own = Source(name=OWN, anchor="table", size=sides, jitter_mm=config.jitter_mm, padded=True)
    groups = [
        ViewGroup(
            name=name,
            source=source,
            size=size,
            place="anchor",
            # neither mirrored nor turned: two crops mirrored on their own would not show the same anatomy
            geometry=IntegerCrop(),
            intensity=Intensity(ops=(published_window(),)) if config.published_views else None,
            mask=block_mask(config, plan, size),
        )
        for name, source in ((QUERY, OWN), (KEY, PARTNER))
    ]
    return ViewSpec(sources=(own, replace(own, name=PARTNER, pick="partner")), groups=tuple(groups))


def view_size(config: AliceConfig, plan: PlanInfo, data: DataInfo) -> Size:
    """D H W voxels of both crops.

    Raises:
        PlanError: too small for the encoder, or not what was published.
    """
    if config.published_views:
        PUBLISHED.check(plan, data)
        return PUBLISHED_SIZE
    limit = [min(pair) for pair in zip(plan.patch_size, data.shape_quantiles[10], strict=True)]
    return plan.fit_view(limit=limit, wanted=(config.view_side,) * 3)


def block_mask(config: AliceConfig, plan: PlanInfo, size: Size) -> BlockMask:
    """Columns through the whole depth (published) or blocks; ceil(ratio * blocks) of them are hidden.

    A block's side is a stride of the encoder up to 16, and with `sparse` the total stride: whole cells of every stage.
    """
    block = [max(stride[axis] for stride in plan.strides if stride[axis] <= LARGEST_BLOCK) for axis in range(3)]
    if config.sparse:
        block = list(plan.total_stride)
    if config.mask == "tubes":
        block[0] = size[0]
    blocks = prod(side // step for side, step in zip(size, block, strict=True))
    hidden = min(ceil(config.ratio * blocks), blocks - 1)
    if not hidden:
        raise PlanError(
            f"Views of {size} voxels hold {blocks} block of {tuple(block)}: nothing would be hidden, or everything. "
            f"Use method.mask=blocks, or a larger patch."
        )
    return BlockMask(block=(block[0], block[1], block[2]), ratio=(hidden / blocks,) * 2)


def published_window() -> Window:
    """HU from -125 to 225 as 0 to 1, without chance."""
    return Window.fixed(PUBLISHED_HU)
