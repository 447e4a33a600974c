"""The CT views of CADS: two crops of one parent crop, as DeSD's (Ye et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.parent_crop import PUBLISHED_SIZE, PUBLISHED_SPACING_MM, crop_pair, largest_crop
from nnssl.views.published import PublishedViews, plan_of_paper
from nnssl.views.spec import Size, ViewSpec

if TYPE_CHECKING:
    from nnssl_cads.method import CADSConfig

PUBLISHED = PublishedViews(
    run="CADS",
    sizes=((16, 48, 48),),  # packed, as the encoder sees them
    spacing_mm=PUBLISHED_SPACING_MM,
    other_plan=plan_of_paper("CADSTrainer", "CADSPaper"),
)
LEAST_CELLS = 4  # bottleneck cells of a packed view


def view_spec(config: CADSConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two views in one parent crop, which bounds how far apart they lie.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    if config.published_views:
        PUBLISHED.check(plan, data)
    size = PUBLISHED_SIZE if config.published_views else largest_crop(plan, data)
    if config.sampling == "uniform25":
        size = _even(size, plan)
    _check_plane(size, plan)
    return crop_pair(config, size)


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
