"""The views of DeSD (Ye et al. 2022): two global ones, and optionally local ones, from one parent crop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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
from nnssl.views.spec import ViewGroup, ViewSpec

if TYPE_CHECKING:
    from nnssl_desd.method import DeSDConfig

PUBLISHED = PublishedViews(
    run="DeSD",
    sizes=(PUBLISHED_SIZE,),
    spacing_mm=PUBLISHED_SPACING_MM,
    other_plan=plan_of_paper("DeSDTrainer", "DeSDPaper"),
)
LOCAL_ZOOM = (1.5, 2.0)  # of half the side: a view of low resolution rather than a small one


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
        size=plan.fit_view(limit=size, wanted=(size[0], size[1] // 2, size[2] // 2), min_cells=4),
        geometry=zoomed_in_plane(config, LOCAL_ZOOM),
        intensity=jittered(config, LOCAL),
    )
    return replace(pair, groups=(*pair.groups, local))
