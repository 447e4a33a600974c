"""Arrays that belong to a case, stored as `CASE.NAME.npz` without pickle; and the body mask, our one sidecar."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnssl.atomic import whole_file
from nnssl.data.case import CaseEntry
from nnssl.errors import DataError, PluginError
from nnssl.needs import RawCase, Sidecar

Arrays = Mapping[str, npt.NDArray[np.generic]]
_VERSION = "sidecar_version"
_CELL_MM = 4.0  # the body mask's cell: the chest wall is some cells thick, and a chest has 10^5 cells


def sidecar_file(case_id: str, sidecar: type[Sidecar]) -> str:
    """File name of a case's sidecar."""
    return f"{case_id}.{sidecar.name}.npz"


def write_sidecar(path: Path, sidecar: type[Sidecar], arrays: Arrays) -> None:
    """Write what `sidecar.compute` gave, whole or not at all.

    Raises:
        PluginError: an array is not of plain numeric dtype.
    """
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "biuf" or name == _VERSION:
            raise PluginError(
                f"Sidecar {sidecar.__name__} must give arrays of bool, integer or float; {name!r} is {array.dtype}."
            )
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **plain, **{_VERSION: np.int64(sidecar.version)})


def read_sidecar(entry: CaseEntry, sidecar: type[Sidecar]) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of one case.

    Raises:
        DataError: the case has no such sidecar, or one of another version, or the file is damaged.
    """
    remedy = "Run nnssl_plan_and_preprocess with --for and the trainer that needs it."
    if sidecar.name not in entry.sidecars:
        raise DataError(f"Case {entry.case_id} in {entry.folder} has no sidecar {sidecar.name!r}. {remedy}")
    path = entry.folder / entry.sidecars[sidecar.name]
    version = stored_version(path)
    if version != sidecar.version:
        found = "is missing or damaged" if version is None else f"has version {version}, needed is {sidecar.version}"
        raise DataError(f"The sidecar {path} {found}. {remedy}")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != _VERSION}


def stored_version(path: Path) -> int | None:
    """Version of a sidecar file; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return int(file[_VERSION])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


class BodyMask(Sidecar):
    """Body voxels on a coarse lattice of about 4 mm, for `Source(anchor="body")`.

    Arrays: `mask` (d, h, w) bool; `first` and `stride` (3,) int64: lattice point i is voxel first + stride * i, and
    `mask` says whether that voxel belongs to the body.
    """

    name = "body"

    @classmethod
    def compute(cls, case: RawCase) -> Mapping[str, npt.NDArray[np.generic]]:
        """The body of `case`; see `nnssl.planning.bodymask.body` for what that is."""
        from nnssl.planning.bodymask import body

        columns = np.asarray(case.to_world)[:3, :3]
        spacing_mm = np.linalg.norm(columns, axis=0)
        shape = np.array(case.image.shape[1:])
        stride = np.clip(np.round(_CELL_MM / spacing_mm), 1, shape).astype(np.int64)
        first = (stride - 1) // 2
        lattice = tuple(slice(int(start), None, int(step)) for start, step in zip(first, stride, strict=True))
        # LPS: the third world axis runs from feet to head; the voxel axis most along it is the vertical one
        vertical = int(np.argmax(np.abs(columns[2]) / spacing_mm))
        mask = body(case.image[(slice(None), *lattice)], case.modality, vertical=vertical)
        return {"mask": mask, "first": first, "stride": stride}


def random_body_voxel(arrays: Arrays, generator: np.random.Generator) -> tuple[int, int, int]:
    """A body voxel (D, H, W index of the stored case), drawn uniformly from the lattice points in the body.

    Args:
        arrays: the `BodyMask` sidecar of the case.
        generator: advanced by one draw.
    """
    inside = np.flatnonzero(arrays["mask"])
    point = np.unravel_index(inside[generator.integers(len(inside))], arrays["mask"].shape)
    voxel = np.asarray(arrays["first"], np.int64) + np.asarray(arrays["stride"], np.int64) * np.array(point)
    return int(voxel[0]), int(voxel[1]), int(voxel[2])
