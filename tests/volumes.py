"""Small preprocessed cases on disk with known voxels, for tests of views and loading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.data.case import CaseEntry
from nnssl.data.collection import Collection
from nnssl.data.store import write_array
from nnssl.views.spec import Size, Source, ViewGroup, ViewSpec


def ramp(shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """(3, D, H, W): every voxel holds its own index."""
    return np.stack(np.meshgrid(*[np.arange(side, dtype=np.float32) for side in shape], indexing="ij"))


def noise(shape: Sequence[int], *, channels: int = 1, seed: int = 0) -> npt.NDArray[np.float32]:
    """(C, D, H, W) standard normal."""
    return np.random.default_rng(seed).standard_normal((channels, *shape)).astype(np.float32)


def write_case(
    folder: Path,
    case_id: str,
    array: npt.NDArray[Any],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    dataset: str = "Dataset001_Test",
    **fields: Any,
) -> CaseEntry:
    """Write (C, D, H, W) voxels and describe them; world mm = spacing * index + (10, 20, 30)."""
    write_array(folder / f"{case_id}.b2nd", array, (16, 16, 16))
    to_world = np.diag([*spacing_mm, 1.0])
    to_world[:3, 3] = (10.0, 20.0, 30.0)
    values: dict[str, Any] = {
        "case_id": case_id,
        "dataset": dataset,
        "folder": folder,
        "file": f"{case_id}.b2nd",
        "shape": array.shape[1:],
        "channels": len(array),
        "dtype": str(array.dtype),
        "spacing_mm": spacing_mm,
        "to_world": tuple(tuple(row) for row in to_world.tolist()),
        "subject": case_id,
        "modality": ("t1",) * len(array),
    }
    return CaseEntry(**{**values, **fields})


def collect(*entries: CaseEntry) -> Collection:
    """A collection that trains on and probes the same cases."""
    return Collection(training=entries, held_out=entries)


def noise_cases(folder: Path, count: int, shape: Sequence[int] = (20, 22, 24), *, channels: int = 1) -> Collection:
    """Cases of noise, all different."""
    arrays = [noise(shape, channels=channels, seed=case) for case in range(count)]
    return collect(*[write_case(folder, f"case_{case}", array) for case, array in enumerate(arrays)])


def one_group(size: Size, *, source: tuple[int, int] = (1, 1000), **fields: Any) -> ViewSpec:
    """One source whose sides lie in `source`, and one group "v"; the whole case by default."""
    low, high = source
    box = ((high if source == (1, 1000) else low, high),) * 3
    return ViewSpec(
        sources=(Source(size=(box[0], box[1], box[2])),), groups=(ViewGroup(name="v", size=size, **fields),)
    )
