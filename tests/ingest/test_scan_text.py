"""Scans and what is put aside come back from JSON as they were, whatever bytes their names have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnssl.ingest.dicom import Slice, _slice_from_plain, _slice_to_plain
from nnssl.ingest.ledger import open_ledger
from nnssl.ingest.scan import Part, Scan
from nnssl.ingest.scan_text import scan_from_text, scan_to_text
from nnssl.ingest.spool import Spool
from nnssl.planning.checks import Finding

ODD = os.fsdecode(b"M\xfcller \xff\x80\n'\"\\")  # Latin-1, and bytes that are no text at all
SCANS = (
    Scan(parts=(), shown=ODD, name=ODD, subject="", refused=Finding("missing_file", f"{ODD} \U0001f642 \0")),
    Scan(
        parts=(
            Part(files=(Path("/a") / ODD, Path("b/ü.nii.gz")), form="png", spacing_mm=(0.1 + 0.2, 1e-9, 3.0)),
            Part(files=(Path("c"),), form="dicom", modality="T1w", volume=0, offset=-32768.0),
        ),
        shown="x",
        name="y",
        subject="z",
        session="1",
        split="test",
        notes=(ODD, ""),
        secrets=("Erika",),
    ),
)


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_comes_back_equal_and_its_files_are_the_same_bytes(scan: Scan) -> None:
    text = scan_to_text(scan)
    back = scan_from_text(text)
    assert back == scan and hash(back) == hash(scan)  # lists in place of tuples could not be hashed
    assert [os.fsencode(file) for file in back.files] == [os.fsencode(file) for file in scan.files]
    assert text.isascii() and "\n" not in text


def test_the_ledger_hands_scans_back_in_the_order_of_their_names(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "Dataset745_Test") as ledger:
        for scan in reversed(SCANS):
            ledger.add_found("root", scan)
        assert [scan for _, _, scan in ledger.found()] == sorted(SCANS, key=lambda scan: os.fsencode(scan.name))


def test_slices_put_aside_come_back_in_order_by_group() -> None:
    spool = Spool(_slice_to_plain, _slice_from_plain)
    slices = [
        Slice(Path(f"{ODD}{number}"), {"PatientID": ODD}, {"PixelSpacing": (0.1, number / 3)}) for number in range(4)
    ]
    for number, each in enumerate(slices):
        spool.add(f"{ODD}{number % 2}", each)
    assert list(spool.groups()) == [[slices[0], slices[2]], [slices[1], slices[3]]]
