"""Draws all about a sample: which case each source shows, where its box lies, and the views cut from it.

Plain numbers, keyed by (seed, sample key): no state, no voxels read. `data/loader.py` reads what was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnssl.data.case import CaseEntry
from nnssl.data.collection import Collection
from nnssl.data.requirements import largest_view
from nnssl.data.sidecar import BodyMask, random_body_voxel, read_sidecar
from nnssl.engine.randomness import numpy_generator
from nnssl.needs import Match
from nnssl.views.draws import SourceBox, ViewDraw, draw_views
from nnssl.views.spec import Source, ViewSpec

Voxel = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SourceDraw:
    """One source of a sample: its case, its box in that case, the world point the box was placed by."""

    entry: CaseEntry
    box: SourceBox
    anchor_mm: Voxel


@dataclass(frozen=True)
class SampleDraw:
    """All that was drawn for one sample; sources and views by name."""

    key: int
    sources: Mapping[str, SourceDraw]
    views: Mapping[str, tuple[ViewDraw, ...]]


def draw_sample(collection: Collection, spec: ViewSpec, entry: CaseEntry, key: int, seed: int) -> SampleDraw:
    """Draw one sample of a case.

    Args:
        collection: where other cases and matched points come from.
        spec: the method's views.
        entry: the sample's own case.
        key: the sample's number in the run; all draws are a function of it and the seed.
        seed: the run's seed.

    Raises:
        DataError: there is no other case or matched point, or a body mask cannot be read.
    """
    match: Match | None = None
    if any(source.anchor == "table" or source.pick == "partner" for source in spec.sources):
        rows = collection.partners(entry)
        match = rows[int(numpy_generator(seed, key, "match").integers(len(rows)))]
    sources = {s.name: _draw_source(collection, spec, s, entry, match, key, seed) for s in spec.sources}
    views = {group.name: draw_views(group, sources[group.source].box, seed, key) for group in spec.groups}
    return SampleDraw(key=key, sources=sources, views=views)


def _draw_source(
    collection: Collection, spec: ViewSpec, source: Source, own: CaseEntry, match: Match | None, key: int, seed: int
) -> SourceDraw:
    """The case and box of one source."""
    rng = numpy_generator(seed, key, "source", source.name)
    entry, point_mm = own, None
    if source.pick == "other":
        others = collection.others(own)
        entry = others[int(rng.integers(len(others)))]
    elif source.pick == "partner" and match is not None:
        entry = next(e for e in collection.training if (e.dataset, e.case_id) == (own.dataset, match.case_b))
    if source.anchor == "table" and match is not None:
        point_mm = match.point_b_mm if source.pick == "partner" else match.point_a_mm
    to_world = np.asarray(entry.to_world, dtype=np.float64)
    anchor: Voxel | None = None
    if point_mm is not None:
        anchor = _matched_voxel(source, entry, to_world, np.asarray(point_mm), numpy_generator(seed, key, "jitter"))
    elif source.anchor == "body":
        body = read_sidecar(entry, BodyMask)
        anchor = np.array(random_body_voxel(body, numpy_generator(seed, key, "body", source.name)), dtype=np.float64)
    lower, size = _draw_box(source, largest_view(spec, source.name), entry.shape, anchor, rng)
    if anchor is None:
        anchor = lower + (size - 1) / 2
    spacing_mm = np.asarray(entry.spacing_mm, dtype=np.float64)
    box = SourceBox(lower=lower, size=size, anchor=anchor, spacing_mm=spacing_mm, channels=entry.channels)
    return SourceDraw(entry=entry, box=box, anchor_mm=(to_world @ np.array([*anchor, 1.0]))[:3])


def _matched_voxel(
    source: Source, entry: CaseEntry, to_world: npt.NDArray[np.float64], point_mm: Voxel, rng: np.random.Generator
) -> Voxel:
    """Where the box of a matched point lies, moved by the source's jitter; `rng` is the same for all sources.

    A point of the user's own table may lie outside the case: the nearest voxel then.
    """
    voxel = np.linalg.solve(to_world, np.array([*point_mm, 1.0]))[:3]
    shift_mm = source.jitter_mm * rng.uniform(-1, 1, 3)
    moved: Voxel = np.clip(voxel, 0, np.asarray(entry.shape) - 1) + np.linalg.solve(to_world[:3, :3], shift_mm)
    return moved


def _draw_box(
    source: Source,
    largest: tuple[int, int, int],
    shape: tuple[int, int, int],
    anchor: Voxel | None,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First voxel and sides of the source box: as large as drawn, no smaller than the largest view, inside the case.

    Where `padded`, it may leave the case.
    """
    ranges = np.asarray(source.size)
    drawn = rng.integers(ranges[:, 0], ranges[:, 1], endpoint=True)
    wanted = np.maximum(drawn, largest)
    size = np.minimum(wanted, shape)
    room, u = np.asarray(shape) - size, rng.random(3)
    low, high = np.zeros(3, dtype=np.int64), room
    if anchor is not None and source.anchor == "table" and source.padded:
        return np.floor(anchor - (wanted - 1) / 2 + 0.5).astype(np.int64), wanted
    if anchor is not None and source.anchor == "table":
        low = high = np.clip(np.floor(anchor - (size - 1) / 2 + 0.5), 0, room).astype(np.int64)
    elif anchor is not None:
        voxel = np.clip(np.floor(anchor + 0.5), 0, np.asarray(shape) - 1).astype(np.int64)
        low, high = np.maximum(voxel - size + 1, 0), np.minimum(voxel, room)
    return low + np.floor(u * (high - low + 1)).astype(np.int64), size
