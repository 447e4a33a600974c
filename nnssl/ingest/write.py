"""Cases into the data set's folder: a link where nnU-Net can use the file as it is, else a clean NIfTI of our own."""

from __future__ import annotations

import gzip
import itertools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.atomic import whole_file
from nnssl.ingest.read import Volume
from nnssl.planning.reading import LPS_FROM_RAS, REVERSE

ENDING = ".nii.gz"
_LEVEL = 3  # of gzip: half the time of the usual level 6 for 5 % more bytes
# What analysis programs leave in headers; anything else could be a person's name
_HARMLESS = re.compile(rb"|FSL[\d.]*.{0,40}|spm.{0,30}|SPM.{0,30}|\d[\d.]*|NIFTI.{0,20}|ITK.{0,20}|none", re.DOTALL)
_TEXTS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
_GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT = 4, 8, 16


def put_case(folder: Path, case: str, files: list[Path], volumes: list[Volume], *, copy: bool) -> bool:
    """Write or link the channels of a case; what an earlier run put there is replaced.

    Args:
        folder: imagesTr.
        case: its name.
        files: the source of each channel.
        volumes: the same, read.
        copy: never link.

    Returns:
        Whether all channels are links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_case(folder, case)
    linked = []
    for channel, (file, volume) in enumerate(zip(files, volumes, strict=True)):
        target = folder / f"{case}_{channel:04d}{ENDING}"
        linked.append(not copy and volume.as_it_is and is_anonymous(file) and _link(file, target))
        if not linked[-1]:
            write_nifti(target, volume)
    return all(linked)


def remove_case(folder: Path, case: str) -> None:
    """Take a case's files away; the sources of links are not touched."""
    for file in case_files(folder, case):
        file.unlink()


def case_files(folder: Path, case: str) -> list[Path]:
    """The files of a case, links that lead nowhere too; by number, as listing a folder of thousands takes long."""
    numbered = (folder / f"{case}_{channel:04d}{ENDING}" for channel in itertools.count())
    return list(itertools.takewhile(lambda file: file.is_symlink() or file.exists(), numbered))


def has_case(folder: Path, case: str, channels: int) -> bool:
    """Whether all files of a case are there, and links lead somewhere."""
    return all((folder / f"{case}_{channel:04d}{ENDING}").is_file() for channel in range(channels))


def is_anonymous(file: Path) -> bool:
    """Whether a .nii.gz says nothing in words but what programs say: in its header, in extensions, or in gzip's own.

    Args:
        file: NIfTI-1 that was read before, so its header is sound.
    """
    from nibabel.nifti1 import Nifti1Header

    size = Nifti1Header.template_dtype.itemsize
    with gzip.open(file) as stream:
        start = stream.read(size + 4)
    header: Any = Nifti1Header(start[:size], check=False)  # type: ignore[no-untyped-call]
    texts = [bytes(header[name].tobytes()).rstrip(b"\0 ") for name in _TEXTS]
    nothing_between = start[size : size + 1] in (b"", b"\0") and float(header["vox_offset"]) <= size + 4
    return nothing_between and all(_HARMLESS.fullmatch(text) for text in texts) and _gzip_is_silent(file)


def _gzip_is_silent(file: Path) -> bool:
    """gzip keeps the name that a file once had (RFC 1952, FNAME), a comment and extra bytes."""
    with file.open("rb") as stream:
        start = stream.read(10 + 256)
    flags, rest = start[3], start[10:]
    if flags & (_GZIP_EXTRA | _GZIP_COMMENT):
        return False
    name = rest.split(b"\0", 1)[0] if flags & _GZIP_NAME else b""
    return name in (b"", os.fsencode(file.name), os.fsencode(file.name.removesuffix(".gz")))


def write_nifti(target: Path, volume: Volume) -> None:
    """Voxels and place, and nothing else that the source's header said.

    Whole numbers are stored as the smallest integers that hold them all, others as float32.
    """
    import nibabel

    affine = LPS_FROM_RAS @ volume.to_world @ REVERSE
    voxels = _smallest(volume.voxels)
    image = nibabel.Nifti1Image(voxels.T, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    image.set_qform(affine, 1)  # type: ignore[no-untyped-call]
    image.set_sform(affine, 1)  # type: ignore[no-untyped-call]
    # no name and no time in gzip's own header: the same scan gives the same bytes
    with (
        whole_file(target) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=raw, mtime=0) as stream,
    ):
        image.to_stream(stream)


def _smallest(voxels: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    low, high = float(voxels.min()), float(voxels.max())
    if low < -(2.0**31) or high >= 2.0**31 or not all(np.array_equal(plane, np.rint(plane)) for plane in voxels):
        return voxels
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return voxels.astype(kind)
    return voxels


def _link(file: Path, target: Path) -> bool:
    try:
        target.symlink_to(file.resolve())
    except (OSError, NotImplementedError):  # Windows without the right, file systems without links: a copy it is
        return False
    return True
