"""Draws every view of a group: where it lies, how it is turned, what is hidden and how its intensities change.

Plain numbers only; `views/generate.py` applies them. All numbers of a view come from generators keyed by (seed, sample
key, group, view), and every call order here is fixed: changing one probability leaves all other draws as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from nnssl.engine.randomness import numpy_generator
from nnssl.errors import PlanError
from nnssl.views.affine import Matrix, Vector, overlap, view_to_case
from nnssl.views.intensity.apply import Chain, draw_chain
from nnssl.views.masks import draw_hidden
from nnssl.views.spec import Geometry, IntegerCrop, Intensity, ViewGroup

ANISOTROPY = 3.0  # nnU-Net's threshold: beyond it, no rotation out of plane
PLAIN_TRIES, PULLED_TRIES = 32, 8


@dataclass(frozen=True)
class SourceBox:
    """Where a sample's source lies in its case.

    Attributes:
        lower, size: first voxel and sides, (3,) int64.
        anchor: (3,) float64 voxel index the box was placed by.
        spacing_mm: (3,) float64.
        channels: of the stored array.
    """

    lower: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    anchor: Vector
    spacing_mm: Vector
    channels: int


@dataclass(frozen=True)
class ViewDraw:
    """All that was drawn for one view. `origin`, `scale` and `rotation_deg` are per case axis D H W."""

    to_case: Matrix
    origin: Vector
    scale: Vector
    rotation_deg: Vector
    flip: npt.NDArray[np.bool_]
    rot90: int
    hidden: npt.NDArray[np.int64] | None = None
    chain: Chain = ()


def intensity_of(group: ViewGroup, view: int) -> Intensity | None:
    """The intensity operations of one view of a group."""
    return group.intensity[view] if isinstance(group.intensity, tuple) else group.intensity


def draw_views(group: ViewGroup, box: SourceBox, seed: int, key: int) -> tuple[ViewDraw, ...]:
    """The draws of all `group.count` views of one sample."""
    views: list[ViewDraw] = []
    for view in range(group.count):
        region = _draw_region(group, box, view, views, seed, key)
        views.append(replace(region, hidden=_hidden(group, view, seed, key), chain=_chain(group, view, box, seed, key)))
    return tuple(views)


def check_group(group: ViewGroup) -> None:
    """Refuse a group that contradicts itself.

    Raises:
        PlanError: naming the group and the field.
    """
    if group.place == "grid" and group.count != prod(group.grid):
        raise PlanError(
            f"View group {group.name!r}: a grid of {group.grid} needs count {prod(group.grid)}, found {group.count}."
        )
    if isinstance(group.intensity, tuple) and len(group.intensity) != group.count:
        raise PlanError(
            f"View group {group.name!r}: intensity must be one for all views or one for each of {group.count}; "
            f"found {len(group.intensity)}."
        )


def _draw_region(
    group: ViewGroup, box: SourceBox, view: int, before: Sequence[ViewDraw], seed: int, key: int
) -> ViewDraw:
    """One view's region, with at least `min_overlap` of its volume in common with every view before it.

    Keyed rejection: 32 free tries; then 8 whose place is pulled towards the first view, by half, three quarters, ...;
    then the first view's own region, so that the promise always holds.
    """
    rng = numpy_generator(seed, key, "view", group.name, view)
    for trial in range(PLAIN_TRIES + PULLED_TRIES):
        pull = 1 - 0.5 ** max(0, trial - PLAIN_TRIES + 1)
        drawn = _draw_geometry(group, box, view, rng, before[0] if before else None, pull)
        if group.min_overlap <= 0 or all(
            overlap(drawn.to_case, other.to_case, group.size) >= group.min_overlap for other in before
        ):
            return drawn
    first = before[0]
    return _view(group, box, first.origin, first.scale, first.rotation_deg, drawn.flip, drawn.rot90)


def _draw_geometry(
    group: ViewGroup, box: SourceBox, view: int, rng: np.random.Generator, first: ViewDraw | None, pull: float
) -> ViewDraw:
    """One free draw of a view's geometry. Every number is drawn whether it is used or not, so that draws stay apart."""
    geometry = group.geometry
    if isinstance(geometry, IntegerCrop):
        geometry = Geometry(flip=geometry.flip, rot90=geometry.rot90)
    flip = rng.random(3) < np.asarray(geometry.flip)
    turned, turns = rng.random() < geometry.rot90, int(rng.integers(1, 4))
    rot90 = turns if turned and _turnable(group, box) else 0
    scaled, zoom = rng.random() < geometry.scale_probability, rng.random(3)
    rotated, angle = rng.random() < geometry.rotation_probability, rng.random(3)
    scale = _scale(geometry, group, box, zoom) if scaled else np.ones(3)
    limits = _rotation_limits(geometry, box.spacing_mm)
    rotation_deg = (2 * angle - 1) * limits if rotated else np.zeros(3)
    origin = _place(group, box, view, scale, rng.random(3))
    if first is not None and pull > 0:
        towards = first.origin + (first.scale - scale) * np.asarray(group.size) / 2
        origin = _whole(origin + pull * (towards - origin), scale, group)
    return _view(group, box, origin, scale, rotation_deg, flip, rot90)


def _view(
    group: ViewGroup,
    box: SourceBox,
    origin: Vector,
    scale: Vector,
    rotation_deg: Vector,
    flip: npt.NDArray[np.bool_],
    rot90: int,
) -> ViewDraw:
    """The view of a region."""
    matrix = view_to_case(
        origin=origin,
        scale=scale,
        rotation_deg=rotation_deg,
        spacing_mm=box.spacing_mm,
        flip=flip.tolist(),
        rot90=rot90,
        size=group.size,
    )
    return ViewDraw(to_case=matrix, origin=origin, scale=scale, rotation_deg=rotation_deg, flip=flip, rot90=rot90)


def _turnable(group: ViewGroup, box: SourceBox) -> bool:
    """Whether H and W can be exchanged: equal sides and equal spacing (to 1 %, the rounding of scanners)."""
    return group.size[1] == group.size[2] and abs(box.spacing_mm[1] / box.spacing_mm[2] - 1) < 0.01


def _through_axis(spacing_mm: Vector) -> int:
    """The axis of largest spacing; D where all are equal to 1 %."""
    return int(np.argmax(spacing_mm)) if spacing_mm.max() > 1.01 * spacing_mm.min() else 0


def _rotation_limits(geometry: Geometry, spacing_mm: Vector) -> Vector:
    """(3,) greatest angle about D H W, in degrees."""
    out_of_plane = geometry.through_plane_rotation_deg
    if out_of_plane is None:
        out_of_plane = 0.0 if spacing_mm.max() > ANISOTROPY * spacing_mm.min() else geometry.rotation_deg
    limits = np.full(3, float(out_of_plane))  # whole degrees given as int must not make all whole
    limits[_through_axis(spacing_mm)] = geometry.rotation_deg
    return limits


def _scale(geometry: Geometry, group: ViewGroup, box: SourceBox, u: Vector) -> Vector:
    """(3,) scales, bounded so that the unrotated region stays in the source box.

    Axes that share a draw share the bound as well: a clipped zoom must not become a stretch.
    """
    through = _through_axis(box.spacing_mm)
    limit = np.maximum(box.size / np.asarray(group.size), 1.0)
    ranges = np.tile(np.asarray(geometry.scale), (3, 1))
    shared = np.zeros(3, dtype=np.int64)
    if geometry.through_plane_scale is not None:
        ranges[through] = geometry.through_plane_scale
        shared[through] = 1
    if geometry.per_axis:
        shared = np.arange(3)
    scale = np.empty(3)
    for draw in np.unique(shared):
        axes = shared == draw
        low, high = ranges[axes][0]
        scale[axes] = min(low + u[axes][0] * (high - low), limit[axes].min())
    return scale


def _place(group: ViewGroup, box: SourceBox, view: int, scale: Vector, u: Vector) -> Vector:
    """(3,) low corner of the region; whole where the region's side is, so that unscaled views are exact crops."""
    size = np.asarray(group.size, dtype=np.float64)
    side = scale * size
    room = box.size - side
    if group.place == "grid":
        tile = np.asarray(np.unravel_index(view, group.grid), dtype=np.float64)
        corner = box.lower + np.floor((box.size - size * group.grid) / 2)
        return _whole(corner + (tile + 0.5) * size - side / 2, scale, group)
    low, high = box.lower + np.minimum(room, 0), box.lower + np.maximum(room, 0)
    if group.place == "anchor":
        return np.clip(_whole(box.anchor + 0.5 - side / 2, scale, group), low, high)
    if group.place == "around_anchor":
        voxel = np.floor(box.anchor + 0.5)  # spans [voxel, voxel + 1)
        low, high = np.maximum(low, voxel + 1 - side), np.minimum(high, voxel)
    whole = side == np.round(side)
    return np.where(whole, low + np.floor(u * (high - low + 1)), low + u * (high - low))


def _whole(origin: Vector, scale: Vector, group: ViewGroup) -> Vector:
    """The origin, rounded on axes whose region has a whole side."""
    side = scale * np.asarray(group.size)
    return np.where(side == np.round(side), np.floor(origin + 0.5), origin)


def _hidden(group: ViewGroup, view: int, seed: int, key: int) -> npt.NDArray[np.int64] | None:
    """The hidden blocks of one view."""
    if group.mask is None:
        return None
    return draw_hidden(numpy_generator(seed, key, "mask", group.name, view), group.mask, group.size)


def _chain(group: ViewGroup, view: int, box: SourceBox, seed: int, key: int) -> Chain:
    """The intensity draws of one view."""
    intensity = intensity_of(group, view)
    if intensity is None:
        return ()
    return draw_chain(intensity, box.channels, group.size[0], seed, key, group.name, view)
