"""Broken bytes of every format end in a record: taken with sound voxels, or refused by name; nothing else happens.

The short run is part of the fast tests; the long one is marked slow. What once broke is kept as an explicit example:
bytes made here, never files.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nnssl.errors import NnsslError
from nnssl.ingest.find import find
from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.record import Record
from nnssl.ingest.scan import Scan
from nnssl.ingest.take import Taker, Task
from nnssl.planning.refusal import REASONS
from tests.ingest.scans import texture, write, write_nifti, write_series

ACCEPTED = frozenset(name for name, reason in REASONS.items() if reason.accepted)
FORMATS = ("nii", "nii.gz", "nrrd", "mha", "h5", "mgz", "dcm", "png", "csv", "json", "names")
LONG = int(os.environ.get("NNSSL_FUZZ_EXAMPLES", "2000"))
NAMES = b"""sub-01/ses-1/anat/sub-01_ses-1_T1w.nii
sub-01/ses-1/anat/sub-01_ses-1_T2w.nii
derivatives/x/sub-01_T1w.nii
dataset_description.json
task/imagesTr/a_0000.nii
task/imagesTr/a_0001.nii
task/labelsTr/a.nii
anna/2020/t1_seg.nii
"""


@lru_cache
def seed(kind: str) -> bytes:
    """A sound file of this format, smaller than 10 kB but for HDF5."""
    voxels = texture(0, (4, 6, 5))
    with TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "dcm":
            return (_series(folder) / "IM0001").read_bytes()
        if kind == "names":
            return NAMES
        if kind == "csv":
            return b"path,subject,session,modality,split\nscan.nii,anna,1,MR,train\n../x.nii,,,,\n"
        if kind == "json":
            image = {"image_path": "scan.nii", "modality": "T1w"}
            peers = {"datasets": {"d": {"subjects": {"s": {"sessions": {"1": {"images": [image]}}}}}}}
            return json.dumps({**peers, "training": [{"image": "scan.nii"}], "modality": {"0": "CT"}}).encode()
        path = folder / f"scan.{kind}"
        if kind == "mgz":
            nibabel.save(nibabel.MGHImage(voxels.T, np.eye(4)), path)
        elif kind in ("nii", "nii.gz"):
            write_nifti(path, voxels)
        else:
            write(path, voxels[0].astype(np.uint16) if kind == "png" else voxels, (1.0,) * (2 if kind == "png" else 3))
        return path.read_bytes()


def _series(folder: Path) -> Path:
    return write_series(folder, texture(0, (4, 6, 5)), modality="MR", uid="1.2.3", intercept=0.0)


@st.composite
def broken(draw: st.DrawFn, kind: str) -> bytes:
    """The seed with bytes overwritten, cut off, put in or doubled; most of it in the header."""
    content = bytearray(seed(kind))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.one_of(st.integers(0, min(400, len(content))), st.integers(0, len(content))))
        what = draw(st.sampled_from(("overwrite", "flip", "cut", "insert", "number")))
        if what == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif what == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "number":
            content[place : place + 4] = draw(
                st.sampled_from((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\xc0\x7f", b"\xff\x7f"))
            )
        elif what == "insert":
            content[place:place] = draw(st.binary(max_size=16))
        else:
            fresh = draw(st.binary(min_size=1, max_size=8))
            content[place : place + len(fresh)] = fresh
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


def _plant(folder: Path, names: bytes) -> None:
    """Sound files with these names, one a line, as far as the file system can have them: layouts go by names."""
    for line in names.split(b"\n")[:20]:
        parts = [part[:80] for part in line.replace(b"\0", b"").split(b"/") if part not in (b"", b".", b"..")]
        path = folder.joinpath(*map(os.fsdecode, parts[:6]))
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(seed("nii"))


def check(kind: str, content: bytes, accepted: frozenset[str] = ACCEPTED) -> list[Record]:
    """Ingest a folder with this file, without writing."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if kind in ("csv", "json"):
            write_nifti(folder / "scan.nii", texture(0, (4, 6, 5)))
        if kind == "names":
            _plant(folder, content)
        else:
            (_series(folder) / "IM0001" if kind == "dcm" else folder / f"scan.{kind}").write_bytes(content)
        if kind == "png":
            for number in range(3):
                (folder / f"{number}.png").write_bytes(content)
            (folder / "spacing.csv").write_text(f"folder,spacing_mm\n{folder.name},1 1 2\n")
        source = folder / f"scan.{kind}" if kind in ("csv", "json") else folder
        try:
            scans: list[Scan] = []
            find(source, form="auto", pseudonyms=Pseudonyms(b"key"), take=scans.append)
        except NnsslError as error:
            assert kind in ("csv", "json") and str(source) in str(error)
            return []
        taker = Taker(images=None, pictures=folder, copy=True)
        records = []
        for number, scan in enumerate(scans):
            record = Record(
                source=scan.shown,
                root="",
                stamp="",
                case=str(number),
                modality=[part.modality for part in scan.parts],
                allowed=sorted(accepted),
            )
            records.append(taker.take(Task(key=f"{number:016d}", scan=scan, record=record)))
        for record in records:
            assert (record.status == "taken") != (record.reason in REASONS), record
            assert record.status == "taken" or record.sentence
            for channel in record.channels:
                assert np.isfinite([channel["min"], channel["max"], *channel["spacing_mm"]]).all()
                assert min(channel["shape"]) >= 2
        return records


@pytest.mark.parametrize("kind", FORMATS)
def test_the_seeds_are_sound(kind):
    records = check(kind, seed(kind), frozenset())
    assert any(record.status == "taken" for record in records) or kind == "json"


@pytest.mark.parametrize("kind", FORMATS)
def test_broken_files_end_in_a_record(kind):
    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(broken(kind))
    @example(b"")
    @example(seed(kind)[: len(seed(kind)) // 2])
    @example(seed(kind)[:-1])
    def run(content):
        check(kind, content)

    run()


META_OF_MANY_DIMENSIONS = (
    b"ObjectType = Image\nNDims = 100\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nElementSpacing = 1 1 1\nDimSize = 5 6 4\n"
    b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n" + bytes(240)
)


def _with(kind: str, place: int, fresh: bytes) -> bytes:
    content = bytearray(seed(kind))
    content[place : place + len(fresh)] = fresh
    return bytes(content)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("nii", _with("nii", 252, b"\1\0\0\0")),  # the qform alone is to be read
        ("nii", _with("nii", 76, struct.pack("<f", 0.5))[:252] + b"\1\0\0\0" + seed("nii")[256:]),  # qfac of 0.5
        ("nii", _with("nii", 80, struct.pack("<f", -1.0))[:252] + b"\1\0\0\0" + seed("nii")[256:]),  # a negative size
        ("nii", _with("nii", 112, struct.pack("<ff", 1.0, float("inf")))),  # an infinite intercept
        ("nii", _with("nii", 344, b"xxx")),  # no magic
        ("csv", b"path,subject\n/,anna\n"),  # the whole machine was walked
        ("mha", META_OF_MANY_DIMENSIONS),  # SimpleITK ends the process
        ("mha", META_OF_MANY_DIMENSIONS.replace(b"= 100\n", b"=1e300naryData = T\n")),
    ],
)
def test_what_once_broke_a_reader_stays_mended(kind, content):
    check(kind, content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_broken_files_end_in_a_record_however_long_one_tries(kind):
    @settings(max_examples=LONG, deadline=None, suppress_health_check=list(HealthCheck))
    @given(broken(kind), st.booleans())
    def run(content, accept):
        check(kind, content, ACCEPTED if accept else frozenset())

    run()
