"""The views of DeSD (Ye et al. 2022): two global ones, and optionally local ones, from one parent crop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity.jitter import FIRST, LOCAL, SECOND, Chances, jitter
from nnssl.views.spec import Geometry, Intensity, Size, Source, ViewGroup, ViewSpec

if TYPE_CHECKING:
    from nnssl_desd.method import DeSDConfig

PUBLISHED_SIZE: Size = (16, 96, 96)
PUBLISHED_SPACING_MM = 1.0
PARENT_DEPTH = 1.5  # 24 slices for 16
PARENT_SIDE = (1.4, 1.8)  # of the view's in-plane side
GLOBAL_ZOOM = (0.8, 1.2)
LOCAL_ZOOM = (1.5, 2.0)  # of half the side: a view of low resolution rather than a small one


def view_spec(config: DeSDConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two global and `config.local_views` local views in one parent crop, which bounds how far apart they lie.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    size = _published_size(plan, data) if config.published_views else _planned_size(plan, data)
    depth = round(PARENT_DEPTH * size[0])
    in_plane = [(int(PARENT_SIDE[0] * side), int(PARENT_SIDE[1] * side)) for side in size[1:]]
    parent = Source(size=((depth, depth), in_plane[0], in_plane[1]))
    groups = [
        ViewGroup(
            name="global",
            count=2,
            size=size,
            geometry=_geometry(config, GLOBAL_ZOOM),
            intensity=(_intensity(config, FIRST), _intensity(config, SECOND)),
        )
    ]
    if config.local_views:
        half = plan.fit_view(limit=size, wanted=(size[0], size[1] // 2, size[2] // 2), min_cells=4)
        groups.append(
            ViewGroup(
                name="local",
                count=config.local_views,
                size=half,
                geometry=_geometry(config, LOCAL_ZOOM),
                intensity=_intensity(config, LOCAL),
            )
        )
    return ViewSpec(sources=(parent,), groups=tuple(groups))


def _planned_size(plan: PlanInfo, data: DataInfo) -> Size:
    """The plan's patch, as far as nine of ten cases hold the parent crop around it."""
    ratio = (PARENT_DEPTH, PARENT_SIDE[0], PARENT_SIDE[0])
    return plan.fit_view(limit=[side / r for side, r in zip(data.shape_quantiles[10], ratio, strict=True)])


def _published_size(plan: PlanInfo, data: DataInfo) -> Size:
    """16 x 96 x 96 voxels of 1 mm, refused where they would not be what was published."""
    advice = (
        "Use --preset default, or make the published plan with nnssl_plan_and_preprocess -d ID --for DeSDTrainer "
        "--preset paper and pretrain with -p nnsslPlansDeSDPaper."
    )
    if any(name != "ct" for name in data.modality):
        raise PlanError(
            f"DeSD's published views are CT windows in Hounsfield units; the channels are {data.modality}. "
            "Use --preset default."
        )
    if any(abs(side - PUBLISHED_SPACING_MM) > 0.05 for side in plan.spacing_mm):
        raise PlanError(f"DeSD's published views have voxels of 1 mm; the plan's are {plan.spacing_mm} mm. {advice}")
    if any(side % stride for side, stride in zip(PUBLISHED_SIZE, plan.total_stride, strict=True)):
        raise PlanError(
            f"DeSD's published views of {PUBLISHED_SIZE} voxels must be divisible by the encoder's total stride, "
            f"which is {plan.total_stride}. {advice}"
        )
    return plan.fit_view(limit=PUBLISHED_SIZE, wanted=PUBLISHED_SIZE)


def _geometry(config: DeSDConfig, zoom: tuple[float, float]) -> Geometry:
    """Zoom in plane only, drawn per axis; depth is never rescaled."""
    return Geometry(scale=zoom, through_plane_scale=(1.0, 1.0), per_axis=True, flip=config.flip)


def _intensity(config: DeSDConfig, chances: Chances) -> Intensity:
    """The published jitter."""
    return jitter(
        chances,
        blur_sigma=config.blur_sigma,
        hounsfield=config.published_views,
        slicewise=config.slicewise_intensity,
    )
