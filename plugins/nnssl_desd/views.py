"""The views of DeSD (Ye et al. 2022): two global ones, and optionally local ones, from one parent crop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity.jitter import LOCAL
from nnssl.views.parent_crop import (
    PUBLISHED_SIZE,
    PUBLISHED_SPACING_MM,
    crop_pair,
    jittered,
    largest_crop,
    zoomed_in_plane,
)
from nnssl.views.published import PublishedViews, plan_of_paper
from nnssl.views.spec import Size, ViewGroup, ViewSpec

if TYPE_CHECKING:
    from nnssl_desd.method import DeSDConfig

PUBLISHED = PublishedViews(
    run="DeSD",
    sizes=(PUBLISHED_SIZE,),
    spacing_mm=PUBLISHED_SPACING_MM,
    other_plan=plan_of_paper("DeSDTrainer", "DeSDPaper"),
)
LOCAL_ZOOM = (1.5, 2.0)  # of half the side: a view of low resolution rather than a small one
LEAST_CELLS = 4  # bottleneck cells of a local view


def view_spec(config: DeSDConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two global and `config.local_views` local views in one parent crop, which bounds how far apart they lie.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    if config.published_views:
        PUBLISHED.check(plan, data)
    size = PUBLISHED_SIZE if config.published_views else largest_crop(plan, data)
    pair = crop_pair(config, size)
    if not config.local_views:
        return pair
    local = ViewGroup(
        name="local",
        count=config.local_views,
        size=_half_in_plane(size, plan),
        geometry=zoomed_in_plane(config, LOCAL_ZOOM),
        intensity=jittered(config, LOCAL),
    )
    return replace(pair, groups=(*pair.groups, local))


def _half_in_plane(size: Size, plan: PlanInfo) -> Size:
    """Half of a global view a side in plane, in whole bottleneck cells.

    Raises:
        PlanError: fewer than `LEAST_CELLS` are left.
    """
    d, h, w = plan.total_stride
    cells = (size[0] // d, size[1] // (2 * h), size[2] // (2 * w))
    if cells[0] * cells[1] * cells[2] < LEAST_CELLS:
        raise PlanError(
            f"DeSD's local views are half as large in plane as its views of {size} voxels; the encoder's deepest stage "
            f"(total stride {plan.total_stride}) would have {cells[0] * cells[1] * cells[2]} cells of them, and needs "
            f"{LEAST_CELLS}. Use --set method.local_views=0, a larger patch_size, or larger scans."
        )
    return cells[0] * d, cells[1] * h, cells[2] * w
