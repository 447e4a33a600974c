"""Reads the voxels and sidecars that a drawn sample needs, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnssl.data.case import CaseEntry
from nnssl.data.sampler import SampleDraw
from nnssl.data.sidecar import read_sidecar
from nnssl.data.store import read_box
from nnssl.errors import DataError
from nnssl.needs import Needs
from nnssl.views.generate import ViewInput
from nnssl.views.geometry import read_bounds
from nnssl.views.spec import ViewSpec

Bounds = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class LoadedSample:
    """A drawn sample with its voxels.

    Attributes:
        draw: what was drawn.
        views: {group: V inputs}; views of one source may share a box.
        sidecars: {source: {sidecar: {array: tensor}}}.
    """

    draw: SampleDraw
    views: Mapping[str, Sequence[ViewInput]]
    sidecars: Mapping[str, Mapping[str, Mapping[str, Tensor]]]

    def pinned(self) -> LoadedSample:
        """The same in page-locked memory, from which a GPU copies without waiting."""
        return self._moved(Tensor.pin_memory)

    def to(self, device: torch.device) -> LoadedSample:
        """The same on a device; every box travels once."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def _moved(self, move: Callable[[Tensor], Tensor]) -> LoadedSample:
        boxes: dict[int, Tensor] = {}

        def moved(one: ViewInput) -> ViewInput:
            """The input with its box moved, once for all views that share it."""
            if id(one.box) not in boxes:
                boxes[id(one.box)] = move(one.box)
            return replace(one, box=boxes[id(one.box)])

        views = {name: [moved(one) for one in group] for name, group in self.views.items()}
        sidecars = {
            source: {name: {k: move(v) for k, v in arrays.items()} for name, arrays in found.items()}
            for source, found in self.sidecars.items()
        }
        return LoadedSample(self.draw, views, sidecars)


def load_sample(draw: SampleDraw, spec: ViewSpec, needs: Needs) -> LoadedSample:
    """Read what was drawn.

    Raises:
        DataError: naming the case and the file that cannot be read.
    """
    views: dict[str, Sequence[ViewInput]] = {}
    for source in spec.sources:
        groups = [group for group in spec.groups if group.source == source.name]
        entry = draw.sources[source.name].entry
        flat = [(group, view) for group in groups for view in draw.views[group.name]]
        bounds = [read_bounds(view.to_case, group.size, entry.shape, view.scale) for group, view in flat]
        boxes = _read(entry, bounds, needs)
        inputs = [ViewInput(view, box, lower, entry.shape) for (_, view), (box, lower) in zip(flat, boxes, strict=True)]
        for group in groups:
            views[group.name] = inputs[: group.count]
            inputs = inputs[group.count :]
    sidecars = {name: _sidecars(one.entry, needs) for name, one in draw.sources.items()}
    return LoadedSample(draw, views, sidecars)


def _read(entry: CaseEntry, bounds: Sequence[Bounds], needs: Needs) -> list[tuple[Tensor, npt.NDArray[np.int64]]]:
    """The box and its first voxel for every view: one box around all views, or one each where that is less to read."""
    if not bounds:
        return []
    lower = np.min([low for low, _ in bounds], axis=0)
    upper = np.max([high for _, high in bounds], axis=0)
    if prod((upper - lower).tolist()) <= sum(prod((high - low).tolist()) for low, high in bounds):
        box = _read_box(entry, lower, upper, needs)
        return [(box, lower)] * len(bounds)
    return [(_read_box(entry, low, high, needs), low) for low, high in bounds]


def _read_box(entry: CaseEntry, lower: npt.NDArray[np.int64], upper: npt.NDArray[np.int64], needs: Needs) -> Tensor:
    """(C, d, h, w) in the stored dtype."""
    path = entry.raw_path if needs.values == "raw" else entry.path
    if path is None:
        raise DataError(f"Case {entry.case_id} in {entry.folder} has no raw values, which this method needs.")
    try:
        return torch.from_numpy(np.ascontiguousarray(read_box(path, lower.tolist(), upper.tolist())))
    except (DataError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"Case {entry.case_id} could not be read from {path}: {error}") from error


def _sidecars(entry: CaseEntry, needs: Needs) -> dict[str, dict[str, Tensor]]:
    """The sidecars of one case as tensors."""
    return {
        sidecar.name: {
            name: torch.from_numpy(np.asarray(array)) for name, array in read_sidecar(entry, sidecar).items()
        }
        for sidecar in needs.sidecars
    }
