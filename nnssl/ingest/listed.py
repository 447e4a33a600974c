"""Paths that stand in a JSON or CSV: texts of strangers until they have been looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nnssl.ingest.names import ending, shown
from nnssl.ingest.scan import Scan, refused

_WIDE = "the list names the folder {!r}, which holds the list itself or half the machine; name the folder of one series"
_TOP = 2  # "/data" has two parts


def listed_file(path: Any, folder: Path, root: Path, *, folders_too: bool = False) -> Path | Scan:
    """The file that a list names, or a refused scan that says why not.

    Args:
        path: what the list says; relative to `folder` where it is not absolute.
        folder: where the list lies; a relative path must not lead out of it.
        root: the source, for showing the file.
        folders_too: whether it may be a folder.
    """
    text = str(path)
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        return refused(text[:80], "bad_list", f"a path is needed, the list has {text[:80]!r}")
    file = Path(path.strip())
    if not file.is_absolute():
        inside = os.path.normpath(folder / file)
        if not Path(inside).is_relative_to(os.path.normpath(folder)):
            return refused(text, "outside_source", f"the list names {text!r}, which leads out of its folder")
        file = Path(inside)
    try:
        if folders_too and file.is_dir():
            return file if _is_narrow(file, folder) else refused(text, "outside_source", _WIDE.format(text))
        there = file.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        return refused(shown(file, root), "missing_file", f"the list names {shown(file, root)}, which is not there")
    if not ending(file):
        return refused(shown(file, root), "unknown_format", f"no reader knows files like {file.name}")
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
