"""Volumes in folders: loose files, a folder a patient (and a folder a time point), images beside labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nnssl.ingest.names import are_channels, by_channel, ending, label_by_name, shown, stem
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


def volumes(folder: Path, names: Sequence[str], root: Path) -> Iterator[Scan]:
    """Scans of the files of one folder that no other layout claims.

    Folders above a file say whose it is: the first one is the subject, the second the session; folders called like no
    patient ("data", "CT") say nothing. A folder in which all files are called CASE_0000 and so on holds cases with
    channels; where there are several, each is a subject, as in nnU-Net's folders.

    Args:
        folder: below `root`, or `root` itself.
        names: of the volumes in it.
        root: the source.
    """
    above = folder.relative_to(root).parts
    several = are_channels(names) and len({name[: -len("0000") - len(ending(Path(name)))] for name in names}) > 1
    for name, channels in _cases(names):
        scan = _scan(name, [folder / each for each in channels], above, root)
        yield replace(scan, subject=scan.name, session="") if several else scan


def images_of_task(folder: Path, names: Sequence[str], root: Path) -> Iterator[Scan]:
    """Scans of a folder of images beside a folder of labels: every case is a subject of its own.

    Args:
        folder: imagesTr or the like.
        names: of the volumes in it.
        root: the source.
    """
    for name, channels in _cases(names):
        yield _scan(name, [folder / each for each in channels], (), root, by_name=False)


def _cases(names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(name, files by channel); only names are held, a folder may have very many."""
    ordered = sorted(names)
    if are_channels(ordered):
        yield from by_channel(ordered)
        return
    count = Counter(hash(stem(Path(name))) for name in ordered)
    for name in ordered:
        # a.nii.gz beside a.nrrd: the whole name tells them apart
        short = stem(Path(name))
        yield (short if count[hash(short)] == 1 else name), [name]


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
