"""Paths that stand in a JSON or CSV: texts of strangers until they have been looked at."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nnssl.ingest.dicom import is_dicom
from nnssl.ingest.names import ending, shown
from nnssl.ingest.scan import Scan, refused
from nnssl.ingest.splits import split_finding

_WIDE = "{} names it, a folder that holds the list itself or half the machine; name the folder of one series"
_SLICE = "a file of DICOM, which is a slice of a series; name the folder of the series, in a CSV"
_TOP = 2  # "/data" has two parts
_DEEPEST = 8  # folders of a path that are looked at, to tell it from others
RootOf = Callable[[Path], Path]


def root_of_paths(paths: Iterable[Any], folder: Path) -> RootOf:
    """Below which folder each path of a list is shown, so that what is shown tells them apart.

    Paths in the list's own folder are shown below it; others with as few of their last folders as tell all of them
    apart, never with all that lies above: those are of the machine.

    Args:
        paths: all paths of the list, as they stand there.
        folder: of the list.
    """
    ends = [array("q") for _ in range(_DEEPEST)]
    for path in paths:
        parts = Path(path.strip()).parts if isinstance(path, str) and path.strip().startswith(os.sep) else ()
        for depth, hashes in enumerate(ends, 1):
            hashes.append(hash(parts[-depth:]))
    counts = [len({*hashes}) for hashes in ends]
    depth = 1 + counts.index(max(counts))

    def root_of(file: Path) -> Path:
        """The folder below which a file is shown."""
        if file.is_relative_to(folder) and file != folder:
            return folder
        return Path(*file.parts[: -min(depth, max(1, len(file.parts) - 1))])

    return root_of


def listed_file(
    path: Any, folder: Path, root_of: RootOf, *, row: str = "the list", split: str = "", folders_too: bool = False
) -> Path | Scan:
    """The file that a list names, or a refused scan that says why not.

    Args:
        path: what the list says; relative to `folder` where it is not absolute.
        folder: where the list lies; a relative path must not lead out of it.
        root_of: below which folder a file is shown.
        row: where in the list it stands, in words.
        split: what the list has it for; what it holds out is not taken from elsewhere either.
        folders_too: whether it may be a folder.
    """
    text = str(path)
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        what = f"its path is {text[:80]!r}" if text.strip() else "it has no path"
        return refused(row, "bad_list", f"a path is needed, {what}", where=f"{folder} {row} {text}")
    file = Path(path.strip())
    inside = Path(os.path.normpath(folder / file))  # an absolute path leaves nothing of the folder
    where = {"where": str(inside), "split": split, "claims": (str(inside),) if split_finding(split) else ()}
    if not file.is_absolute() and not inside.is_relative_to(os.path.normpath(folder)):
        return refused(text, "outside_source", f"{row} names it, which leads out of the list's folder", **where)
    file = file if file.is_absolute() else inside
    name = shown(file, root_of(file))
    try:
        if folders_too and file.is_dir():
            return file if _is_narrow(file, folder) else refused(text, "outside_source", _WIDE.format(row), **where)
        there = file.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        return refused(name, "missing_file", f"{row} names it, but it is not there", **where)
    if not ending(file):
        why = _SLICE if is_dicom(file) else "but no reader knows files like it"
        return refused(name, "unknown_format", f"{row} names it, {why}", **where)
    return file


def _is_narrow(found: Path, folder: Path) -> bool:
    """Whether a folder can be that of one scan: walking "/" takes hours, and a list is in no series of its own."""
    inside = Path(os.path.normpath(found.absolute()))
    return len(inside.parts) > _TOP and not Path(os.path.normpath(folder.absolute())).is_relative_to(inside)


def expanded(path: Any) -> Any:
    """A path that may begin with $NAME, as the peer's lists do; the variable must be set."""
    if isinstance(path, str) and path.startswith("$"):
        name, _, rest = path[1:].partition("/")
        value = os.environ.get(name.strip("{}"))
        return f"{value}/{rest}" if value else path
    return path
