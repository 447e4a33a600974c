"""What names a patient anywhere in a file, in whatever format, is in nothing that ingest writes."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from nnssl.ingest.identity import without
from nnssl.ingest.known_names import KnownNames
from tests.ingest.scans import texture, write, write_nifti, write_series

PLANTED = "Zacharias Quixotl 19411224"
WORDS = (b"zacharias", b"quixotl", b"19411224", b"24.12.1941")


def written(folder: Path) -> bytes:
    """All bytes, names of files and where links lead; of compressed files also what is inside."""
    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(os.fsencode(path.name))
        if path.is_symlink():
            parts.append(path.read_bytes())  # a link hands on what its file says
        if path.is_file():
            content = path.read_bytes()
            parts += [content, gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""]
    return b"\n".join(parts).lower()


def check(outcome, dataset):
    assert len(outcome.taken) == 1, [(record.reason, record.sentence) for record in outcome.refused]
    found = written(dataset)
    assert [word for word in WORDS if word in found] == []


def plant_text(source, field):
    write_nifti(source / "a.nii.gz", texture(0), **{field: PLANTED.encode()[:10]})


def plant_extension(source):
    image = nibabel.Nifti1Image(texture(0).T, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", PLANTED.encode()))
    nibabel.save(image, source / "a.nii.gz")


def plant_gap(source):
    """Text between header and voxels that no extension announces."""
    plain = write_nifti(source / "a.nii", texture(0)).read_bytes()
    (source / "a.nii").unlink()
    header = bytearray(plain[:352])
    header[108:112] = np.float32(400).tobytes()
    (source / "a.nii.gz").write_bytes(gzip.compress(bytes(header) + PLANTED.encode().ljust(48, b"\0") + plain[352:]))


def plant_gzip_name(source):
    plain = write_nifti(source / "a.nii", texture(0)).read_bytes()
    (source / "a.nii").unlink()
    buffer = io.BytesIO()
    with gzip.GzipFile(f"{PLANTED}.nii", "wb", fileobj=buffer, mtime=0) as stream:
        stream.write(plain)
    (source / "a.nii.gz").write_bytes(buffer.getvalue())


def plant_metadata(source, name):
    image = SimpleITK.GetImageFromArray(texture(0))
    for key in ("Comment", "PatientName", "ITK_FileNotes"):
        image.SetMetaData(key, PLANTED)
    SimpleITK.WriteImage(image, str(source / name))


def plant_nrrd_comment(source):
    path = write(source / "a.nrrd", texture(0))
    magic, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(magic + b"\n# " + PLANTED.encode() + b"\npatient:=" + PLANTED.encode() + b"\n" + rest)


def plant_mgz_tags(source):
    plain = io.BytesIO()
    image = nibabel.MGHImage(texture(0).T.astype(np.float32), np.eye(4))
    image.to_stream(plain)
    (source / "a.mgz").write_bytes(gzip.compress(plain.getvalue() + PLANTED.encode()))


@pytest.mark.parametrize(
    "plant",
    [
        *(lambda source, field=field: plant_text(source, field) for field in ("descrip", "aux_file", "db_name")),
        *(lambda source, field=field: plant_text(source, field) for field in ("intent_name", "data_type")),
        plant_extension,
        plant_gap,
        plant_gzip_name,
        *(lambda source, name=name: plant_metadata(source, name) for name in ("a.nrrd", "a.mha", "a.mhd", "a.h5")),
        plant_nrrd_comment,
        plant_mgz_tags,
    ],
)
def test_no_text_of_a_header_reaches_the_data_set(source, dataset, run, plant):
    plant(source)
    found = b"".join(
        gzip.decompress(content) if (content := path.read_bytes())[:2] == b"\x1f\x8b" else content
        for path in source.iterdir()
    ) + b"".join(path.read_bytes() for path in source.iterdir())
    assert PLANTED.encode()[:9] in found, "nothing was planted"
    check(run(), dataset)


def test_no_tag_of_dicom_reaches_the_data_set_nor_a_path_that_repeats_one(source, dataset, run):
    folder = write_series(source / "quixotl^zacharias" / "24.12.1941", texture(0, ct=True))
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.PatientName, header.PatientID = "Quixotl^Zacharias", "19411224"
        header.PatientBirthDate, header.OtherPatientNames = "19411224", "Zacharias^Q"
        header.PatientComments = header.StudyDescription = header.SeriesDescription = PLANTED
        header.add_new((0x0009, 0x0010), "LO", "SECRETS")
        header.add_new((0x0009, 0x1001), "LO", PLANTED)
        header.save_as(path)
    write_series(source / "Quixotl_Zacharias_bad", texture(1, (1, 10, 12), ct=True), PatientName="Quixotl^Zacharias")
    outcome = run()
    assert len(outcome.refused) == 1
    check(outcome, dataset)


def test_a_name_that_one_series_has_is_hidden_in_the_paths_of_all(source, dataset, run):
    write_series(source / "Geheimrat_Otto" / "CT1", texture(0, (8, 10, 12), ct=True), PatientName="Geheimrat^A")
    bare = {"PatientName": "", "PatientID": ""}
    write_series(source / "Geheimrat_Otto" / "recon", texture(1, (8, 10, 12), ct=True), **bare)
    write_series(source / "Geheimrat_Otto" / "bad", texture(2, (1, 10, 12), ct=True), **bare)
    write_nifti(source / "scans" / "geheimrat_1.nii.gz", texture(3, ct=True))
    outcome = run()
    assert sorted(record.source for record in outcome.records) == [
        "[hidden]_Otto/CT1 (8 files)",
        "[hidden]_Otto/bad/IM0000",
        "[hidden]_Otto/recon (8 files)",
        "scans/[hidden]_1.nii.gz",
    ]
    assert all("eheimrat" not in record.sentence for record in outcome.records)


def test_a_name_that_is_learnt_later_is_hidden_in_what_earlier_runs_said(source, run):
    bare = {"PatientName": "", "PatientID": ""}
    write_series(source / "Otto" / "a", texture(0, (8, 10, 12), ct=True), **bare)
    assert [record.source for record in run().taken] == ["Otto/a (8 files)"]
    write_series(source / "b", texture(1, (8, 10, 12), ct=True), PatientName="Otto^A")
    outcome = run()
    assert outcome.new == 1
    assert sorted(record.source for record in outcome.taken) == ["[hidden]/a (8 files)", "b (8 files)"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Doe^Jane", "DOE_2/janedoe/Doer/Janet", "[hidden]_2/[hidden]/Doer/Janet"),
        ("Müller^Jörg", "mueller/Mu\u0308ller/Muller-Jorg", "[hidden]/[hidden]/[hidden]-[hidden]"),
        ("O'Neill^Kim", "ONeill/o/neill", "[hidden]/o/[hidden]"),
        ("Head^CT", "head/CT/ct1", "head/CT/ct1"),
        ("Phantom^Anonymous", "phantom/anonymous", "phantom/anonymous"),
        ("LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0002"),
        ("Li^Wu", "li/wu", "li/wu"),
        ("Otto^Head", "otto/head/ottohead", "[hidden]/head/ottohead"),
        ("", "a/b", "a/b"),
    ],
)
def test_only_whole_words_that_name_people_are_hidden_everywhere(name, text, expected):
    names = KnownNames()
    names.add([name])
    assert names.hidden(text) == expected


def test_dates_of_birth_are_found_as_people_write_them():
    assert without("a/1941-12-24/24.12.1941/x", ["19411224"]) == "a/[hidden]/[hidden]/x"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Müller^Jörg", "Mueller_Joerg"),
        ("Müller^Jörg", "Muller_Jorg"),
        ("Müller^Jörg", "MUELLERJOERG"),
        ("Müller^Jörg", "joergmueller2"),
        ("Müller^Jörg", "Mu\u0308ller Jo\u0308rg"),  # as macOS writes it
        ("Mueller^Joerg", "Müller_Jörg"),
        ("Li^Wu", "Li_Wu"),
        ("Li^Wu", "WuLi"),
        ("Li^Wu", "li.2019"),
        ("Weiß^Ann", "WEISS_Ann"),
        ("Weiß^Ann", "AnnWeiss"),
        ("O'Neill^Kim", "ONeill Kim"),
        ("O'Neill^Kim", "O'Neill_Kim"),
        ("Meyer-Lund^Eva", "MeyerLund"),
        ("Kim^J", "J_Kim"),
        ("Østergård^Bo", "Oestergaard_Bo"),
        ("Yamada^Taro=山田^太郎", "山田太郎"),
    ],
)
def test_a_name_is_found_however_it_is_spelt(name, folder):
    hidden = without(folder, [name])
    assert not any(sign.isalpha() for sign in hidden.replace("[hidden]", "")), hidden
    assert without(f"scans/{folder}/IM1", [name]).endswith("/IM1")


@pytest.mark.parametrize(
    ("name", "text"),
    [("Li^Wu", "liver/wurst"), ("O'Neill^Kim", "solo/o/kappa"), ("Kim^J", "J/Jena"), ("Bo^Ä", "abode"), ("", "a/b")],
)
def test_words_that_only_begin_like_a_short_name_stay(name, text):
    assert without(text, [name]) == text
