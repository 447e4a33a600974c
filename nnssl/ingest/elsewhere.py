"""The same voxels in another data set of nnUNet_raw: fine for pretraining on it, leakage if it is evaluated on."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest.describe import content_hash
from nnssl.ingest.ledger import FILE, FOLDER, Ledger
from nnssl.ingest.records import Records
from nnssl.planning.nifti import read_nifti

_NAME = "elsewhere"  # of the suspicion


def note_leakage(raw: Path, own: str, ledger: Ledger, *, hidden: bool = False) -> None:
    """Say of the cases whose voxels another data set has now, too, as the suspicion "elsewhere"; forget what was said.

    Data sets that were ingested are compared by their ledgers; of others images of the same size are read, once.

    Args:
        raw: nnU-Net's raw folder.
        own: this data set's name.
        ledger: of this data set.
        hidden: the other data set's cases are counted and not named: they may be called like patients.
    """
    for key, record in ledger.taken():
        if record.suspicions.pop(_NAME, None):
            ledger.put(key, record)
    others = [folder for folder in sorted(raw.glob("Dataset*")) if folder.name != own and folder.is_dir()]
    if not others or not ledger.voxels.note(ledger.taken()):
        return
    for folder in others:
        counts = Counter[str]()
        for content, case in _contents(folder, ledger):
            for key in ledger.voxels.keys(content):
                mine = ledger.get(key)
                if mine is not None and (_NAME not in mine.suspicions or (hidden and key in counts)):
                    counts[key] += 1
                    where = f"{counts[key]} of its cases" if hidden else case
                    mine.suspicions[_NAME] = f"{folder.name} has the same voxels in {where}"
                    ledger.put(key, mine)


def _contents(folder: Path, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(hash, case) of what another data set holds."""
    file = folder / FOLDER / FILE
    if file.is_file():
        with suppress(sqlite3.DatabaseError):  # damaged, or another ingest is writing it: its images are looked at
            for record in Records(file, status="taken"):
                yield from ((content, record.case) for content in record.content.split(","))
            return
    for image in sorted(folder.glob("images*/*.nii.gz")):
        content = _content(image, ledger)
        if content:
            yield content, image.name


def _content(image: Path, ledger: Ledger) -> str:
    """The hash of an image's voxels; empty where no case has its size, or where it cannot be read."""
    try:
        stat = image.stat()
        known = ledger.pseudonyms.digest("image", str(image.resolve()), f"{stat.st_size}:{stat.st_mtime_ns}")[:32]
        content = ledger.voxels.of_other(known)
        if content is None and ledger.voxels.has_shape(_shape(image)):
            content = content_hash(read_nifti(image).voxels)
            ledger.voxels.note_other(known, content)
    except OSError:
        return ""
    except DataError:  # another data set's bad file is for its own planning to tell
        ledger.voxels.note_other(known, "")
        return ""
    return content or ""


def _shape(file: Path) -> tuple[int, ...]:
    """D, H, W by the header alone; empty where it cannot be read."""
    import nibabel

    try:
        return tuple(int(side) for side in nibabel.load(file).shape[::-1])  # type: ignore[attr-defined]
    except Exception:  # nibabel raises whatever a damaged header leads to
        return ()
