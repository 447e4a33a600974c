"""Torch files are zip archives; what is looked at in one before torch opens it. Imports nothing heavy."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from nnssl.errors import NnsslError

# What zipfile raises on archives that are cut off or spoilt
FAULTS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, zlib.error)
_MOST_GROWTH = 2  # torch does not compress
_FOLDER = 0x10  # of the attributes of a member: torch takes one with it for empty and leaves its tensor as memory was


def damaged_member(path: Path, *, refusal: type[NnsslError]) -> str | None:
    """The first member of a torch file that is marked as a folder or whose checksum is wrong; None where all are right.

    Every byte is read, but of a file that would grow nothing is.

    Args:
        path: the file.
        refusal: the error that is raised where the file would unpack to far more than its size.

    Raises:
        NnsslError: a `refusal`.
        FAULTS: it is no whole zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _MOST_GROWTH * path.stat().st_size:
            raise refusal(f"{path} would unpack to far more than its size, as no torch file does. Delete it.")
        folders = (each.filename for each in members if each.filename.endswith("/") or each.external_attr & _FOLDER)
        return next(folders, None) or archive.testzip()
