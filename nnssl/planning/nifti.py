"""NIfTI files, read through and checked: what SimpleITK lets pass in silence is an error here.

SimpleITK reads a truncated .nii.gz without an error and fills the rest with 0, turns NaN into 0 and does not look at
the gzip checksum. So the bytes are decompressed here, once, checked and hashed on the way, and turned into voxels.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.planning.precision import check_precision
from nnssl.planning.refusal import Refused

_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 20
_HEADER_BYTES = 540  # of NIfTI-2, the longer one
# qform and sform round differently, and an alignment to an atlas turns a head a little: below 45 degrees each axis
# still points to the same side; a mirrored axis points 180 degrees elsewhere, one taken for another 90
_SAME_SIDE = 0.5**0.5
_SHEAR = 1e-3  # cosine between axes that rounding of float32 headers cannot explain


@dataclass(frozen=True, kw_only=True)
class NiftiImage:
    """One channel as stored.

    Attributes:
        voxels: (D, H, W) float32, slope and intercept applied; D is NIfTI's third axis.
        affine: 4x4 from NIfTI index (i, j, k) to mm in RAS.
        zooms_mm: voxel size of i, j, k.
        version: 1 or 2.
        sha256: of the decompressed file.
    """

    voxels: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    zooms_mm: tuple[float, float, float]
    version: int
    sha256: bytes


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path) -> NiftiImage:
    """Read and check one file.

    Raises:
        Refused: truncated, damaged, not NIfTI, not one 3D scalar volume, or without a usable orientation.
    """
    digest = hashlib.sha256()
    blocks = content_blocks(path, digest)
    start = b""
    for block in blocks:
        start += block
        if len(start) >= _HEADER_BYTES:
            break
    header = _header(path, start)
    shape = _volume_shape(path, header)
    affine = _checked_affine(path, header)
    stored = _voxel_bytes(path, header, shape, start, blocks)
    zooms = header.get_zooms()
    return NiftiImage(
        voxels=_scaled(path, stored, header),
        affine=affine,
        zooms_mm=(float(zooms[0]), float(zooms[1]), float(zooms[2])),
        version=1 if header["sizeof_hdr"] == 348 else 2,
        sha256=digest.digest(),
    )


def content_blocks(path: Path, digest: Any, *, offset: int = 0) -> Iterator[bytes]:
    """The file's bytes after decompression, block by block; the gzip checksum is checked at the end.

    Args:
        path: a file, compressed by gzip or not.
        digest: of hashlib; takes in what is read.
        offset: where to begin.

    Raises:
        Refused: truncated or damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(_BLOCK)
        if not block.startswith(_GZIP):
            while block:
                digest.update(block)
                yield block
                block = file.read(_BLOCK)
            return
        member = zlib.decompressobj(wbits=31)
        while block:
            try:
                content = member.decompress(block)
            except zlib.error as error:
                raise Refused(
                    "damaged", f"{path} is damaged: its compressed data fail the check ({error}). Copy it again."
                ) from error
            digest.update(content)
            yield content
            if not member.eof:
                block = file.read(_BLOCK)
                continue
            block = member.unused_data
            if len(block) < len(_GZIP):  # the member ended where the block did
                block += file.read(_BLOCK)
            if not block.startswith(_GZIP):
                if block.strip(b"\0"):  # some programs fill up with zeros; anything else was not meant to be there
                    raise Refused("damaged", f"{path} is damaged: something follows its compressed data. Copy it.")
                break
            member = zlib.decompressobj(wbits=31)  # a file may consist of several gzip members
        if not member.eof:
            raise Refused("truncated", f"{path} is truncated: its compressed data end early. Copy it again.")


def _header(path: Path, start: bytes) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    size = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    kinds = {348: Nifti1Header, 540: Nifti2Header}
    kind = next((kinds[number] for number in kinds if number in size), None)
    if kind is None or len(start) < kind.template_dtype.itemsize:
        raise Refused(
            "damaged", f"{path} is not a NIfTI file: it does not begin with a NIfTI header. Is the name right?"
        )
    try:
        header = kind(start[: kind.template_dtype.itemsize], check=False)  # type: ignore[no-untyped-call]
    except (HeaderDataError, WrapStructError, ValueError) as error:
        raise _damaged(path, error) from error
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):  # ITK would take it for the older Analyze, and turn it
        raise _damaged(path, "it does not say that it is NIfTI with voxels in the same file")
    return header


def _asked(path: Path, question: Callable[[], Any]) -> Any:
    """What nibabel makes of some fields, which it refuses to make of impossible ones."""
    from nibabel.spatialimages import HeaderDataError

    try:
        return question()
    except (HeaderDataError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> Refused:
    return Refused("damaged", f"The header of {path} is damaged ({why}). Copy or convert the file again.")


def _volume_shape(path: Path, header: Any) -> tuple[int, int, int]:
    """i, j, k of a file that holds one scalar 3D volume."""
    code = int(header["datatype"])
    kind = {32: "complex", 1792: "complex", 2048: "complex", 128: "an RGB", 2304: "an RGBA"}.get(code)
    if kind is not None:
        article = "a complex" if kind == "complex" else kind
        raise Refused(
            "complex_values" if kind == "complex" else "colour",
            f"{path} is {article} image; one number per voxel is needed. Convert it to a scalar image first.",
        )
    sides = _asked(path, lambda: [int(side) for side in header.get_data_shape()])
    _asked(path, header.get_data_dtype)
    text = "x".join(map(str, sides))
    if min(sides, default=1) < 1:
        raise _damaged(path, f"its dimensions are {text}")
    if len(sides) > 3 and max(sides[3:]) > 1:
        raise Refused(
            "four_dimensional",
            f"{path} has {len(sides)} dimensions ({text}); a file must hold one 3D volume. Split it: time points into "
            f"cases, channels into files CASE_0000, CASE_0001, ...",
        )
    sides = sides[:3]
    if len(sides) < 3 or min(sides) < 2:
        raise Refused(
            "single_slice",
            f"{path} is a single slice ({text} voxels); 3D volumes are needed. Remove it from the data set.",
        )
    return sides[0], sides[1], sides[2]


def _checked_affine(path: Path, header: Any) -> npt.NDArray[np.float64]:
    if int(header["qform_code"]) <= 0 and int(header["sform_code"]) <= 0:
        raise Refused(
            "no_orientation",
            f"{path} does not say how it lies in space (qform and sform codes are 0). Convert it again from its "
            f"source, or set the codes if you know the orientation.",
        )
    affine = np.asarray(_asked(path, header.get_best_affine), np.float64)
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    sides = np.array([*lengths, *np.abs(header.get_zooms()[:3])])
    if not (np.isfinite(affine).all() and np.isfinite(sides).all() and sides.min() > 0):
        raise Refused(
            "damaged",
            f"{path} has an orientation matrix with a voxel size of 0 or NaN. Convert it again from its source.",
        )
    cosines = np.abs(axes.T @ axes / np.outer(lengths, lengths) - np.eye(3))
    if cosines.max() > _SHEAR:
        degrees = np.degrees(np.arcsin(min(1.0, float(cosines.max()))))
        raise Refused(
            "sheared",
            f"{path} has a sheared orientation matrix (axes up to {degrees:.1f} degrees from a right angle, as with CT "
            f"gantry tilt). Resample it to a rectangular grid first.",
        )
    _check_sides(path, header)
    return affine


def _check_sides(path: Path, header: Any) -> None:
    """Refuse a header whose qform and sform, both valid, let an axis point to two sides of the patient."""
    from nibabel.spatialimages import HeaderDataError

    if int(header["qform_code"]) <= 0 or int(header["sform_code"]) <= 0:
        return
    try:
        directions = [np.asarray(each, np.float64)[:3, :3] for each in (header.get_qform(), header.get_sform())]
    except (
        HeaderDataError,
        ValueError,
        ArithmeticError,
    ):  # a quaternion that is none says nothing
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        q, s = (each / np.linalg.norm(each, axis=0) for each in directions)
    cosines = (q * s).sum(0)
    if np.isfinite(cosines).all() and cosines.min() < _SAME_SIDE:
        axis = int(cosines.argmin())
        degrees = np.degrees(np.arccos(np.clip(cosines[axis], -1, 1)))
        how = "mirrored" if np.linalg.det(q) * np.linalg.det(s) < 0 else "turned"
        raise Refused(
            "orientation_conflict",
            f"{path} says two things about how it lies: qform and sform are both valid, and one is {how} against the "
            f"other (axis {'ijk'[axis]} points {degrees:.0f} degrees elsewhere). Correct its header, or let "
            f"nnssl_ingest --accept orientation_conflict write it anew as nibabel reads it.",
        )


def _voxel_bytes(
    path: Path, header: Any, shape: tuple[int, int, int], start: bytes, blocks: Iterator[bytes]
) -> npt.NDArray[Any]:
    """(D, H, W) in the stored dtype; reads `blocks` to their end, so that the checksum is checked."""
    dtype = header.get_data_dtype()
    if not np.isfinite(header["vox_offset"]):
        raise Refused(
            "damaged", f"The header of {path} is damaged (vox_offset is no number). Copy or convert the file again."
        )
    offset = max(int(header["vox_offset"]), header.template_dtype.itemsize)
    size = shape[0] * shape[1] * shape[2] * dtype.itemsize
    try:
        buffer = np.empty(size, np.uint8)
    except (MemoryError, ValueError) as error:
        raise Refused(
            "damaged", f"The header of {path} claims {size} bytes of voxels, more than memory holds."
        ) from error
    filled, position = 0, 0

    def take(block: bytes) -> None:
        """Copy the part of a block of the file that holds voxels and is still needed."""
        nonlocal filled, position
        fresh = memoryview(block)[max(0, offset - position) :][: size - filled]
        buffer[filled : filled + len(fresh)] = np.frombuffer(fresh, np.uint8)
        filled += len(fresh)
        position += len(block)

    take(start)
    for block in blocks:
        take(block)
    if filled < size:
        raise Refused(
            "truncated",
            f"{path} is truncated: its header needs {size} bytes of voxels, it has {filled}. Copy it again.",
        )
    voxels: npt.NDArray[Any] = buffer.view(dtype).reshape(shape[::-1])
    return voxels


def _scaled(path: Path, stored: npt.NDArray[Any], header: Any) -> npt.NDArray[np.float32]:
    if np.isinf(header["scl_slope"]) or np.isinf(header["scl_inter"]):  # NaN is how nibabel writes that there is none
        raise _damaged(path, "its values are to be multiplied by, or moved by, infinity")
    slope, intercept = _asked(path, header.get_slope_inter)
    # no warning for float64 values that float32 cannot hold: they become inf, which the caller refuses
    with np.errstate(over="ignore"):
        if slope is None or (slope == 1 and not intercept):
            check_precision(path, stored)
            return stored.astype(np.float32)
        voxels = np.empty(stored.shape, np.float32)
        for plane, raw in zip(voxels, stored, strict=True):
            plane[...] = raw * np.float64(slope) + np.float64(intercept or 0)
        ends = np.array([stored.min(), stored.max()]) * np.float64(slope) + np.float64(intercept or 0)
        check_precision(path, ends)
        return voxels
