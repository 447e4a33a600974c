"""The views of DINO3D: two global and n local crops of one box, augmented as the task wants it (3DMedDINO)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nnssl.encoders.tokens import TOKEN, grid_of
from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity import GaussianBlur, HistogramShift, IntensityOp, Window
from nnssl.views.published import PublishedViews, plan_of_paper
from nnssl.views.spec import BlockMask, Geometry, Intensity, Size, Source, ViewGroup, ViewSpec
from nnssl_dino3d.elastic import ElasticDeformation

if TYPE_CHECKING:
    from nnssl_dino3d.config import DINO3DConfig

GLOBAL, LOCAL = "global", "local"
PUBLISHED_GLOBAL: Size = (48, 96, 96)  # published as 96 x 96 x 48 in x y z
PUBLISHED_LOCAL: Size = (12, 24, 24)
PUBLISHED = PublishedViews(
    run="3DMedDINO",
    sizes=(PUBLISHED_GLOBAL, PUBLISHED_LOCAL),  # of whatever voxels: the published data were not resampled
    other_plan=plan_of_paper("DINO3DTrainer", "DINO3DPaper"),
)
BOX_RATIO = 2 - 0.4 ** (1 / 3)  # two crops in such a box have at least 0.4 of their volume in common
LARGEST_SIDE = 128  # voxels: two global and six local views of it fill a GPU
LEAST_CELLS = 2  # bottleneck cells a side of a local view: instance norm cannot take one cell
HOUNSFIELD = (-1000.0, 1000.0)


def view_spec(config: DINO3DConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two global views and `config.local_views` local ones in one box, which bounds how far apart they lie.

    Raises:
        PlanError: the plan or the data do not allow the views.
    """
    tokens = config.network != "plan"
    if tokens:
        plan = as_tokens(plan)
    if config.published_views:
        PUBLISHED.check(plan, data)
        size, small = PUBLISHED_GLOBAL, PUBLISHED_LOCAL
    else:
        limit = [side / BOX_RATIO for side in data.shape_quantiles[10]]
        patch = plan.patch_size
        wanted = [min(side, max(LARGEST_SIDE, 2 * step)) for side, step in zip(patch, plan.total_stride, strict=True)]
        size = plan.fit_view(limit=limit, wanted=wanted)
        small = local_size(size, plan)
    side = [round(BOX_RATIO * length) for length in size]
    box = Source(
        anchor="body" if config.body else "uniform",
        size=((side[0], side[0]), (side[1], side[1]), (side[2], side[2])),
    )
    mask = BlockMask(block=plan.total_stride, ratio=config.dense_ratio) if config.dense else None
    geometry, intensity = _geometry(config), Intensity(ops=_intensity(config))
    groups = [ViewGroup(name=GLOBAL, count=2, size=size, geometry=geometry, intensity=intensity, mask=mask)]
    if config.local_views:
        groups.append(
            ViewGroup(name=LOCAL, count=config.local_views, size=small, geometry=geometry, intensity=intensity)
        )
    return ViewSpec(sources=(box,), groups=tuple(groups), stride=TOKEN if tokens else None)


def as_tokens(plan: PlanInfo) -> PlanInfo:
    """The plan as Primus takes it: its patch, cut into tokens in place of going down the plan's strides.

    Raises:
        PlanError: the patch cannot be cut.
    """
    grid_of(plan.patch_size)
    return replace(plan, strides=(TOKEN,))


def local_size(size: Size, plan: PlanInfo) -> Size:
    """Half of a global view a side, in whole bottleneck cells, of which there are two unless the global view has one.

    A single cell would have no variance, and instance norm would fail; the published 12 x 24 x 24 is one cell of most
    plans. Where a global view has two cells a side, a local one is as large.
    """
    cells = [side // step for side, step in zip(size, plan.total_stride, strict=True)]
    fewer = [min(count, max(LEAST_CELLS, round(count / 2))) for count in cells]
    wanted = [count * step for count, step in zip(fewer, plan.total_stride, strict=True)]
    return plan.fit_view(limit=size, wanted=wanted, min_cells=LEAST_CELLS**2)


def _geometry(config: DINO3DConfig) -> Geometry:
    """Rotation, scaling and mirroring, each by its own switch."""
    chance = config.augmentation_probability
    angle = {"off": 0.0, "limited": config.rotation_deg, "full": 180.0}[config.rotation]
    low, high = 1 - config.scale_range, 1 + config.scale_range
    return Geometry(
        scale=(low, high) if config.scale else (1.0, 1.0),
        per_axis=True,
        scale_probability=chance if config.scale else 0.0,
        rotation_deg=angle,
        # "full" is what the published code did, on anisotropic voxels too
        through_plane_rotation_deg=180.0 if config.rotation == "full" else None,
        rotation_probability=chance if angle else 0.0,
        flip=config.flip,
    )


def window() -> Window:
    """HU from -1000 to 1000 as 0 to 1, without chance, as published."""
    return Window.fixed(HOUNSFIELD)


def _intensity(config: DINO3DConfig) -> tuple[IntensityOp, ...]:
    """Elastic deformation, smoothing and histogram shift, each by its own switch, in the published order."""
    chance = config.augmentation_probability
    ops: list[IntensityOp] = [window()] if config.published_views else []
    if config.elastic:
        ops.append(
            ElasticDeformation(sigma=config.elastic_sigma, magnitude=config.elastic_magnitude, probability=chance)
        )
    if config.smoothing:
        ops.append(GaussianBlur(config.smoothing_sigma, per_axis=True, probability=chance))
    if config.histogram:
        ops.append(HistogramShift(config.histogram_points, probability=chance))
    return tuple(ops)
