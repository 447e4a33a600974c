"""The same voxels in another data set of nnUNet_raw: fine for pretraining on it, leakage if it is evaluated on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest.describe import content_hash
from nnssl.ingest.ledger import FILE, FOLDER, Ledger
from nnssl.ingest.records import Records
from nnssl.planning.nifti import read_nifti


def note_leakage(raw: Path, own: str, ledger: Ledger) -> None:
    """Add the suspicion "elsewhere" to the cases of this run whose voxels another data set has too.

    Data sets that were ingested are compared by their ledgers; of others only images of the same size are read.

    Args:
        raw: nnU-Net's raw folder.
        own: this data set's name.
        ledger: of this data set.
    """
    others = [folder for folder in sorted(raw.glob("Dataset*")) if folder.name != own and folder.is_dir()]
    if not others or not ledger.note_voxels():
        return
    for folder in others:
        for content, case in _contents(folder, ledger):
            for key in ledger.same_voxels(content):
                record = ledger.get(key)
                if record is not None:
                    record.suspicions["elsewhere"] = f"{folder.name} has the same voxels in {case}"
                    ledger.put(key, record)


def _contents(folder: Path, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(hash, case) of what another data set holds."""
    file = folder / FOLDER / FILE
    if file.is_file():
        with suppress(sqlite3.DatabaseError):  # damaged, or another ingest is writing it: its images are looked at
            for record in Records(file, status="taken"):
                yield from ((content, record.case) for content in record.content.split(","))
            return
    for image in sorted(folder.glob("images*/*.nii.gz")):
        if ledger.has_shape(_shape(image)):
            try:
                yield content_hash(read_nifti(image).voxels), image.name
            except (DataError, OSError):  # another data set's bad file is for its own planning to tell
                continue


def _shape(file: Path) -> tuple[int, ...]:
    """D, H, W by the header alone; empty where it cannot be read."""
    import nibabel

    try:
        return tuple(int(side) for side in nibabel.load(file).shape[::-1])  # type: ignore[attr-defined]
    except Exception:  # nibabel raises whatever a damaged header leads to
        return ()
