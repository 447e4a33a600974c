"""Whether what a method needs is on the disk, and whether its views fit the cases."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from nnssl.data.agreement import dataset_id
from nnssl.data.case import CaseEntry
from nnssl.data.sidecar import BodyMask
from nnssl.errors import DataError, PlanError, PluginError
from nnssl.needs import Needs
from nnssl.views.draws import check_group
from nnssl.views.masks import block_grid
from nnssl.views.spec import Size, ViewSpec

LEAST_FILLED = 0.5  # of a view's volume
NAMED = 5  # cases listed in a message


def check_needs(entries: Sequence[CaseEntry], needs: Needs, trainer: str) -> None:
    """Refuse to train without the raw store or the sidecars that a method needs.

    Raises:
        DataError: naming cases, what is missing, and the exact command that makes it.
    """
    if needs.values == "raw":
        _refuse([entry for entry in entries if entry.raw_file is None], "raw values", trainer)
    for sidecar in needs.sidecars:
        missing = [entry for entry in entries if sidecar.name not in entry.sidecars]
        _refuse(missing, f"the sidecar {sidecar.name!r}", trainer)


def check_spec(spec: ViewSpec, needs: Needs) -> None:
    """Refuse a view specification that contradicts itself or the method's needs.

    Raises:
        PluginError: a source that is not there, or an anchor whose sidecar or table the method does not declare.
        PlanError: a grid, mask or intensity list that does not fit its group.
    """
    names = [source.name for source in spec.sources]
    if not spec.groups or len(set(names)) != len(names) or len({g.name for g in spec.groups}) != len(spec.groups):
        raise PluginError(f"A method needs at least one view group, and sources and groups with unique names; {names}.")
    for source in spec.sources:
        if source.anchor == "body" and BodyMask not in needs.sidecars:
            raise PluginError(f"Source {source.name!r} is anchored in the body: Needs.sidecars must hold BodyMask.")
        if (source.anchor == "table" or source.pick == "partner") and not needs.tables:
            raise PluginError(f"Source {source.name!r} uses matched points: Needs.tables must hold a table.")
        if any(low < 1 or high < low for low, high in source.size):
            raise PlanError(f"Source {source.name!r} needs sizes as (low, high) of at least 1 voxel; {source.size}.")
    for group in spec.groups:
        if group.source not in names:
            raise PluginError(f"View group {group.name!r} names source {group.source!r}; the sources are {names}.")
        check_group(group)
        if group.mask is not None:
            block_grid(group.mask, group.size)


def largest_view(spec: ViewSpec, source: str | None = None) -> Size:
    """Per axis, the largest side of any view (of one source)."""
    sizes = [group.size for group in spec.groups if source is None or group.source == source]
    sides = [max((size[axis] for size in sizes), default=1) for axis in range(3)]
    return (sides[0], sides[1], sides[2])


def small_cases(entries: Sequence[CaseEntry], spec: ViewSpec) -> tuple[CaseEntry, ...]:
    """Cases smaller than the largest view on some axis, which will be padded.

    Raises:
        DataError: a case fills less than half of the view's volume: the network would see mostly padding.
    """
    size = largest_view(spec)
    small = [entry for entry in entries if any(side < view for side, view in zip(entry.shape, size, strict=True))]
    empty = mostly_padding(small, size)
    if empty:
        raise DataError(
            f"A view has {size} voxels and these cases would fill less than half of it, the rest being padding: "
            f"{named(empty)}. Use a smaller --set patch_size, a finer spacing "
            f"(-overwrite_target_spacing), or leave these cases out."
        )
    return tuple(small)


def mostly_padding(entries: Sequence[CaseEntry], size: Sequence[int]) -> list[CaseEntry]:
    """Cases that would fill less than `LEAST_FILLED` of a view of `size`, D H W."""
    return [
        entry
        for entry in entries
        if prod(min(side, view) for side, view in zip(entry.shape, size, strict=True)) < LEAST_FILLED * prod(size)
    ]


def named(entries: Sequence[CaseEntry]) -> str:
    """The first few cases with their voxels, and how many more."""
    return _listed([f"{entry.case_id} {entry.shape}" for entry in entries])


def _refuse(missing: Sequence[CaseEntry], what: str, trainer: str) -> None:
    if not missing:
        return
    entry = missing[0]
    plans, _, configuration = entry.folder.name.partition("_3d_")
    configuration = f" -c 3d_{configuration}" if configuration else ""
    name = f" -overwrite_plans_name {plans}" if plans and plans != "nnsslPlans" else ""
    raise DataError(
        f"{trainer} needs {what}, which {len(missing)} preprocessed case{'s' if len(missing) > 1 else ''} of "
        f"{entry.dataset} lack{'' if len(missing) > 1 else 's'} ({_listed([e.case_id for e in missing])}). Run: "
        f"nnssl_plan_and_preprocess -d {dataset_id(entry.dataset)}{configuration}{name} --for {trainer}"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
