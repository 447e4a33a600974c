"""Arrays that belong to a case, stored as `CASE.NAME.npz` without pickle; and points drawn from the body mask."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnssl.atomic import whole_file
from nnssl.data.case import CaseEntry
from nnssl.errors import DataError, PluginError
from nnssl.needs import BodyMask as BodyMask
from nnssl.needs import Sidecar

Arrays = Mapping[str, npt.NDArray[np.generic]]
_VERSION = "sidecar_version"


def sidecar_file(case_id: str, sidecar: type[Sidecar]) -> str:
    """File name of a case's sidecar."""
    return f"{case_id}.{sidecar.name}.npz"


def write_sidecar(path: Path, sidecar: type[Sidecar], arrays: Arrays) -> None:
    """Write what `sidecar.compute` gave, whole or not at all, and first the picture for people, where there is one.

    Raises:
        PluginError: an array is not of plain numeric dtype.
    """
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "biuf" or name == _VERSION:
            raise PluginError(
                f"Sidecar {sidecar.__name__} must give arrays of bool, integer or float; {name!r} is {array.dtype}."
            )
    picture = sidecar.picture(plain)
    if picture is not None:
        from matplotlib.image import imsave

        with whole_file(path.with_suffix(".png")) as temporary, temporary.open("wb") as file:
            imsave(file, picture, format="png", cmap="gray", vmin=0, vmax=255)
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
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None  # numpy raises what its zip reader meets


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
