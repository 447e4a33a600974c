"""Twenty and more files that nobody should meet: each is right, as another reader sees it, or refused by its name."""

from __future__ import annotations

import gzip
import os
import struct
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from nnssl.ingest.run import Request, ingest
from tests.ingest.scans import texture, write, write_nifti, write_series

AFFINE = np.diag([-1.0, -1.5, 2.5, 1.0])


def _header(path, *, place, fresh):
    """Overwrite bytes of a .nii, or of the NIfTI inside a .nii.gz."""
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    plain = bytearray(gzip.decompress(content) if packed else content)
    plain[place : place + len(fresh)] = fresh
    path.write_bytes(gzip.compress(bytes(plain)) if packed else bytes(plain))


def five_dimensional(path):
    nibabel.save(nibabel.Nifti1Image(np.stack([texture(0).T] * 2, -1)[:, :, :, None], AFFINE), path)


def qform_alone(path):
    """A rotated qform; the sform says nothing and must not count."""
    image = nibabel.Nifti1Image(texture(1).T, AFFINE)
    turned = np.linalg.qr(np.array([[0.9, 0.1, 0.2], [0.1, -0.8, 0.1], [0.1, 0.2, 0.95]]))[0] * [1.0, 1.5, 2.5]
    image.set_qform(np.block([[turned, np.ones((3, 1))], [np.zeros((1, 3)), 1]]), 1)
    image.set_sform(np.eye(4) * 7, 0)
    nibabel.save(image, path)


def wrong_sform(path):
    image = nibabel.Nifti1Image(texture(2).T, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE @ np.diag([1.0, 1.0, 2.0, 1.0]), 1)
    nibabel.save(image, path)


def zero_spacing(path):
    write_nifti(path, texture(3))
    _header(path, place=80 + 4, fresh=struct.pack("<f", 0.0))
    _header(path, place=296, fresh=struct.pack("<12f", *([0.0] * 12)))


def nan_spacing(path):
    write_nifti(path, texture(3))
    _header(path, place=280, fresh=struct.pack("<f", float("nan")))


def negative_slope(path):
    write_nifti(path, texture(4))
    _header(path, place=112, fresh=struct.pack("<ff", -2.0, 10.0))


def infinite_slope(path):
    write_nifti(path, texture(4))
    _header(path, place=112, fresh=struct.pack("<ff", float("inf"), 10.0))


def zero_slope(path):
    """A slope of 0 means none, by the standard."""
    write_nifti(path, texture(5))
    _header(path, place=112, fresh=struct.pack("<ff", 0.0, 1000.0))


def unsigned_64(path):
    voxels = texture(6).astype(np.uint64)
    voxels[0, 0, 0] = 2**53
    nibabel.save(nibabel.Nifti1Image(voxels.T, AFFINE, dtype=np.uint64), path)


def big_endian(path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.save(nibabel.Nifti1Image(texture(7).T, AFFINE, header), path)


def gz_named_nii(path):
    other = write_nifti(path.with_name("wrapped.nii.gz"), texture(8))
    other.rename(path)


def nii_named_gz(path):
    other = write_nifti(path.with_name("unwrapped.nii"), texture(9))
    other.rename(path)


def gz_twice(path):
    write_nifti(path, texture(10))
    path.write_bytes(gzip.compress(path.read_bytes()))


def two_gz_members(path):
    """gzip files may be put together; so does pigz."""
    plain = write_nifti(path.with_name("x.nii"), texture(11))
    content = plain.read_bytes()
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    plain.unlink()


def text_after_gz(path):
    write_nifti(path, texture(12))
    path.write_bytes(path.read_bytes() + b"and more")


def long_header(path):
    head = b"NRRD0004\n# " + b"x" * 100_000 + b"\ntype: short\ndimension: 3\nsizes: 14 12 10\nencoding: raw\n"
    space = b"space: left-posterior-superior\nspace directions: (1,0,0) (0,1.5,0) (0,0,2.5)\nspace origin: (1,2,3)\n"
    path.write_bytes(head + b"endian: little\n" + space + b"\n" + texture(13).astype("<i2").tobytes())


def detached(path):
    head = (
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 14 12 10\nencoding: raw\nendian: little\ndata file: voxels.raw\n"
    )
    path.with_name("voxels.raw").write_bytes(texture(14).astype("<i2").tobytes())
    path.write_bytes(head + b"space: left-posterior-superior\nspace directions: (1,0,0) (0,1.5,0) (0,0,2.5)\n")


def sheared_nrrd(path):
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 14 12 10\nencoding: raw\nendian: little\n"
    space = b"space: left-posterior-superior\nspace directions: (1,0,0) (0.5,1.5,0) (0,0,2.5)\nspace origin: (1,2,3)\n"
    path.write_bytes(head + space + b"\n" + texture(15).astype("<i2").tobytes())


def nrrd_in_ras(path):
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 14 12 10\nencoding: raw\nendian: big\n"
    space = b"space: right-anterior-superior\nspace directions: (1,0,0) (0,1.5,0) (0,0,2.5)\nspace origin: (1,2,3)\n"
    path.write_bytes(head + space + b"\n" + texture(16).astype(">i2").tobytes())


def no_place_nrrd(path):
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 14 12 10\nencoding: raw\nendian: little\n\n"
    path.write_bytes(head + texture(17).astype("<i2").tobytes())


def no_size_mha(path):
    head = b"ObjectType = Image\nNDims = 3\nDimSize = 14 12 10\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(head + texture(18).astype("<i2").tobytes())


def vector_mha(path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.stack([texture(18)] * 3, -1), isVector=True), str(path))


def mha_too_short(path):
    write(path.with_suffix(".mha"), texture(19))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(texture(19)), str(path), useCompression=False)
    path.write_bytes(path.read_bytes()[:-100])


def dimension_of_8(path):
    write_nifti(path, texture(20))
    _header(path, place=40, fresh=struct.pack("<8h", 8, 14, 12, 10, 1, 1, 1, 1))


def negative_size(path):
    write_nifti(path, texture(20))
    _header(path, place=42, fresh=struct.pack("<h", -14))


def analyze(path):
    write_nifti(path, texture(20))
    _header(path, place=344, fresh=b"ni1\0")


def doubles_beyond_float32(path):
    voxels = texture(21).astype(np.float64)
    voxels[0, 0, 0] = 1e300
    nibabel.save(nibabel.Nifti1Image(voxels.T, AFFINE), path)


def boolean(path):
    """Two values, though they lie about like noise."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    nibabel.save(nibabel.Nifti1Image((texture(22) > 600).astype(np.uint8).T, AFFINE, header), path)


def empty(path):
    path.touch()


MAKERS = {
    "five.nii.gz": (five_dimensional, "four_dimensional"),
    "qform_alone.nii.gz": (qform_alone, ""),
    "wrong_sform.nii.gz": (wrong_sform, "orientation_conflict"),
    "zero_spacing.nii": (zero_spacing, "damaged"),
    "nan_spacing.nii.gz": (nan_spacing, "damaged"),
    "negative_slope.nii.gz": (negative_slope, ""),
    "infinite_slope.nii": (infinite_slope, "damaged"),
    "zero_slope.nii": (zero_slope, ""),
    "unsigned_64.nii.gz": (unsigned_64, ""),
    "big_endian.nii": (big_endian, ""),
    "gz_named.nii": (gz_named_nii, "unreadable"),
    "nii_named.nii.gz": (nii_named_gz, "unreadable"),
    "gz_twice.nii.gz": (gz_twice, "damaged"),
    "two_members.nii.gz": (two_gz_members, ""),
    "text_after.nii.gz": (text_after_gz, "damaged"),
    "long_header.nrrd": (long_header, ""),
    "detached.nhdr": (detached, ""),
    "sheared.nrrd": (sheared_nrrd, "sheared"),
    "ras.nrrd": (nrrd_in_ras, ""),
    "no_place.nrrd": (no_place_nrrd, "no_orientation"),
    "no_size.mha": (no_size_mha, "no_orientation"),
    "vector.mha": (vector_mha, "colour"),
    "short.mha": (mha_too_short, "unreadable"),
    "dimension_of_8.nii": (dimension_of_8, "four_dimensional"),
    "negative_size.nii": (negative_size, "damaged"),
    "analyze.nii": (analyze, "damaged"),
    "beyond.nii.gz": (doubles_beyond_float32, "not_finite"),
    "boolean.nii": (boolean, "label_map"),
    "empty.nii": (empty, "damaged"),
    "empty.nii.gz": (empty, "damaged"),
    "empty.nrrd": (empty, "damaged"),
    "empty.mha": (empty, "damaged"),
    "empty.h5": (empty, "unreadable"),
    "empty.mgz": (empty, "unreadable"),
    "with space (1) ünï.nii.gz": (lambda path: write_nifti(path, texture(30)), ""),
    "日本語.nii.gz": (lambda path: write_nifti(path, texture(31)), ""),
    "中文.nii.gz": (lambda path: write_nifti(path, texture(32)), ""),
    "line\nbreak.nii.gz": (lambda path: write_nifti(path, texture(33)), ""),
    "-rf.nii.gz": (lambda path: write_nifti(path, texture(34)), ""),
    "=cmd().nii.gz": (lambda path: write_nifti(path, texture(35)), ""),
}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    source = tmp_path_factory.mktemp("nasty")
    for name, (make, _) in MAKERS.items():
        make(source / name)
    os.mkfifo(source / "pipe.nii.gz")
    os.mkfifo(source / "pipe")
    (source / "nowhere.nii.gz").symlink_to(source / "absent")
    (source / "loop").symlink_to(source)
    (source / "itself").symlink_to(source / "itself")
    write_nifti(source / "x.nii.gz", texture(36)).rename(source / os.fsdecode(b"not\xffutf8.nii.gz"))
    folder = tmp_path_factory.mktemp("raw") / "Dataset745_More"
    return source, folder, ingest(Request(sources=(source,), folder=folder, workers=2), lambda sentence: None)


def _printed(name):
    return name.replace("\n", "\\n")


def test_each_is_taken_or_refused_for_its_own_reason(ingested):
    _, _, outcome = ingested
    found = {record.source: record.reason for record in outcome.records}
    assert found.pop("not\\udcffutf8.nii.gz") == "unreadable"
    assert found == {_printed(name): reason for name, (_, reason) in MAKERS.items()}
    assert outcome.ignored["links that lead nowhere, pipes and devices"] == 4


def _independent(path, folder):
    """(i, j, k) voxels and RAS affine by nibabel; NRRD by what was written."""
    if path.suffix in (".nrrd", ".nhdr"):
        seed = {"long_header": 13, "detached": 14, "ras": 16}[path.stem]
        origin = {"long_header": (-1, -2, 3), "detached": (0, 0, 0), "ras": (1, 2, 3)}[path.stem]
        affine = np.diag([1.0, 1.5, 2.5, 1.0]) if path.stem == "ras" else np.diag([-1.0, -1.5, 2.5, 1.0])
        affine[:3, 3] = origin
        return texture(seed).T.astype(np.float32), affine
    content = path.read_bytes()
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    copy = folder / "copy.nii"
    copy.write_bytes(plain)
    image = nibabel.load(copy)
    return image.get_fdata(dtype=np.float64).astype(np.float32), image.affine


@pytest.mark.parametrize("name", [name for name, (_, reason) in MAKERS.items() if not reason])
def test_what_is_taken_is_what_was_there(ingested, name, tmp_path):
    source, folder, outcome = ingested
    case = next(record.case for record in outcome.taken if record.source == _printed(name))
    image = SimpleITK.ReadImage(str(folder / "imagesTr" / f"{case}_0000.nii.gz"))
    voxels, affine = _independent(source / name, tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T.astype(np.float32), voxels)
    corner = [side - 1 for side in image.GetSize()]
    for index in ([0, 0, 0], corner):
        place = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose(place, (affine @ [*index, 1])[:3], atol=1e-3)


def test_names_that_ascii_lacks_stay_apart(ingested):
    _, _, outcome = ingested
    cases = {record.source: (record.case, record.subject) for record in outcome.taken}
    assert len({cases[name] for name in ("日本語.nii.gz", "中文.nii.gz")}) == 2
    assert all(case.isascii() and subject for case, subject in cases.values())
    assert len({subject for _, subject in cases.values()}) == len(cases)


@pytest.mark.pipeline
def test_what_is_taken_goes_through_planning_and_preprocessing(ingested, preprocessed_cases):
    _, folder, outcome = ingested
    assert preprocessed_cases(folder) == sorted(record.case for record in outcome.taken)


def test_dicom_slopes_that_vary_and_objects_that_repeat(source, dataset, run):
    voxels = texture(40, (8, 10, 12))
    folder = write_series(source / "pt", voxels, modality="PT", intercept=0.0)
    for number, path in enumerate(sorted(folder.iterdir())):
        header = pydicom.dcmread(path)
        header.RescaleSlope, header.RescaleIntercept = f"{1 + number / 4}", f"{number}"
        header.save_as(path)
    outcome = run()
    written = nibabel.load(dataset / "imagesTr" / f"{outcome.taken[0].case}_0000.nii.gz").get_fdata()
    by_place = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda each: each.ImagePositionPatient[2])
    expected = [each.pixel_array * float(each.RescaleSlope) + float(each.RescaleIntercept) for each in by_place]
    np.testing.assert_allclose(written.T, expected, rtol=1e-6)


def test_one_object_number_for_all_slices_is_no_reason_to_drop_any(source, dataset, run):
    """Some anonymisers give every file the same SOPInstanceUID."""
    voxels = texture(41, (8, 10, 12))
    write_series(source / "mr", voxels, modality="MR", intercept=0.0, SOPInstanceUID="1.2.3.4")
    outcome = run()
    assert len(outcome.taken) == 1, [record.sentence for record in outcome.refused]
    written = nibabel.load(dataset / "imagesTr" / f"{outcome.taken[0].case}_0000.nii.gz").get_fdata()
    np.testing.assert_array_equal(written.T, voxels)


@pytest.fixture
def nobody():
    """Become nobody and root again; readers were imported before, nobody may not read where they are installed."""

    def switch(user):
        os.seteuid(0)
        os.setegid(user)
        os.seteuid(user)

    yield lambda: switch(65534)
    switch(0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to become nobody")
def test_what_may_not_be_opened_is_refused_and_the_rest_taken(nobody, forked, run):
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        run(write_nifti(top / "first.nii.gz", texture(49)))
        source, raw = top / "source", top / "raw"
        write_nifti(source / "open.nii.gz", texture(50))
        write_nifti(source / "closed.nii.gz", texture(51)).chmod(0)
        write_nifti(source / "folder" / "in.nii.gz", texture(52)).parent.chmod(0)
        raw.mkdir()
        top.chmod(0o777), raw.chmod(0o777)
        nobody()
        outcome = ingest(Request(sources=(source,), folder=raw / "Dataset001_X", workers=1), lambda sentence: None)
        found = {record.source: record.reason for record in outcome.records}
        os.seteuid(0)
    assert found == {"open.nii.gz": "", "closed.nii.gz": "unreadable", "folder": "unreadable"}
