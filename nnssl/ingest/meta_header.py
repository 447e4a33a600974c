"""Headers of MetaImage, checked word by word: ITK's own reader of them ends the process on some that are damaged."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from nnssl.planning.refusal import Refused

_END = re.compile(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*)", re.IGNORECASE)
# ITK splits at the first = or : and keeps keys that it does not know, as the dim[0] and 0008|0008 of its own converting
_LINE = re.compile(r"([^=:\s][^=:]*?)[ \t]*[=:][ \t]*(.*)")
_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4}
_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_DIMENSIONS = range(2, 5)
# keys that say where the voxels are and what they mean: of these, ITK takes the first, others the last
_ONCE = frozenset({"objecttype", "ndims", "dimsize", "elementtype", "elementdatafile", "binarydata", "compresseddata"})
_ONCE |= {"binarydatabyteordermsb", "elementbyteordermsb", "elementtointensityfunctionslope", "anatomicalorientation"}
_ONCE |= {"elementtointensityfunctionoffset"}
# how many numbers each line has, in units of NDims
_ONE_EACH = ("offset", "position", "origin", "elementspacing", "elementsize", "centerofrotation")
_SQUARE = ("transformmatrix", "rotation", "orientation")
_WHOLE = ("compresseddatasize", "headersize", "elementnumberofchannels", "id", "parentid")


_ONCE |= {*_ONE_EACH, *_SQUARE, *_WHOLE}


@dataclass(frozen=True)
class MetaHeader:
    """What a header says.

    Attributes:
        fields: {line's name in small letters: what it says}.
        size: bytes of the header.
        voxel_bytes: what the voxels take, at the least.
    """

    fields: dict[str, str]
    size: int
    voxel_bytes: int


def meta_fields(file: Path, start: bytes) -> MetaHeader:
    """The header, all of it possible.

    Args:
        file: for messages.
        start: of the file, longer than any header.

    Raises:
        Refused: a line that cannot be, or one that is not there.
    """
    end = _END.search(start)
    if end is None:
        raise _damaged(file, "it does not say where its voxels are")
    fields: dict[str, str] = {}
    for raw in start[: end.end()].splitlines():
        try:
            line = raw.decode("ascii").strip()
        except UnicodeDecodeError:
            # names of people need more than ASCII, and stand in lines that nobody uses
            line = raw.decode("latin-1").strip()
        match = _LINE.fullmatch(line)
        key = match[1].lower() if match is not None else ""
        if line and (not key.isprintable() or not key or "\0" in line or (key in fields and key in _ONCE)):
            raise _damaged(file, f"the line {line[:40]!r} of its header cannot be")
        if match is not None:
            fields[key] = match[2].strip()
    newline = start[end.end() : end.end() + 2]
    size = end.end() + (2 if newline == b"\r\n" else 1)
    return MetaHeader(fields, size, _checked(file, fields))


def _checked(file: Path, fields: dict[str, str]) -> int:
    """Bytes of the voxels, when every line can be."""
    dimensions = fields.get("ndims", "")
    if not dimensions.isdecimal() or int(dimensions) not in _DIMENSIONS:
        raise _damaged(file, f"NDims is {dimensions[:20]!r}")
    rank = int(dimensions)
    kind = fields.get("elementtype", "").upper().removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in _BYTES:
        raise _damaged(file, f"ElementType is {kind[:20]!r}")
    sides = fields.get("dimsize", "").split()
    if len(sides) != rank or not all(side.isdecimal() and 0 < int(side) < 2**31 for side in sides):
        raise _damaged(file, f"DimSize is {' '.join(sides)[:40]!r}")
    for name, text in fields.items():
        count = rank if name in _ONE_EACH else rank * rank if name in _SQUARE else 0
        if count and not _are_numbers(text, count):
            raise _damaged(file, f"{name} needs {count} numbers and is {text[:40]!r}")
        if name in _WHOLE and not re.fullmatch(r"-?\d{1,18}", text):
            raise _damaged(file, f"{name} is {text[:20]!r}")
    channels = max(1, int(fields.get("elementnumberofchannels", "1")))
    return math.prod(map(int, sides)) * channels * _BYTES[kind]


def _are_numbers(text: str, count: int) -> bool:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return False
    return len(numbers) == count and all(map(math.isfinite, numbers))


def _damaged(file: Path, why: str) -> Refused:
    return Refused("damaged", f"{file} is a damaged MetaImage: {why}. Copy or convert it again.")
