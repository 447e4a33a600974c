"""One channel's voxels and place, from any of the formats; readers are nibabel, SimpleITK and pydicom."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.ingest.container import check_container
from nnssl.ingest.names import ending
from nnssl.ingest.read_dicom import read_series
from nnssl.ingest.read_png import read_stack
from nnssl.ingest.repair import filled, one_number, right_angled, told_apart
from nnssl.ingest.scan import Part
from nnssl.planning.nifti import NiftiImage, content_blocks, read_nifti
from nnssl.planning.precision import EXACT
from nnssl.planning.reading import (
    LPS_FROM_RAS,
    REVERSE,
    Affine,
    check_finite,
    check_one_orientation,
    from_itk,
    itk_geometry,
    itk_name,
    last_line,
    read_by_itk,
)
from nnssl.planning.refusal import Refused

_DISAGREED = "qform and sform disagreed; nibabel's choice was taken"
_BY_NIBABEL = (".mgz", ".mgh")


@dataclass(frozen=True)
class Volume:
    """One channel, as it will be written.

    Attributes:
        voxels: (D, H, W) float32, finite, not constant.
        to_world: 4x4 from voxel index (d, h, w, 1) to mm in LPS.
        as_it_is: the file may be taken into an nnU-Net data set without being written anew.
        notes: what was done to it.
    """

    voxels: npt.NDArray[np.float32]
    to_world: Affine
    as_it_is: bool = False
    notes: tuple[str, ...] = ()


def read_part(part: Part, accepted: Collection[str]) -> Volume:
    """Read and check one channel.

    Args:
        part: where it is.
        accepted: names of reasons for which it is repaired in place of refused.

    Raises:
        Refused: it cannot be used, or not without a reason that nobody accepted.
    """
    try:
        found = _read(part, accepted)
    except MemoryError as error:
        raise Refused("damaged", f"{part.files[0]} claims more voxels than memory holds.") from error
    voxels, notes = filled(part.files[0], found.voxels, accepted)
    if voxels.ndim != 3 or min(voxels.shape) < 2:
        raise Refused("single_slice", f"{part.files[0]} is a single slice; 3D volumes are needed.")
    check_finite(part.files[0], voxels)
    return Volume(voxels, found.to_world, found.as_it_is and not notes, (*found.notes, *notes))


def _read(part: Part, accepted: Collection[str]) -> Volume:
    file = part.files[0]
    if part.form == "dicom":
        return Volume(*read_series(part.files, accepted))
    if part.form == "png":
        return Volume(*read_stack(part))
    kind = ending(file)
    if part.volume is not None or kind in _BY_NIBABEL:
        return _by_nibabel(file, accepted, part.volume)
    if kind in (".nii", ".nii.gz"):
        _check_name(file, kind)
        try:
            return _nifti(file, read_nifti(file), accepted)
        except Refused as why:
            if why.reason not in accepted:
                raise
            found = _by_nibabel(file, accepted, None)
            said = (_DISAGREED,) if why.reason == "orientation_conflict" else ()
            return replace(found, notes=(*said, *found.notes))
    assumed = check_container(file, accepted)
    found = _by_itk(file, accepted)
    return replace(found, notes=(*assumed, *found.notes, *_rounded(file, found.voxels)))


def _rounded(file: Path, voxels: npt.NDArray[np.float32]) -> tuple[str, ...]:
    """What is lost of 64-bit numbers, and of whole ones with more than seven digits."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(itk_name(file))
    reader.ReadImageInformation()
    kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    whole = "integer" in kind and ("32" in kind or "64" in kind) and float(np.abs(voxels).max()) > EXACT
    return (
        (f"its numbers ({kind}) were rounded to 32-bit floats, of seven digits",)
        if "64-bit float" in kind or whole
        else ()
    )


def _check_name(file: Path, kind: str) -> None:
    """ITK goes by the name: it reads nothing of a compressed file called .nii, nor the other way round."""
    with file.open("rb") as stream:
        head = stream.read(132)
    start = head[:2]
    if head[128:] == b"DICM":
        name = f"{file.name[: -len(kind)]}.dcm"
        raise Refused("unreadable", f"{file} is a DICOM file, which its name does not say. Rename it to {name}.")
    if start and (start == b"\x1f\x8b") != (kind == ".nii.gz"):
        is_so, name = ("not compressed", file.name[:-3]) if kind == ".nii.gz" else ("compressed", f"{file.name}.gz")
        if is_so == "compressed" or start in (b"\x5c\x01", b"\x00\x00", b"\x1c\x02"):  # 348 or 540, as NIfTI begins
            raise Refused("unreadable", f"{file} is {is_so}, which its name does not say. Rename it to {name}.")


def _nifti(file: Path, image: NiftiImage, accepted: Collection[str]) -> Volume:
    ours = LPS_FROM_RAS @ image.affine @ REVERSE
    if image.version != 1:
        return Volume(image.voxels, ours)
    _, itks = itk_geometry(file, image)
    try:
        check_one_orientation(file, image, itks)
    except Refused:
        if "orientation_conflict" not in accepted:
            raise
        return Volume(image.voxels, ours, notes=(_DISAGREED,))
    return Volume(image.voxels, itks, as_it_is=file.name.endswith(".nii.gz"))


def _by_nibabel(file: Path, accepted: Collection[str], volume: int | None) -> Volume:
    """A file that must be changed to be usable, or that only nibabel reads."""
    import nibabel

    for _ in content_blocks(file, hashlib.sha256()):  # reads to the end: checksum and length
        continue
    try:
        image: Any = nibabel.load(file)
        affine = np.asarray(image.affine, np.float64)
        lost = "qform_code" in image.header and not (image.header["qform_code"] > 0 or image.header["sform_code"] > 0)
        data = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel raises whatever a damaged header leads to
        raise Refused("unreadable", f"nibabel cannot read {file} ({last_line(error)}). Copy it again.") from error
    if lost and "no_orientation" not in accepted:
        raise Refused("no_orientation", f"{file} does not say how it lies in space (qform and sform codes are 0).")
    if not np.isfinite(affine).all() or not np.abs(np.linalg.det(affine[:3, :3])) > 0:
        raise Refused("damaged", f"{file} has an orientation matrix that is none. Convert it again from its source.")
    voxels, notes = one_number(file, data, accepted, volume)
    voxels, shift = told_apart(file, voxels, accepted)
    to_world = LPS_FROM_RAS @ affine @ REVERSE
    upright, turned, more = right_angled(file, np.ascontiguousarray(voxels.T, np.float32), to_world, accepted)
    said = ("its header did not say how it lies; the axes were taken for left, front, up",) if lost else ()
    return Volume(upright, turned, notes=(*said, *notes, *shift, *more))


def _by_itk(file: Path, accepted: Collection[str]) -> Volume:
    try:
        channel = read_by_itk(file, b"")
        upright, turned, notes = right_angled(file, channel.voxels, channel.to_world, accepted)
        return Volume(upright, turned, notes=notes)
    except Refused as why:
        if why.reason not in accepted:
            raise
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(itk_name(file))
        data = SimpleITK.GetArrayFromImage(image)  # axes reversed, numbers of a voxel last
    except RuntimeError as error:
        raise Refused("unreadable", f"SimpleITK cannot read {file} ({last_line(error)}).") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        data = data.mean(-1)
    rank = image.GetDimension()
    if rank > 3:
        data = data[(0,) * (rank - 3)]
    data, shift = told_apart(file, data, accepted)
    _, to_world = from_itk(image.GetSpacing()[:3], image.GetOrigin()[:3], image.GetDirection())
    upright, turned, more = right_angled(file, np.ascontiguousarray(data, np.float32), to_world, accepted)
    said = ("one 3D volume of one number was taken",) if rank > 3 or image.GetNumberOfComponentsPerPixel() > 1 else ()
    return Volume(upright, turned, notes=(*said, *shift, *more))
