"""The same voxels in another data set of nnUNet_raw: fine for pretraining on it, leakage if it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest.describe import content_hash
from nnssl.ingest.ledger import FILE, FOLDER, Record, open_ledger
from nnssl.planning.nifti import read_nifti


def note_leakage(raw: Path, own: str, records: Sequence[Record]) -> None:
    """Add the suspicion "elsewhere" to records whose voxels another data set has too.

    Data sets that were ingested are compared by their ledgers; of others only images of the same size are read.

    Args:
        raw: nnU-Net's raw folder.
        own: this data set's name.
        records: the new ones.
    """
    wanted: dict[str, list[Record]] = {}
    shapes = set()
    for record in records:
        shapes |= {tuple(channel["shape"]) for channel in record.channels}
        for content in record.content.split(","):
            wanted.setdefault(content, []).append(record)
    if not wanted or not raw.is_dir():
        return
    for folder in sorted(raw.glob("Dataset*")):
        if folder.name == own or not folder.is_dir():
            continue
        for content, case in _contents(folder, shapes):
            for record in wanted.get(content, ()):
                record.suspicions["elsewhere"] = f"{folder.name} has the same voxels in {case}"


def _contents(folder: Path, shapes: set[tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    if (folder / FOLDER / FILE).is_file():
        try:
            records = open_ledger(folder).records.values()
        except DataError:
            return
        for record in records:
            if record.status == "taken":
                yield from ((content, record.case) for content in record.content.split(","))
        return
    for file in sorted(folder.glob("images*/*.nii.gz")):
        if _shape(file) in shapes:
            try:
                yield content_hash(read_nifti(file).voxels), file.name
            except (DataError, OSError):  # another data set's bad file is for its own planning to tell
                continue


def _shape(file: Path) -> tuple[int, ...]:
    """D, H, W by the header alone; empty where it cannot be read."""
    import nibabel

    try:
        return tuple(int(side) for side in nibabel.load(file).shape[::-1])  # type: ignore[attr-defined]
    except Exception:  # nibabel raises whatever a damaged header leads to
        return ()
