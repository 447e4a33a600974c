"""Volumes in folders: loose files, a folder a patient (and a folder a time point), images beside labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nnssl.ingest.names import by_channel, label_by_name, shown, stem
from nnssl.ingest.scan import Part, Scan

_NOBODY = frozenset(
    {
        "data",
        "dataset",
        "raw",
        "images",
        "image",
        "img",
        "scans",
        "nifti",
        "nii",
        "volumes",
        "patients",
        "subjects",
        "anat",
    }
    | {
        "train",
        "training",
        "val",
        "validation",
        "test",
        "testing",
        "ct",
        "mr",
        "mri",
        "pet",
        "t1",
        "t1w",
        "t2",
        "flair",
    }
)


def volumes(files: Sequence[Path], root: Path) -> list[Scan]:
    """Scans of files that no other layout claims.

    Folders above a file say whose it is: the first one is the subject, the second the session; folders called like no
    patient ("data", "CT") say nothing. A folder in which all files are called CASE_0000 and so on holds cases with
    channels.

    Args:
        files: volumes, anywhere below `root`.
        root: the source.
    """
    folders: dict[Path, list[Path]] = {}
    for file in sorted(files):
        folders.setdefault(file.parent, []).append(file)
    scans = []
    for folder, inside in sorted(folders.items()):
        count = Counter(stem(file) for file in inside)
        # a.nii.gz beside a.nrrd: the whole name tells them apart
        named = {stem(file) if count[stem(file)] == 1 else file.name: [file] for file in inside}
        cases = by_channel(inside) or named
        scans += [_scan(name, channels, folder.relative_to(root).parts, root) for name, channels in cases.items()]
    return scans


def images_of_task(folder: Path, files: Sequence[Path], root: Path) -> list[Scan]:
    """Scans of a folder of images beside a folder of labels: every case is a subject of its own.

    Args:
        folder: imagesTr or the like.
        files: what it holds.
        root: the source.
    """
    cases = by_channel(sorted(files)) or {file.relative_to(folder).as_posix(): [file] for file in sorted(files)}
    return [_scan(stem(Path(name)), channels, (), root, by_name=False) for name, channels in cases.items()]


def _scan(name: str, channels: Sequence[Path], above: tuple[str, ...], root: Path, *, by_name: bool = True) -> Scan:
    who = [each for each in above if each.lower() not in _NOBODY]
    return Scan(
        parts=tuple(Part(files=(file,)) for file in channels),
        shown=", ".join(shown(file, root) for file in channels),
        name="_".join([*above, name]),
        subject=who[0] if who else name,
        session=who[1] if len(who) > 1 else "",
        refused=label_by_name(channels[0]) if by_name else None,
    )
