"""What a method says about its views. Pure data: methods describe views, the engine makes them.

Axes are those of the preprocessed array, D H W, lowest resolution first (nnU-Net's `transpose_forward` is done).
Sizes are in voxels of the plan's spacing. Every range is (low, high), inclusive, drawn uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nnssl.views.intensity import IntensityOp

Size = tuple[int, int, int]
Range = tuple[float, float]

# `Source.size` of a source that is the whole case, whatever its shape: boxes are clipped to the case.
WHOLE_CASE = ((2**30, 2**30),) * 3


@dataclass(frozen=True, kw_only=True)
class Source:
    """A box of one case from which views are cut (a "parent crop").

    Attributes:
        name: what `ViewGroup.source` and `Batch.sources` call it.
        pick: `case` the sample's own case; `other` a different case, keyed; `partner` the case that the match table
            pairs with the sample's own.
        anchor: where the box lies. `uniform` anywhere in the case; `body` so that it holds a random body voxel (needs
            the `BodyMask` sidecar); `table` centred on a matched point (needs a table).
        size: per axis the range, in voxels, from which the box side is drawn; clipped to the case, never below the
            largest view.
        jitter_mm: with `table`, the matched point is moved by up to so much along each axis of the patient; by the same
            vector in every source of a sample, so that matched boxes stay matched.
        padded: with `table`, the box stays centred on its point where it leaves the case (a view is padded there),
            instead of being moved inside.
    """

    name: str = "case"
    pick: Literal["case", "partner", "other"] = "case"
    anchor: Literal["uniform", "body", "table"] = "uniform"
    size: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    jitter_mm: float = 0.0
    padded: bool = False


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A random affine map per view: zoom, rotation, mirroring, quarter turns; one trilinear resampling.

    Attributes:
        scale: side of the sampled region over the side of the view; 1.2 sees 20 % more at lower resolution.
        through_plane_scale: the same for the axis of largest spacing; None: as in plane.
        per_axis: draw the scale of each axis on its own (else one draw for the in-plane axes).
        scale_probability: chance that a view is scaled at all.
        rotation_deg: rotations in plane are drawn from [-rotation_deg, rotation_deg], in degrees.
        through_plane_rotation_deg: the same about the other two axes; None: as in plane, but 0 where one spacing is
            over 3 times another (nnU-Net's threshold for anisotropy).
        rotation_probability: chance per view.
        flip: chance of mirroring, per axis D H W.
        rot90: chance of a random quarter turn, only between axes of equal spacing and equal view size.
    """

    scale: Range = (1.0, 1.0)
    through_plane_scale: Range | None = None
    per_axis: bool = False
    scale_probability: float = 1.0
    rotation_deg: float = 0.0
    through_plane_rotation_deg: float | None = None
    rotation_probability: float = 1.0
    flip: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rot90: float = 0.0


@dataclass(frozen=True, kw_only=True)
class IntegerCrop:
    """A crop at whole voxels, mirrored or quarter-turned at most: values are bit-equal to the stored ones."""

    flip: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rot90: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """Intensity operations applied in order, each with its own chance and one parameter draw per view (and channel).

    Attributes:
        ops: operations of `nnssl.views.intensity`, or a plugin's own subclasses of `IntensityOp`.
        slicewise: treat every slice along D as a channel of its own, in 2D (what DeSD's and CADS's published runs did).
    """

    ops: tuple[IntensityOp, ...] = ()
    slicewise: bool = False


@dataclass(frozen=True, kw_only=True)
class BlockMask:
    """Hides random blocks of a view. The exact count is round(ratio * blocks), drawn without replacement.

    Attributes:
        block: side of a block in voxels per axis; the view's size must be a multiple of it.
        ratio: range of the hidden share, one draw per view.
    """

    block: Size
    ratio: Range


@dataclass(frozen=True, kw_only=True)
class ViewGroup:
    """`count` views of one size from one source.

    Attributes:
        name: key in `Batch.views`.
        source: name of the source.
        count: views per sample, V. For `place="grid"` it must equal the product of `grid`.
        size: D H W of a view, in voxels.
        place: `random` anywhere in the source box; `grid` the tiles of `grid` laid over the centre of the source
            box, in raster order; `anchor` centred on the source's anchor; `around_anchor` anywhere in the source box
            where the view holds the anchor's voxel, each view on its own and all places equally likely (before
            rotation: a turned view may lose an anchor near its corner).
        grid: tiles per axis, for `place="grid"`.
        geometry: how the view is cut.
        intensity: one `Intensity` for all views, or one for each.
        keep_clean: also give the views before the intensity operations (`View.clean`).
        mask: blocks to hide (`View.mask`); the image itself is not changed, the method decides what hiding means.
        min_overlap: smallest share of a view's volume that any two views of the group have in common.
    """

    name: str
    source: str = "case"
    count: int = 1
    size: Size
    place: Literal["random", "grid", "anchor", "around_anchor"] = "random"
    grid: Size = (1, 1, 1)
    geometry: Geometry | IntegerCrop = Geometry()
    intensity: Intensity | tuple[Intensity, ...] | None = None
    keep_clean: bool = False
    mask: BlockMask | None = None
    min_overlap: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """All that a method sees of a sample.

    Attributes:
        sources: boxes of cases.
        groups: views of them.
        stride: voxels D H W that every view side must be a multiple of, where the method's network is not the plan's;
            None: the plan's total stride.
    """

    sources: tuple[Source, ...]
    groups: tuple[ViewGroup, ...]
    stride: Size | None = None
