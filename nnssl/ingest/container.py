"""NRRD, MetaImage and HDF5 before ITK opens them: where their voxels lie, how many they claim, whether they are whole.

ITK follows a header's file name anywhere, allocates whatever size is claimed, and looks at no gzip checksum of a NRRD.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Collection
from pathlib import Path

from nnssl.ingest.meta_header import meta_fields
from nnssl.ingest.names import ending
from nnssl.planning.nifti import content_blocks
from nnssl.planning.reading import itk_name, last_line
from nnssl.planning.refusal import Refused

_HEADER_BYTES = 1 << 20  # text headers are shorter by far
_BLOCK = 1 << 20
_EXPANDS = 1100  # deflate cannot make more than 1032 bytes of one
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_ENDINGS = (".h5", ".hdf5", ".hdf")
Notes = tuple[str, ...]
_SIDES_AT_MOST = 1 << 20


def check_container(file: Path, accepted: Collection[str] = ()) -> Notes:
    """Refuse what must not reach ITK.

    Args:
        file: of one of the formats.
        accepted: names of reasons.

    Returns:
        What is assumed about it.

    Raises:
        Refused: damaged, truncated, with voxels in a file elsewhere, or of unknown voxel size.
    """
    kind = ending(file)
    with file.open("rb") as stream:
        start = stream.read(_HEADER_BYTES)
    if kind in _HDF5_ENDINGS:
        if not start.startswith(_HDF5):
            raise Refused("unreadable", f"{file} is not an HDF5 file.")
        voxel_files = [file]
    elif kind in (".nrrd", ".nhdr"):
        voxel_files = _nrrd(file, start)
    else:
        voxel_files = _meta(file, start)
    _check_claim(file, sum(each.stat().st_size for each in voxel_files))
    return () if kind in _HDF5_ENDINGS else _placed(file, kind, start, accepted)


def _placed(file: Path, kind: str, start: bytes, accepted: Collection[str]) -> Notes:
    """ITK takes voxels of 1 mm where the header says nothing."""
    nrrd = kind in (".nrrd", ".nhdr")
    name = rb"space directions\s*:\s*(.+)" if nrrd else rb"Element(?:Spacing|Size)\s*=\s*(.+)"
    if _field(start.split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0] if nrrd else start, name):
        return ()
    if "no_orientation" not in accepted:
        what = "space directions" if nrrd else "ElementSpacing"
        raise Refused("no_orientation", f"{file} does not say how large its voxels are and how it lies ({what}).")
    return ("its header did not say how it lies; what SimpleITK assumes was taken",)


def _nrrd(file: Path, start: bytes) -> list[Path]:
    if not start.startswith(b"NRRD"):
        raise Refused("damaged", f"{file} is not a NRRD file. Is the name right?")
    match = re.search(rb"\r?\n\r?\n", start)
    header = start[: match.start()] if match else start
    encoding = _field(header, rb"encoding\s*:\s*(\S+)").lower()
    named = _field(header, rb"data ?file\s*:\s*(.+)")
    if named:
        files = [_beside(file, named)]
        offset = 0
    else:
        if match is None:
            raise Refused("truncated", f"{file} ends in its header. Copy it again.")
        files, offset = [file], match.end()
    if encoding in ("gzip", "gz"):
        for _ in content_blocks(files[0], hashlib.sha256(), offset=offset):  # checksum and length
            continue
    return files


def _meta(file: Path, start: bytes) -> list[Path]:
    header = meta_fields(file, start)
    named = header.fields["elementdatafile"]
    voxels, offset = (file, header.size) if named.upper() == "LOCAL" else (_beside(file, named), 0)
    if header.fields.get("compresseddata", "").lower() in ("true", "1"):
        _check_zlib(voxels, offset, header.voxel_bytes)
    return [voxels]


def _check_zlib(file: Path, offset: int, needed: int) -> None:
    """ITK looks at neither checksum nor length, and fills what is missing with what was in memory."""
    member, found = zlib.decompressobj(wbits=47), 0  # zlib's own header or gzip's
    with file.open("rb") as stream:
        stream.seek(offset)
        try:
            while not member.eof and (block := stream.read(_BLOCK)):
                found += len(member.decompress(block))
        except zlib.error as error:
            raise Refused(
                "damaged", f"{file} is damaged: its compressed data fail the check ({error}). Copy it again."
            ) from error
    if not member.eof or found < needed:
        raise Refused(
            "truncated", f"{file} is truncated: its header needs {needed} bytes of voxels, it has {found}. Copy it."
        )


def _field(header: bytes, pattern: bytes) -> str:
    match = re.search(rb"(?:^|\n)\s*" + pattern, header, re.IGNORECASE)
    return match[1].decode("utf-8", "replace").strip() if match else ""


def _beside(file: Path, named: str) -> Path:
    """The file with the voxels, which must lie in the header's own folder."""
    if named.upper().startswith("LIST") or "%" in named or "*" in named:
        raise Refused("unreadable", f"{file} keeps its voxels in several files. Convert it to one .nii.gz first.")
    path = Path(named)
    if path.name != named or "\0" in named:
        raise Refused("unreadable", f"{file} says that its voxels are in {named!r}, which is not beside it.")
    if not (file.parent / named).is_file():
        raise Refused("missing_file", f"{file} says that its voxels are in {named!r}, which is not there.")
    return file.parent / named


def _check_claim(file: Path, stored: int) -> None:
    """Refuse headers that claim more voxels than the stored bytes can hold, before memory is taken for them."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(itk_name(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise Refused("unreadable", f"SimpleITK cannot read the header of {file} ({last_line(error)}).") from error
    claimed = reader.GetNumberOfComponents()
    for side in reader.GetSize():
        claimed *= side
    if claimed > stored * _EXPANDS or max(reader.GetSize()) > _SIDES_AT_MOST:
        sides = "x".join(map(str, reader.GetSize()))
        raise Refused("damaged", f"The header of {file} claims {sides} voxels, which {stored} bytes cannot hold.")
