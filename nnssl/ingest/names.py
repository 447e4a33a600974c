"""Names of files and people as they may be written: nothing here ever becomes a path that leads elsewhere."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
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
    spread = unicodedata.normalize("NFKD", text)
    plain = re.sub(r"[^A-Za-z0-9]+", "-", spread.encode("ascii", "ignore").decode()).strip("-")
    if any(sign.isalnum() and not sign.isascii() for sign in spread):
        # letters that ASCII lacks: a digest keeps people apart of whose names nothing would be left
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return "-".join(filter(None, (plain[: _LONGEST - 9].strip("-"), digest)))
    return plain[:_LONGEST].strip("-")


def case_name(text: str) -> str:
    """A case's name: tokens joined by single underscores, never ending like a channel or like our raw values.

    The first channel's ending, which files of nnU-Net have, goes.

    Example:
        >>> case_name("sub-01_ses-1_T1w"), case_name("a/b/scan_0000"), case_name("scan_0012")
        ('sub-01_ses-1_T1w', 'a-b-scan', 'scan_0012-')
    """
    tokens = [each for word in text.split("_") if (each := token(word))]
    name = "_".join(tokens).removesuffix("_0000")[: 2 * _LONGEST].strip("_-") or "case"
    return f"{name}-" if _CHANNEL.fullmatch(name) or name.endswith("_raw") else name


def shown(file: Path, root: Path) -> str:
    """How reports call a file: its path below the source, never the path of the machine."""
    try:
        return file.relative_to(root).as_posix() if file != root else file.name
    except ValueError:
        return file.name


def _channel_of(name: str) -> tuple[str, int]:
    """("CASE", 1) of CASE_0001.nii.gz; ("", -1) for other names."""
    match = _CHANNEL.fullmatch(stem(Path(name)))
    return (match[1], int(match[2])) if match else ("", -1)


def are_channels(names: Sequence[str]) -> bool:
    """Whether files are called CASE_0000, CASE_0001 .. throughout, each case beginning with 0000, no name twice."""
    seen: set[int] = set()
    first = set()
    for name in names:
        case, channel = _channel_of(name)
        if channel < 0 or hash((case, channel)) in seen:
            return False
        seen.add(hash((case, channel)))
        if channel == 0:
            first.add(hash(case))
    return bool(first) and all(hash(_channel_of(name)[0]) in first for name in names)


def by_channel(names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(case, files by channel) of names for which `are_channels` is true."""
    ordered = sorted(names, key=lambda name: "{}\0{:04d}".format(*_channel_of(name)))
    for case, group in itertools.groupby(ordered, key=lambda name: _channel_of(name)[0]):
        yield case, list(group)


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
