"""Every refusal has its name, and `--accept NAME` does what the table of reasons says."""

from __future__ import annotations

import gzip
import os
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK

from nnssl.errors import UsageError
from nnssl.ingest.run import Request, ingest
from nnssl.planning.reading import read_image
from nnssl.planning.refusal import REASONS, checked_reasons
from tests.ingest.scans import texture, write, write_nifti, write_series

AFFINE = np.diag([-1.0, -1.5, 2.5, 1.0])


def reason(outcome):
    assert len(outcome.records) == 1 and outcome.refused, outcome.records
    return outcome.refused[0].reason


def voxels(dataset, outcome):
    assert len(outcome.taken) == 1, outcome.refused
    return read_image([dataset / "imagesTr" / f"{outcome.taken[0].case}_0000.nii.gz"], "SimpleITKIO").data[0]


def with_nan():
    broken = texture(0).astype(np.float32)
    broken[2, 3, 4] = np.nan
    return broken


def sheared():
    affine = AFFINE.copy()
    affine[0, 1] = 0.5
    return affine


def labels():
    blocks = np.zeros((20, 20, 20), np.uint8)
    blocks[5:15, 4:12, 3:18] = 1
    blocks[8:12, 6:10, 6:12] = 7
    return blocks


def speckles(value):
    """A noise that was cut at a threshold: two values in no patches."""
    return np.where(np.random.default_rng(0).random((20, 20, 20)) < 0.4, value, 0).astype(np.float32)


def almost_empty():
    volume = np.zeros((20, 20, 20), np.float32)
    volume[4, 4, 4:8] = (1.5, 2.25, 3.125, 4.5)
    return volume


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("four_dimensional", lambda path: write_nifti(path, np.stack([texture(0), texture(1)]))),
        ("complex_values", lambda path: write_nifti(path, texture(0).astype(np.complex64))),
        ("not_finite", lambda path: write_nifti(path, with_nan())),
        ("sheared", lambda path: write_nifti(path, texture(0), sheared())),
        ("no_orientation", lambda path: write_nifti(path, texture(0), lost=True)),
        ("label_map", lambda path: write_nifti(path, labels())),
        ("label_map", lambda path: write_nifti(path, speckles(1))),
        ("label_map", lambda path: write_nifti(path, speckles(-2.5))),
        ("near_empty", lambda path: write_nifti(path, almost_empty())),
    ],
)
def test_a_scan_is_refused_by_name_and_taken_when_accepted(source, dataset, run, name, make):
    make(source / "a.nii.gz")
    assert reason(run()) == name
    outcome = run(accepted={name})
    assert voxels(dataset, outcome).ndim == 3
    assert outcome.taken[0].notes or outcome.taken[0].accepted == [name]  # never altered or let in without a word
    assert run().taken, "what was accepted once stays"


def _header(path, **fields):
    """Write fields of a header as they are, whatever nibabel thinks of them."""
    plain = bytearray(gzip.decompress(path.read_bytes()))
    for place, fresh in fields.values():
        plain[place : place + len(fresh)] = fresh
    path.write_bytes(gzip.compress(bytes(plain)))


@pytest.mark.parametrize(
    ("fields", "name", "said"),
    [
        ({"dim": (42, struct.pack("<h", -5))}, "damaged", "its dimensions are -5x12x10"),
        (
            {"unit": (123, b"\x03")},
            "orientation_conflict",
            "its unit is the micron, which only SimpleITK heeds: 1x1.5x2",
        ),
        ({"pixdim": (80, struct.pack("<3f", 2, 2, 2)), "qform": (252, b"\0\0")}, "orientation_conflict", "by pixdim"),
        ({"pixdim": (80, struct.pack("<3f", -1, -1, -1))}, "orientation_conflict", "pixdim has negative sizes"),
    ],
)
def test_what_contradicts_itself_in_a_header_is_named(source, run, fields, name, said):
    path = source / "a.nii.gz"
    image = nibabel.Nifti1Image(texture(0).T, np.diag([-1.0, -1.5, 2.5, 1.0]))
    image.set_qform(image.affine, 1)
    nibabel.save(image, path)
    _header(path, **fields)
    outcome = run()
    assert reason(outcome) == name and said in outcome.refused[0].sentence


def test_the_right_name_is_said_of_dicom_called_nifti_and_of_no_utf8(source, run):
    write_series(source / "x", texture(0, (2, 10, 12), ct=True))
    sorted((source / "x").iterdir())[0].rename(source / "000.nii.gz")
    sorted((source / "x").iterdir())[0].rename(source / "001.nii")
    write_nifti(source / "a.nii.gz", texture(0)).rename(os.fsdecode(os.fsencode(source) + b"/\xff.nii.gz"))
    said = {record.source: record.sentence for record in run().refused}
    assert said["000.nii.gz"] == "it is a DICOM file, which its name does not say. Rename it to 000.dcm."
    assert said["001.nii"].endswith("Rename it to 001.dcm.")
    assert said["\\udcff.nii.gz"].endswith("Rename it.")


def test_three_values_in_no_patches_are_an_image(source, run):
    volume = speckles(1)
    volume[3, 4, 5] = 2
    write_nifti(source / "a.nii.gz", volume)
    assert run().taken


def test_the_lists_of_repairs_are_exact(source, dataset, run):
    write_nifti(source / "a.nii.gz", np.stack([texture(0), texture(1)]))
    np.testing.assert_array_equal(voxels(dataset, run(accepted={"four_dimensional"})), texture(0))
    (source / "a.nii.gz").unlink()
    write_nifti(source / "a.nii.gz", with_nan())
    found = voxels(dataset, run(accepted={"not_finite"}))
    assert found[2, 3, 4] == texture(0).min() and (found == texture(0)).sum() == found.size - 1


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("truncated", lambda content: content[: len(content) // 2]),
        ("damaged", lambda content: content[:-20] + bytes([content[-20] ^ 255]) + content[-19:]),
        ("damaged", lambda content: gzip.compress(b"no image at all" * 50)),
        ("truncated", lambda content: gzip.compress(gzip.decompress(content)[:-8])),
    ],
)
def test_broken_files_are_refused_and_cannot_be_accepted(source, run, name, spoil):
    path = write_nifti(source / "a.nii.gz", texture(0))
    path.write_bytes(spoil(path.read_bytes()))
    assert reason(run()) == name
    with pytest.raises(UsageError, match=f"--accept {name} is not possible"):
        checked_reasons([name])


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.h5"])
def test_truncated_files_of_other_formats_are_refused(source, run, name):
    path = write(source / name, texture(0))
    path.write_bytes(path.read_bytes()[:-300])
    assert reason(run()) in ("truncated", "unreadable", "damaged")


def test_a_flipped_byte_in_a_compressed_nrrd_is_noticed(source, run):
    content = bytearray(write(source / "a.nrrd", texture(0)).read_bytes())
    content[-300] ^= 255
    (source / "a.nrrd").write_bytes(bytes(content))
    assert reason(run()) in ("damaged", "truncated")


@pytest.mark.parametrize("place", [800, 1500, -3])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_a_flipped_byte_in_a_compressed_metaimage_is_noticed(source, run, name, place):
    image = SimpleITK.GetImageFromArray(texture(0))
    SimpleITK.WriteImage(image, str(source / name), useCompression=True)
    path = source / ("a.zraw" if name == "a.mhd" else name)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(bytes(content))
    assert reason(run()) == "damaged"
    path.write_bytes(bytes(content[:-200]))
    assert reason(run()) in ("damaged", "truncated")


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("origin", ["nifti", "dicom"])
def test_metaimages_that_were_converted_keep_their_sources_keys_and_are_read(
    source, dataset, run, tmp_path, name, origin
):
    if origin == "nifti":
        path = write_nifti(tmp_path / "a.nii.gz", texture(0, ct=True), descrip=b"by hand: 3 [mm] = x")
        image = SimpleITK.ReadImage(str(path))
        image.SetMetaData("ITK_FileNotes", "two words, (more) = and | others")
    else:
        files = sorted(map(str, write_series(tmp_path / "s", texture(0, ct=True)).iterdir()))
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(files)
        reader.LoadPrivateTagsOn()
        reader.MetaDataDictionaryArrayUpdateOn()
        image = reader.Execute()
        for key in reader.GetMetaDataKeys(0):
            image.SetMetaData(key, reader.GetMetaData(0, key))
    SimpleITK.WriteImage(image, str(source / name), useCompression=False)
    header = (source / name).read_bytes().split(b"ElementDataFile")[0]
    assert (b"dim[0] = 3" if origin == "nifti" else b"0008|0060 = CT") in header
    np.testing.assert_array_equal(voxels(dataset, run()), SimpleITK.GetArrayFromImage(image))


@pytest.mark.parametrize(
    ("line", "fine"),
    [
        ("Foo Bar = 3", True),
        ("/a/b = c", True),
        ("Foo = ", True),
        ("Foo = 1\nFoo = 2", True),
        ("no sign at all", False),
        ("= 3", False),
        ("DimSize = 9 9 9", False),
        ("ElementSpacing = 7 7 7", False),
    ],
)
def test_keys_of_others_pass_and_those_of_metaimage_stand_once(source, run, line, fine):
    head = (
        f"ObjectType = Image\nNDims = 3\n{line}\nDimSize = 14 12 10\nElementSpacing = 1 2 3\nElementType = MET_SHORT\n"
    )
    content = texture(0).astype("<i2").tobytes()
    (source / "a.mha").write_bytes(f"{head}ElementDataFile = LOCAL\n".encode() + content)
    outcome = run()
    assert bool(outcome.taken) == fine and (fine or reason(outcome) == "damaged")


def test_headers_lead_nowhere_else_and_claim_no_more_than_there_is(source, tmp_path, run):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(range(256)) * 64)
    head = "ObjectType = Image\nNDims = 3\nDimSize = 16 16 32\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
    (source / "a.mhd").write_text(f"{head}ElementDataFile = ../secret.raw\n")
    assert reason(run()) == "unreadable"
    (source / "a.mhd").write_text(head.replace("16 16 32", "90000 90000 90000") + "ElementDataFile = LOCAL\n")
    assert reason(run()) == "damaged"
    (source / "a.mhd").unlink()
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: 16 16 32\nencoding: raw\nendian: little\n"
    (source / "a.nhdr").write_text(f"{nrrd}data file: {secret}\n")
    assert reason(run()) == "unreadable"


def test_one_slice_and_constant_voxels_are_refused(source, run):
    path = write_nifti(source / "a.nii.gz", texture(0, (1, 12, 14)))
    assert reason(run()) == "single_slice"
    path.unlink()
    write_nifti(source / "b.nii.gz", np.full((8, 9, 10), 3, np.int16))
    assert reason(run()) == "constant"


def test_a_ct_in_other_units_is_refused_where_it_is_known_to_be_one(source, run):
    write_nifti(source / "a.nii.gz", texture(0))  # 50 to 1200, as if stored without the intercept
    (source / "list.csv").write_text("path,modality\na.nii.gz,CT\n")
    outcome = run(source / "list.csv")
    assert reason(outcome) == "ct_not_hu" and "no Hounsfield units" in outcome.refused[0].sentence


def test_two_ways_to_lie_in_one_header_are_a_conflict(source, run):
    path = write_nifti(source / "a.nii", texture(0))
    content = bytearray(path.read_bytes())
    assert struct.unpack_from("<f", content, 312 + 8) == (2.5,)  # srow_z of the NIfTI header, k
    struct.pack_into("<hh", content, 252, 2, 1)  # SimpleITK takes directions from the sform, sizes from elsewhere
    struct.pack_into("<f", content, 312 + 8, 3.5)
    path.write_bytes(bytes(content))
    assert reason(run()) == "orientation_conflict"
    assert run(accepted={"orientation_conflict"}).taken[0].channels[0]["spacing_mm"][0] == 3.5


def test_channels_must_lie_in_one_place(source, run):
    write(source / "imagesTr" / "p_0000.nii.gz", texture(0))
    write(source / "imagesTr" / "p_0001.nii.gz", texture(1), (2.5, 1.5, 1.2))
    assert reason(run()) == "channels_differ"


def test_ct_and_mr_are_not_mixed(source, dataset, run):
    for seed in range(3):
        write(source / f"ct{seed}.nii.gz", texture(seed, ct=True))
    write(source / "mr.nii.gz", texture(9))
    outcome = run()
    assert [record.reason for record in outcome.refused] == ["other_modality"] and outcome.channels == {"0": "CT"}
    assert not (dataset / "imagesTr" / "mr_0000.nii.gz").exists()
    mixed = run(accepted={"other_modality"})
    assert len(mixed.taken) == 4


def test_a_mixed_folder_is_parted_by_two_runs(source, run, tmp_path):
    for seed in range(3):
        write(source / f"ct{seed}.nii.gz", texture(seed, ct=True))
        write(source / f"mr{seed}.nii.gz", texture(10 + seed))
    first = run(channels=("MR",))
    assert [record.case for record in first.taken] == ["mr0", "mr1", "mr2"]
    assert {record.reason for record in first.refused} == {"other_modality"}
    assert "-d OTHER --channels CT" in first.refused[0].sentence
    request = Request(sources=(source,), folder=tmp_path / "raw" / "Dataset746_CT", channels=("CT",), workers=1)
    second = ingest(request, lambda sentence: None)
    assert [record.case for record in second.taken] == ["ct0", "ct1", "ct2"]
    assert {record.reason for record in second.refused} == {"ct_not_hu"}


def test_the_table_of_reasons_is_what_the_manual_says():
    from tests.cli_reference import ROOT

    manual = (ROOT / "docs" / "how-to" / "ingest.md").read_text()
    for reason in REASONS.values():
        assert f"| `{reason.name}` | {reason.means} | {reason.accepted} |" in manual, reason.name
