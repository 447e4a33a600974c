"""Volumes in folders: loose files, a folder a patient (and a folder a time point), images beside labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nnssl.ingest.names import are_channels, by_channel, ending, label_by_name, shown, stem
from nnssl.ingest.people import is_nobody, is_time
from nnssl.ingest.scan import Part, Scan


def volumes(folder: Path, names: Sequence[str], root: Path, *, who: int | None = None) -> Iterator[Scan]:
    """Scans of the files of one folder that no other layout claims.

    Below a patient's folder its name, with those above it, is the subject, and the next one below it the session;
    folders called like no patient ("data", "CT") say nothing. Elsewhere every file is a subject. A folder in which all
    files are called CASE_0000 and so on holds cases with channels; where there are several, each is a subject, as in
    nnU-Net's folders.

    Args:
        folder: below `root`, or `root` itself.
        names: of the volumes in it.
        root: the source.
        who: how many folders below `root` the patient's lies; None where there is none above the files.
    """
    above = folder.relative_to(root).parts
    several = are_channels(names) and len({name[: -len("0000") - len(ending(Path(name)))] for name in names}) > 1
    for name, channels in _cases(names):
        scan = _scan(name, [folder / each for each in channels], above, root)
        if several:
            yield replace(scan, session="", by=f"names of files in {_place(above, root)}")
        elif who is None:
            yield replace(scan, by=f"names of files in {_place(above, root)}", session="")
        else:
            yield _of_patient(scan, above, who, root)


def _of_patient(scan: Scan, above: tuple[str, ...], who: int, root: Path) -> Scan:
    owner = [each for each in above[: who - 1] if not is_nobody(each) and not is_time(each)]
    sessions = [each for each in above[who:] if not is_nobody(each)]
    sessions += [each for each in above[: who - 1] if is_time(each)]
    return replace(
        scan,
        subject="_".join([*owner, above[who - 1]]),
        session=sessions[0] if sessions else "",
        by=f"names of folders in {_place(above[: who - 1], root)}",
    )


def _place(parts: tuple[str, ...], root: Path) -> str:
    return "/".join(parts) or root.resolve().name or "/"


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
    """A scan that is a subject of its own."""
    owner = [each for each in above if not is_nobody(each)]
    return Scan(
        parts=tuple(Part(files=(file,)) for file in channels),
        shown=", ".join(shown(file, root) for file in channels),
        name="_".join([*above, name]),
        subject="_".join([*owner, name]),
        refused=label_by_name(channels[0]) if by_name else None,
    )
