"""The scans between which points are matched: read once, seen at 4 mm along the axes of the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl import nnunet
from nnssl.errors import UsageError
from nnssl.paths import Folders
from nnssl.planning.bodymask import body
from nnssl.planning.cases import RawDataset, read_raw_dataset
from nnssl.planning.reading import Image, read_image

STEP_MM = 4.0
Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scout:
    """A scan at 4 mm: index (z, y, x) along the axes of LPS, whatever the file's axes were.

    Attributes:
        image: (Z, Y, X) float32, its CT channel or its first; what the scan does not show is as dark as it gets.
        body: (Z, Y, X) bool.
        origin_mm: (3,) x y z of voxel (0, 0, 0).
    """

    image: npt.NDArray[np.float32]
    body: npt.NDArray[np.bool_]
    origin_mm: Points

    def index(self, points_mm: Points) -> Points:
        """(P, 3) z y x index, not whole, of (P, 3) x y z mm."""
        return ((points_mm - self.origin_mm) / STEP_MM)[:, ::-1]

    def in_body(self, points_mm: Points) -> npt.NDArray[np.bool_]:
        """(P,) whether the nearest voxel is body; outside nothing is."""
        index = np.rint(self.index(points_mm)).astype(np.int64)
        inside = ((index >= 0) & (index < self.body.shape)).all(axis=1)
        index = np.clip(index, 0, np.array(self.body.shape) - 1)
        return np.asarray(inside & self.body[tuple(index.T)])

    def inside(self, points_mm: Points) -> npt.NDArray[np.bool_]:
        """(P,) whether the scan reaches there."""
        index = self.index(points_mm)
        return np.asarray(((index >= -0.5) & (index <= np.array(self.image.shape) - 0.5)).all(axis=1))


@dataclass(frozen=True, kw_only=True)
class MatchCase:
    """One case of a raw data set.

    Attributes:
        case_id: its name.
        files: one per channel.
        modality: per channel, lower case.
        reader: nnU-Net's reader class.
    """

    case_id: str
    files: tuple[Path, ...]
    modality: tuple[str, ...]
    reader: str

    def read(self) -> Image:
        """The scan as the files hold it.

        Raises:
            DataError: a file cannot be used.
        """
        return read_image(self.files, self.reader)

    @cached_property
    def scout(self) -> Scout:
        """The scan at 4 mm; kept, since it is small."""
        return scout(self.read(), self.modality)


def dataset_cases(name: str, where: Folders, only: Sequence[str] | None = None) -> list[MatchCase]:
    """The cases of a raw data set, sorted by name.

    Args:
        name: "Dataset745_Thorax".
        where: nnU-Net's folders.
        only: the names wanted, in this order; None: all.

    Raises:
        DataError: the data set cannot be used.
        UsageError: a case that is not there.
    """
    dataset = read_raw_dataset(name, where)
    found = {case.case_id: case for case in _match_cases(dataset)}
    if only is None:
        return list(found.values())
    for case_id in only:
        if case_id not in found:
            known = ", ".join(list(found)[:8]) + (" ..." if len(found) > 8 else "")
            raise UsageError(f"{name} has no case {case_id!r} in {dataset.folder}; it has {known}.")
    return [found[case_id] for case_id in only]


def _match_cases(dataset: RawDataset) -> list[MatchCase]:
    reader = nnunet.reader_for(dataset.description)
    return [
        MatchCase(case_id=case.case_id, files=case.files, modality=dataset.modality, reader=reader)
        for case in dataset.cases
    ]


def scout(image: Image, modality: Sequence[str]) -> Scout:
    """A scan at 4 mm along the axes of the patient, with its body."""
    import SimpleITK

    volumes = [_along_the_patient(volume, image.to_world) for volume in _thinned(image)]
    arrays = np.stack([SimpleITK.GetArrayFromImage(volume) for volume in volumes])
    channel = list(modality).index("ct") if "ct" in modality else 0
    origin_mm = np.asarray(volumes[0].GetOrigin(), np.float64)
    return Scout(arrays[channel], body(arrays, modality, vertical=0), origin_mm)


def _thinned(image: Image) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Every channel as means of blocks of nearly 4 mm, and the blocks' sides: a plain resampling would alias."""
    sides = np.maximum(1, np.floor(STEP_MM / np.asarray(image.spacing_mm) + 0.25)).astype(np.int64)
    sides = np.minimum(sides, np.maximum(1, np.array(image.data.shape[1:]) // 2))
    whole = np.array(image.data.shape[1:]) // sides
    blocks = [n for count, side in zip(whole.tolist(), sides.tolist(), strict=True) for n in (count, side)]
    cut = tuple(slice(0, int(count * side)) for count, side in zip(whole, sides, strict=True))
    return [(channel[cut].reshape(blocks).mean(axis=(1, 3, 5)), sides) for channel in image.data]


def _along_the_patient(thinned: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]], to_world: Points) -> Any:
    """The volume on a grid of 4 mm along x y z."""
    import SimpleITK

    values, sides = thinned
    linear = to_world[:3, :3] * sides
    origin = to_world[:3, :3] @ ((sides - 1) / 2) + to_world[:3, 3]
    spacing = np.linalg.norm(linear, axis=0)
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing([float(side) for side in spacing[::-1]])
    image.SetOrigin([float(x) for x in origin])
    image.SetDirection([float(x) for x in (linear / spacing)[:, ::-1].ravel()])
    ends = np.array([0, 1])[:, None] * (np.array(values.shape) - 1)
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), -1).reshape(-1, 3) @ linear.T + origin
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = [int(side) for side in np.maximum(1, np.floor((high - low) / STEP_MM + 1.5))]
    identity = SimpleITK.Transform(3, SimpleITK.sitkIdentity)
    direction = [float(x) for x in np.eye(3).ravel()]
    return SimpleITK.Resample(
        image,
        size,
        identity,
        SimpleITK.sitkLinear,
        [float(x) for x in low],
        [STEP_MM] * 3,
        direction,
        float(values.min()),
    )
