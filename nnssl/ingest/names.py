"""Names of files and people as they may be written: nothing here ever becomes a path that leads elsewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from nnssl.planning.checks import Finding

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".h5", ".hdf5", ".hdf")
_LONGEST = 48
_CHANNEL = re.compile(r"(.+)_(\d{4})")
# the last word of a name that says it holds labels; further ahead it may say what the image goes with
_LABEL_WORDS = frozenset(
    {"seg", "segmentation", "label", "labels", "mask", "dseg", "probseg", "annotation", "gt", "groundtruth", "aseg"}
)
_LABEL_FOLDER = re.compile(
    r"(labels?|masks?|seg|segs|segmentations?|annotations?|gt|ground_?truth)(Tr|Ts|Val?)?", re.IGNORECASE
)
_IMAGE_FOLDER = re.compile(r"(images?|imgs?)(Tr|Ts|Un|Val?)?", re.IGNORECASE)


def ending(file: Path) -> str:
    """ ".nii.gz" and the like; empty for files that no reader knows."""
    name = file.name.lower()
    return next((each for each in ENDINGS if name.endswith(each) and len(name) > len(each)), "")


def stem(file: Path) -> str:
    """The name without its ending."""
    return file.name[: len(file.name) - len(ending(file))] if ending(file) else file.stem


def token(text: str) -> str:
    """Letters, digits and single hyphens: safe in a file's name on every system.

    Example:
        >>> token("../Müller, A. (2)")
        'Muller-A-2'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:_LONGEST].strip("-")


def case_name(text: str) -> str:
    """A case's name: tokens joined by single underscores, never ending like a channel or like our raw values.

    Example:
        >>> case_name("sub-01_ses-1_T1w"), case_name("a/b/scan_0000")
        ('sub-01_ses-1_T1w', 'a-b-scan_0000-')
    """
    tokens = [each for word in text.split("_") if (each := token(word))]
    name = "_".join(tokens)[: 2 * _LONGEST].strip("_-") or "case"
    return f"{name}-" if _CHANNEL.fullmatch(name) or name.endswith("_raw") else name


def shown(file: Path, root: Path) -> str:
    """How reports call a file: its path below the source, never the path of the machine."""
    try:
        return file.relative_to(root).as_posix() if file != root else file.name
    except ValueError:
        return file.name


def by_channel(files: Sequence[Path]) -> dict[str, list[Path]] | None:
    """{case: files by channel} if these are called CASE_0000, CASE_0001 .. throughout; else None."""
    found: dict[str, dict[int, Path]] = {}
    for file in files:
        match = _CHANNEL.fullmatch(stem(file))
        if match is None:
            return None
        found.setdefault(match[1], {})[int(match[2])] = file
    if not all(0 in channels for channels in found.values()):
        return None
    return {case: [channels[number] for number in sorted(channels)] for case, channels in found.items()}


def label_by_name(file: Path) -> Finding | None:
    """Whether a file's name says that it holds labels."""
    last = re.findall(r"[a-z]+", stem(file).lower())[-1:]
    return Finding("label_map", f"its name ends in {last[0]!r}") if _LABEL_WORDS.issuperset(last) and last else None


def is_label_folder(name: str) -> bool:
    """Whether a folder's name says that it holds labels."""
    return _LABEL_FOLDER.fullmatch(name) is not None


def is_image_folder(name: str) -> bool:
    """Whether a folder is called as image folders of tasks are."""
    return _IMAGE_FOLDER.fullmatch(name) is not None
