"""One case as nnU-Net's reader would give it, after checks that name the file and the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.planning.nifti import NiftiImage, is_nifti, read_nifti
from nnssl.planning.precision import check_precision
from nnssl.planning.refusal import Refused

Affine = npt.NDArray[np.float64]
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
REVERSE = np.eye(4)[[2, 1, 0, 3]]  # index (z, y, x) <-> (x, y, z)
_OTHER_UNITS = {"micron": 1e-3, "metre": 1e3}  # in mm
_CONFLICT_MM = 1.0  # qform and sform of one file may differ by rounding; float32 keeps a head to 0.01 mm
_GEOMETRY_TOLERANCE = 0.1  # channels may disagree by this share of the smallest voxel side, in any corner


@dataclass(frozen=True, kw_only=True)
class Image:
    """One case as read.

    Attributes:
        data: (C, D, H, W) float32; D is the files' last axis, as in nnU-Net.
        spacing_mm: voxel size D H W.
        to_world: 4x4 from voxel index (d, h, w, 1) to mm in LPS.
        source_hash: sha256 over the files' contents.
    """

    data: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    to_world: Affine
    source_hash: str


@dataclass(frozen=True)
class Channel:
    """One file as read.

    Attributes:
        voxels: (D, H, W) float32.
        spacing_mm: voxel size D H W.
        to_world: 4x4 from voxel index (d, h, w, 1) to mm in LPS.
        sha256: of the file's contents.
    """

    voxels: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    to_world: Affine
    sha256: bytes


def read_image(files: Sequence[Path], reader: str) -> Image:
    """Read and check the channels of one case.

    Args:
        files: one per channel, in order.
        reader: nnU-Net's reader class as the plans file names it ("SimpleITKIO").

    Raises:
        Refused: a file cannot be read or used; the message names it.
    """
    channels = [read_channel(file, reader) for file in files]
    for file, channel in zip(files, channels, strict=True):
        check_finite(file, channel.voxels)
        check_same_geometry(files[0], channels[0], file, channel)
    first = channels[0]
    digest = hashlib.sha256(b"".join(channel.sha256 for channel in channels)).hexdigest()
    data = first.voxels[None] if len(channels) == 1 else np.stack([channel.voxels for channel in channels])
    return Image(data=data, spacing_mm=first.spacing_mm, to_world=first.to_world, source_hash=digest)


def source_stamp(files: Sequence[Path]) -> str:
    """Names, sizes and modification times: cheap evidence that nothing changed since the last run."""
    stats = [(file.name, file.stat()) for file in files]
    return ";".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)


def read_channel(file: Path, reader: str) -> Channel:
    """One file, checked as far as one file can be checked without a look at its values."""
    if not file.is_file():
        raise Refused("missing_file", f"{file} is missing.")
    if not is_nifti(file):
        sha256 = hashlib.sha256(file.read_bytes()).digest()
        return read_by_itk(file, sha256) if reader == "SimpleITKIO" else _by_nnunet(file, reader, sha256)
    image = read_nifti(file)
    if reader == "SimpleITKIO":
        spacing_mm, to_world = itk_geometry(file, image)
        check_one_orientation(file, image, to_world)
        return Channel(image.voxels, spacing_mm, to_world, image.sha256)
    if reader == "NibabelIO":
        i, j, k = image.zooms_mm
        return Channel(image.voxels, (k, j, i), LPS_FROM_RAS @ image.affine @ REVERSE, image.sha256)
    return _by_nnunet(file, reader, image.sha256)


def itk_geometry(file: Path, image: NiftiImage) -> tuple[tuple[float, float, float], Affine]:
    """Spacing D H W and affine by ITK's own rules for choosing between qform and sform, so that they are nnU-Net's."""
    import SimpleITK

    if image.version == 2:
        raise Refused(
            "unreadable", f"{file} is NIfTI-2, which SimpleITK, nnU-Net's reader, cannot read. Convert it to NIfTI-1."
        )
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(itk_name(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise Refused("unreadable", f"SimpleITK cannot read the header of {file} ({last_line(error)}).") from error
    return from_itk(reader.GetSpacing()[:3], reader.GetOrigin()[:3], reader.GetDirection())


def itk_name(file: Path) -> str:
    """The name of a file for SimpleITK, which ends the whole process when it is given one that is not UTF-8.

    Raises:
        Refused: such a name.
    """
    name = str(file)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            "unreadable", f"{file} has a name that is not UTF-8, which SimpleITK cannot open. Rename it."
        ) from error
    return name


def check_one_orientation(file: Path, image: NiftiImage, itks: Affine) -> None:
    """Refuse a header of which nibabel and SimpleITK make two different places.

    Args:
        file: for the message.
        image: as read, with nibabel's choice between qform and sform.
        itks: ITK's choice, from `itk_geometry`.
    """
    ours = LPS_FROM_RAS @ image.affine @ REVERSE
    corner = np.array([[*(side - 1 for side in image.voxels.shape), 1.0], [0.0, 0.0, 0.0, 1.0]])
    apart_mm = float(np.linalg.norm(corner @ (ours - itks).T, axis=1).max())
    if apart_mm > _CONFLICT_MM:
        raise Refused(
            "orientation_conflict",
            f"{file} says two things about how it lies ({_conflict(image, ours, itks)} SimpleITK and nibabel read it "
            f"differently, by up to {apart_mm:.1f} mm). Correct its header.",
        )


def _conflict(image: NiftiImage, ours: Affine, itks: Affine) -> str:
    """Which fields of a header contradict each other, as far as two readings of it show; ends with a sign."""
    sides, others = (np.linalg.norm(affine[:3, 2::-1], axis=0) for affine in (ours, itks))
    unit = next((unit for unit, mm in _OTHER_UNITS.items() if np.allclose(others, sides * mm, rtol=1e-3, atol=0)), "")
    if unit:
        return f"its unit is the {unit}, which only SimpleITK heeds: {_times(sides)} mm or {_times(others)} mm a voxel;"
    if min(image.zooms_mm) < 0:
        return f"pixdim has negative sizes of voxels, {_times(image.zooms_mm)} mm;"
    if not np.allclose(sides, others, rtol=1e-3, atol=0):
        return f"voxels of {_times(sides)} mm by sform, {_times(image.zooms_mm)} mm by pixdim;"
    return "qform and sform differ;"


def _times(sides: Iterable[float]) -> str:
    return "x".join(f"{side:g}" for side in sides)


def from_itk(
    spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> tuple[tuple[float, float, float], Affine]:
    """Spacing D H W and 4x4 from index (d, h, w, 1) to mm, from what SimpleITK says in x y z."""
    rank = round(len(direction) ** 0.5)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (rank, rank))[:3, :3] * np.asarray(spacing)
    affine[:3, 3] = origin
    x, y, z = (abs(float(side)) for side in spacing)
    return (z, y, x), affine @ REVERSE


def read_by_itk(file: Path, sha256: bytes) -> Channel:
    """A file of any format but NIfTI, through SimpleITK."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(itk_name(file))
    try:
        reader.ReadImageInformation()
        sides = reader.GetSize()
        text = "x".join(map(str, sides))
        components = reader.GetNumberOfComponents()
        if components != 1:
            raise Refused(
                "colour", f"{file} has {components} numbers per voxel (RGB, complex or vector); one is needed."
            )
        if len(sides) != 3:
            raise Refused(
                "four_dimensional",
                f"{file} has {len(sides)} dimensions ({text}); a file must hold one 3D volume. Split it.",
            )
        if min(sides) < 2:
            raise Refused("single_slice", f"{file} is a single slice ({text} voxels); 3D volumes are needed.")
        stored = SimpleITK.GetArrayFromImage(reader.Execute())
        check_precision(file, stored)
        with np.errstate(over="ignore"):  # infinite voxels are refused by name
            voxels = stored.astype(np.float32)
    except RuntimeError as error:
        raise Refused(
            "unreadable", f"SimpleITK cannot read {file} ({last_line(error)}). Copy or convert it again."
        ) from error
    spacing, to_world = from_itk(reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    return Channel(voxels, spacing, to_world, sha256)


def _by_nnunet(file: Path, reader: str, sha256: bytes) -> Channel:
    """Through nnU-Net's reader class, for the formats and reorientations that we do not read ourselves."""
    from nnssl.nnunet import read_images

    try:
        data, properties = read_images(reader, [file])
    except Exception as error:  # readers raise whatever their library raises; all of it means an unreadable file
        raise Refused("unreadable", f"nnU-Net's reader {reader} cannot read {file} ({last_line(error)}).") from error
    if data.ndim != 4 or data.shape[0] != 1 or min(data.shape) < 1 or min(data.shape[1:]) < 2:
        raise Refused("four_dimensional", f"{file} must hold one 3D volume; {reader} gave shape {tuple(data.shape)}.")
    d, h, w = (float(side) for side in properties["spacing"])
    return Channel(np.ascontiguousarray(data[0], np.float32), (d, h, w), _affine_of(properties), sha256)


def _affine_of(properties: dict[str, Any]) -> Affine:
    if "sitk_stuff" in properties:
        geometry = properties["sitk_stuff"]
        return from_itk(geometry["spacing"], geometry["origin"], geometry["direction"])[1]
    if "nibabel_stuff" in properties:
        geometry = properties["nibabel_stuff"]
        ras = geometry.get("reoriented_affine", geometry["original_affine"])
        return LPS_FROM_RAS @ np.asarray(ras, np.float64) @ REVERSE
    return np.diag([*(float(side) for side in properties["spacing"]), 1.0])


def check_finite(file: Path, voxels: npt.NDArray[np.float32]) -> None:
    """Refuse NaN, infinite and constant voxels."""
    low, high = float(voxels.min()), float(voxels.max())  # both are NaN if any voxel is
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(voxels)).sum())
        raise Refused(
            "not_finite",
            f"{file} has {bad} voxels that are NaN or infinite (of {voxels.size}). Replace them with the value of air.",
        )
    if low == high:
        raise Refused(
            "constant", f"{file} is constant: every voxel is {low:g}. Remove it, there is nothing to learn from it."
        )


def check_same_geometry(first_file: Path, first: Channel, file: Path, other: Channel) -> None:
    """Refuse channels of other sizes or places."""
    if first.voxels.shape != other.voxels.shape:
        raise Refused(
            "channels_differ",
            f"The channels of a case must have one size: {first_file} has {_sides(first)} voxels (D x H x W), "
            f"{file} has {_sides(other)}. Resample one onto the other.",
        )
    ends = np.array([0, 1])[:, None] * (np.array(first.voxels.shape) - 1)
    corners = np.stack(np.meshgrid(*ends.T, [1.0], indexing="ij"), -1).reshape(-1, 4)
    apart_mm = float(np.linalg.norm(corners @ (first.to_world - other.to_world).T, axis=1).max())
    if apart_mm > _GEOMETRY_TOLERANCE * min(first.spacing_mm):
        raise Refused(
            "channels_differ",
            f"The channels of a case must lie in one place: {file} is up to {apart_mm:.2f} mm away from {first_file} "
            f"(spacing, origin or direction differ). Resample one onto the other.",
        )


def _sides(channel: Channel) -> str:
    return "x".join(map(str, channel.voxels.shape))


def last_line(error: Exception) -> str:
    """What a library says, without the lines that say where in its sources."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
