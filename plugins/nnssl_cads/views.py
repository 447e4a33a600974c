"""The CT views of CADS: two crops of one parent crop, as DeSD's (Ye et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity.jitter import FIRST, SECOND, jitter
from nnssl.views.spec import Geometry, Size, Source, ViewGroup, ViewSpec

if TYPE_CHECKING:
    from nnssl_cads.method import CADSConfig

GROUP = "global"
PUBLISHED_SIZE: Size = (16, 96, 96)
PUBLISHED_SPACING_MM = 1.0
PARENT_DEPTH = 1.5  # 24 slices for 16
PARENT_SIDE = (1.4, 1.8)  # of the view's in-plane side
ZOOM = (0.8, 1.2)
LEAST_CELLS = 4  # bottleneck cells of a packed view


def view_spec(config: CADSConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two views in one parent crop, which bounds how far apart they lie.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    if config.published_views:
        _check_published(plan, data)
        size = PUBLISHED_SIZE
    else:
        ratio = (PARENT_DEPTH, PARENT_SIDE[0], PARENT_SIDE[0])
        size = plan.fit_view(limit=[side / r for side, r in zip(data.shape_quantiles[10], ratio, strict=True)])
    if config.sampling == "uniform25":
        size = _even(size, plan)
    _check_plane(size, plan)
    depth = round(PARENT_DEPTH * size[0])
    in_plane = [(int(PARENT_SIDE[0] * side), int(PARENT_SIDE[1] * side)) for side in size[1:]]
    first, second = (
        jitter(
            chances,
            blur_sigma=config.blur_sigma,
            hounsfield=config.published_views,
            slicewise=config.slicewise_intensity,
        )
        for chances in (FIRST, SECOND)
    )
    group = ViewGroup(
        name=GROUP,
        count=2,
        size=size,
        geometry=Geometry(scale=ZOOM, through_plane_scale=(1.0, 1.0), per_axis=True, flip=config.flip),
        intensity=(first, second),
    )
    return ViewSpec(sources=(Source(size=((depth, depth), in_plane[0], in_plane[1])),), groups=(group,))


def packed_size(size: Size) -> Size:
    """Of a view whose patches were sampled."""
    return size[0], size[1] // 2, size[2] // 2


def _even(size: Size, plan: PlanInfo) -> Size:
    """The view, made smaller until its half in plane is legal too.

    Raises:
        PlanError: nothing legal is left.
    """
    cells = [side // step for side, step in zip(size, plan.total_stride, strict=True)]
    even = (size[0], cells[1] // 2 * 2 * plan.total_stride[1], cells[2] // 2 * 2 * plan.total_stride[2])
    packed = cells[0] * (cells[1] // 2) * (cells[2] // 2)
    if packed < LEAST_CELLS:
        raise PlanError(
            f"CADS halves its views of {size} voxels in plane; the encoder's deepest stage (total stride "
            f"{plan.total_stride}) would have {packed} cells of them, and needs {LEAST_CELLS}. Use "
            f"--set method.sampling=none, a larger patch_size, larger scans, or a plan with a finer spacing "
            f"(-overwrite_target_spacing) or fewer stages."
        )
    return even


def _check_plane(size: Size, plan: PlanInfo) -> None:
    """The projection is as large as the view in plane, and has no depth to make up for it.

    Raises:
        PlanError: the deepest stage would see a single cell of it, which instance norm cannot take.
    """
    if size[1] * size[2] < 2 * plan.total_stride[1] * plan.total_stride[2]:
        raise PlanError(
            f"CADS's projection is {size[1]} x {size[2]} pixels, as large as a view in plane; the encoder's deepest "
            f"stage (total stride {plan.total_stride}) would see one cell of it, and needs 2. Use a patch_size that is "
            f"larger in plane, or larger scans."
        )


def _check_published(plan: PlanInfo, data: DataInfo) -> None:
    """Refuse the published views where they would not be what was published.

    Raises:
        PlanError: the channel is not CT, voxels are not 1 mm, or the encoder's stride does not divide the views.
    """
    advice = (
        "Use --preset default, or make the published plan with nnssl_plan_and_preprocess -d ID --for CADSTrainer "
        "--preset paper and pretrain with -p nnsslPlansCADSPaper."
    )
    if any(name != "ct" for name in data.modality):
        raise PlanError(
            f"CADS's published views are Hounsfield units; the channels are {data.modality}. Use --preset default."
        )
    if any(abs(side - PUBLISHED_SPACING_MM) > 0.05 for side in plan.spacing_mm):
        raise PlanError(f"CADS's published views have voxels of 1 mm; the plan's are {plan.spacing_mm} mm. {advice}")
    packed = packed_size(PUBLISHED_SIZE)
    if any(side % stride for side, stride in zip(packed, plan.total_stride, strict=True)):
        raise PlanError(
            f"CADS's published views, packed to {packed} voxels, must be divisible by the encoder's total stride, "
            f"which is {plan.total_stride}. {advice}"
        )
