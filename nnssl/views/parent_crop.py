"""The views that DeSD and CADS were published with (Ye et al. 2022 and 2025): two crops of one parent crop.

The parent bounds how far apart its views lie. `nnssl.views.intensity.jitter` has their intensities.
"""

from __future__ import annotations

from typing import Protocol

from nnssl.method import DataInfo, PlanInfo
from nnssl.views.intensity.base import Range
from nnssl.views.intensity.jitter import FIRST, SECOND, Chances, jitter
from nnssl.views.spec import Geometry, Intensity, Size, Source, ViewGroup, ViewSpec

GROUP = "global"
PUBLISHED_SIZE: Size = (16, 96, 96)
PUBLISHED_SPACING_MM = (1.0, 1.0, 1.0)
PARENT_DEPTH = 1.5  # 24 slices for 16
PARENT_SIDE = (1.4, 1.8)  # of the view's in-plane side
ZOOM = (0.8, 1.2)


class CropConfig(Protocol):
    """The part of a method's configuration that says how its crops are changed."""

    @property
    def flip(self) -> tuple[float, float, float]:
        """Chance of mirroring, per axis D H W."""

    @property
    def blur_sigma(self) -> Range:
        """Range, in voxels."""

    @property
    def slicewise_intensity(self) -> bool:
        """Change every slice on its own in 2D, as the published runs did."""

    @property
    def published_views(self) -> bool:
        """The images are raw HU."""


def crop_pair(config: CropConfig, size: Size) -> ViewSpec:
    """The parent crop as the only source, and two views of `size` in it as the group `GROUP`."""
    depth = round(PARENT_DEPTH * size[0])
    in_plane = [(int(PARENT_SIDE[0] * side), int(PARENT_SIDE[1] * side)) for side in size[1:]]
    pair = ViewGroup(
        name=GROUP,
        count=2,
        size=size,
        geometry=zoomed_in_plane(config, ZOOM),
        intensity=(jittered(config, FIRST), jittered(config, SECOND)),
    )
    return ViewSpec(sources=(Source(size=((depth, depth), in_plane[0], in_plane[1])),), groups=(pair,))


def largest_crop(plan: PlanInfo, data: DataInfo) -> Size:
    """The plan's patch, as far as nine of ten cases hold the parent crop around it.

    Raises:
        PlanError: that leaves too few cells at the encoder's deepest stage.
    """
    ratio = (PARENT_DEPTH, PARENT_SIDE[0], PARENT_SIDE[0])
    return plan.fit_view(limit=[side / r for side, r in zip(data.shape_quantiles[10], ratio, strict=True)])


def zoomed_in_plane(config: CropConfig, zoom: Range) -> Geometry:
    """Zoom in plane only, drawn per axis; depth is never rescaled."""
    return Geometry(scale=zoom, through_plane_scale=(1.0, 1.0), per_axis=True, flip=config.flip)


def jittered(config: CropConfig, chances: Chances) -> Intensity:
    """The published jitter, as the configuration wants it."""
    return jitter(
        chances,
        blur_sigma=config.blur_sigma,
        hounsfield=config.published_views,
        slicewise=config.slicewise_intensity,
    )
