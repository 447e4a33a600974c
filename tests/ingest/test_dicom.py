"""DICOM files become volumes by series and geometry; what is no volume is told apart and refused."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import RLELossless

from nnssl.planning.reading import read_image
from tests.ingest.scans import texture, write_series

VOXELS = texture(0, (8, 10, 12), ct=True)


def reason(outcome):
    assert len(outcome.refused) == 1, [(record.reason, record.source) for record in outcome.records]
    return outcome.refused[0].reason


def image(dataset, outcome):
    assert len(outcome.taken) == 1, [(record.reason, record.sentence) for record in outcome.refused]
    return read_image([dataset / "imagesTr" / f"{outcome.taken[0].case}_0000.nii.gz"], "SimpleITKIO")


def edit(folder, number, **tags):
    path = sorted(folder.iterdir())[number]
    dataset = pydicom.dcmread(path)
    for key, value in tags.items():
        setattr(dataset, key, value)
    dataset.save_as(path)
    return path


def test_a_series_lies_where_itks_own_series_reader_puts_it(source, dataset, run):
    folder = write_series(source / "ct", VOXELS)
    found = image(dataset, run())
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    expected = reader.Execute()
    np.testing.assert_array_equal(found.data[0], SimpleITK.GetArrayFromImage(expected))
    np.testing.assert_array_equal(found.data[0], VOXELS)
    np.testing.assert_allclose(found.to_world[:3, 3], expected.GetOrigin())
    np.testing.assert_allclose(found.spacing_mm[::-1], expected.GetSpacing())


def test_the_real_series_lies_where_itk_puts_it(shared_data, dataset, run):
    folder = shared_data / "nasty" / "dicom_series_small"
    assert reason(run(folder)) == "ct_not_hu"  # a head without air, said to be a CT
    found = image(dataset, run(folder, accepted={"ct_not_hu"}))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    expected = reader.Execute()
    np.testing.assert_array_equal(found.data[0], SimpleITK.GetArrayFromImage(expected))
    corner = expected.TransformIndexToPhysicalPoint([side - 1 for side in expected.GetSize()])
    np.testing.assert_allclose(
        (found.to_world @ [*(side - 1 for side in found.data.shape[1:]), 1])[:3], corner, atol=1e-3
    )


def test_series_in_one_folder_are_told_apart(source, run):
    write_series(source / "a", VOXELS)
    write_series(source / "b", texture(1, (8, 10, 12), ct=True))
    for file in (source / "b").iterdir():
        file.rename(source / "a" / f"{file.name}_b")
    assert len(run().taken) == 2


def test_a_slope_of_each_slice_is_its_own(source, dataset, run):
    folder = write_series(source / "pt", VOXELS, modality="PT", intercept=0.0)
    for number, file in enumerate(sorted(folder.iterdir())):
        edit(folder, number, RescaleSlope=f"{0.5 + number}")
        assert file.is_file()
    found = image(dataset, run())
    np.testing.assert_allclose(found.data[0], VOXELS * (0.5 + np.arange(8))[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_values_are_the_stored_ones_also_where_small_ones_are_shown_bright(source, dataset, run, packed):
    folder = write_series(source / "ct", VOXELS, PhotometricInterpretation="MONOCHROME1")
    for number, file in enumerate(sorted(folder.iterdir())):
        edit(folder, number, RescaleSlope="2")
        if packed:
            header = pydicom.dcmread(file)
            header.compress(RLELossless)
            header.save_as(file)
    found = image(dataset, run(accepted={"ct_not_hu"}))
    np.testing.assert_array_equal(found.data[0], 2.0 * (VOXELS + 1024) - 1024)
    np.testing.assert_allclose(found.spacing_mm, (2.5, 1.5, 1.0))


def test_frames_that_are_shown_bright_keep_their_values(source, dataset, run):
    file = write_enhanced(source / "a", [0.0, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 17.5])
    accepted = {"multi_frame", "ct_not_hu", "label_map"}
    expected = image(dataset, run(accepted=accepted)).data
    header = pydicom.dcmread(file)
    header.PhotometricInterpretation = "MONOCHROME1"
    header.save_as(file)
    np.testing.assert_array_equal(image(dataset, run(accepted=accepted)).data, expected)


def test_scouts_reports_and_segmentations_are_refused(source, run):
    write_series(source / "a", VOXELS, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert reason(run()) == "localizer"
    write_series(source / "a", VOXELS, modality="SEG")
    assert reason(run()) == "not_an_image"
    write_series(source / "a", VOXELS, modality="SR")
    assert reason(run()) == "not_an_image"


def test_one_slice_is_no_volume(source, run):
    write_series(source / "a", VOXELS[:1])
    assert reason(run()) == "single_slice"


def test_a_missing_slice_is_noticed_and_can_be_interpolated(source, dataset, run):
    folder = write_series(source / "a", VOXELS)
    sorted(folder.iterdir())[3].unlink()
    outcome = run()
    assert reason(outcome) == "uneven_slices" and "about 1 are missing" in outcome.refused[0].sentence
    found = image(dataset, run(accepted={"uneven_slices"}))
    expected = VOXELS.astype(np.float32)
    expected[3] = (expected[2] + expected[4]) / 2
    np.testing.assert_allclose(found.data[0], expected)
    np.testing.assert_allclose(found.spacing_mm, (2.5, 1.5, 1.0))


def test_places_rounded_by_the_scanner_are_even_enough(source, dataset, run):
    write_series(source / "a", VOXELS, places_mm=[round(0.625 * number, 1) for number in range(8)])
    np.testing.assert_allclose(image(dataset, run()).spacing_mm[0], 4.4 / 7)


def test_a_tilted_gantry_is_refused_or_set_upright(source, dataset, run):
    ramp = (np.arange(12)[:, None, None] * 40 + np.arange(40)[None, :, None] * 10 - 300 + np.zeros((1, 1, 12))).astype(
        "i2"
    )
    write_series(source / "a", ramp, tilt_mm=1.0)
    outcome = run()
    assert reason(outcome) == "sheared" and "21.8 degrees" in outcome.refused[0].sentence
    found = image(dataset, run(accepted={"sheared"}))
    axes = found.to_world[:3, :3] / np.linalg.norm(found.to_world[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    # a linear ramp must be the same function of the place in the world
    inside = found.to_world @ [6, 20, 6, 1]
    d = (inside[2] - 100) / 2.5
    h = (inside[1] - 15 - d) / 1.5
    assert found.data[0, 6, 20, 6] == pytest.approx(d * 40 + h * 10 - 300, abs=1)


def test_volumes_that_repeat_in_place_are_split_by_what_tells_them_apart(source, run):
    write_series(source / "a", VOXELS, AcquisitionNumber=1)
    uid = pydicom.dcmread(next((source / "a").iterdir())).SeriesInstanceUID
    write_series(source / "b", texture(1, (8, 10, 12), ct=True), AcquisitionNumber=2, SeriesInstanceUID=uid)
    study = pydicom.dcmread(next((source / "a").iterdir())).StudyInstanceUID
    for number in range(8):
        edit(source / "b", number, StudyInstanceUID=study)
    outcome = run()
    assert len(outcome.taken) == 2 and "told apart by AcquisitionNumber" in outcome.taken[0].notes[0]


def test_copies_of_a_slice_are_dropped_and_others_in_its_place_refused(source, dataset, run):
    folder = write_series(source / "a", VOXELS)
    (folder / "copy").write_bytes((folder / "IM0002").read_bytes())
    outcome = run()
    np.testing.assert_array_equal(image(dataset, outcome).data[0], VOXELS)
    assert "1 slices were there twice" in outcome.taken[0].notes[0]
    edit(folder, -1, SOPInstanceUID="1.2.3.4")
    assert reason(run()) == "duplicate_slices"
    np.testing.assert_array_equal(image(dataset, run(accepted={"duplicate_slices"})).data[0].shape, VOXELS.shape)


def test_truncated_and_damaged_slices_are_refused(source, run):
    folder = write_series(source / "a", VOXELS)
    file = folder / "IM0004"
    content = file.read_bytes()
    file.write_bytes(content[:-60])
    assert reason(run()) == "truncated"
    file.write_bytes(content[:400])
    assert len(run().taken) == 0


def lone_records(outcome):
    return sorted(outcome.refused, key=lambda each: each.reason)


def lone(outcome):
    """Reasons and sentences, the series first."""
    return [(record.reason, record.sentence) for record in lone_records(outcome)]


@pytest.mark.parametrize("ending", ["", ".dcm"])
@pytest.mark.parametrize("size", [0, 100, 200, 600, 900])
def test_a_series_beside_a_fragment_is_not_taken_short(source, run, size, ending):
    folder = write_series(source / "a", VOXELS)
    for file in folder.iterdir():
        file.rename(f"{file}{ending}")
    last = folder / f"IM0007{ending}"
    last.write_bytes(last.read_bytes()[:size])
    (folder / "README").write_text("a note of nobody")
    outcome = run()
    (reason, sentence), (other, its) = lone(outcome)
    assert not outcome.taken and (reason, other) == ("incomplete_series", "truncated"), sentence
    assert f"IM0007{ending}" in sentence and "Copy it again" in its
    assert outcome.ignored["files without an ending"] == 1
    assert [record.channels[0]["shape"][0] for record in run(accepted={"incomplete_series"}).taken] == [7]


def test_a_fragment_that_says_that_it_is_of_another_series_speaks_against_that_one_only(source, run):
    write_series(source / "a", VOXELS, uid="1.2.31")
    write_series(source / "b", texture(1, (8, 10, 12), ct=True), uid="1.2.32")
    whole = source / "b" / "IM0007"
    (source / "a" / "IM0107").write_bytes(whole.read_bytes()[:700])
    outcome = run()
    assert len(outcome.taken) == 2  # a copy of a slice that is there
    assert [record.reason for record in outcome.refused] == ["truncated"]
    whole.unlink()
    outcome = run()
    assert [record.reason for record in lone_records(outcome)] == ["incomplete_series", "truncated"]
    assert "b (7 files)" in lone_records(outcome)[0].source


def test_a_slice_that_may_not_be_opened_is_named(source, run, monkeypatch):
    folder = write_series(source / "a", VOXELS)
    (folder / "IM0003").rename(folder / "IM0003.dcm")
    closed = folder / "IM0003.dcm"
    opened = type(closed).open

    def no_permission(self, *arguments, **options):
        if self.name == closed.name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(type(closed), "open", no_permission)
    (reason, sentence), (other, _) = lone(run())
    assert (reason, other) == ("incomplete_series", "unreadable")
    assert "IM0003.dcm cannot be opened (Permission denied)" in sentence


def write_enhanced(folder, places, slopes=None):
    """An enhanced CT: one file, frames with places of their own."""
    path = write_series(folder, VOXELS[:1], intercept=0.0).joinpath("IM0000")
    content = pydicom.dcmread(path)
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    content.NumberOfFrames, content.PixelData = len(places), VOXELS[: len(places)].astype("<i2").tobytes()
    shared = pydicom.Dataset()
    shared.PlaneOrientationSequence = [pydicom.Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [pydicom.Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing, shared.PixelMeasuresSequence[0].SliceThickness = [1.5, 1.0], 2.5
    content.SharedFunctionalGroupsSequence, frames = [shared], []
    for number, place in enumerate(places):
        frame = pydicom.Dataset()
        frame.PlanePositionSequence = [pydicom.Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20.0, 15.0, place]
        frame.PixelValueTransformationSequence = [pydicom.Dataset()]
        values = frame.PixelValueTransformationSequence[0]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = (slopes or [1] * 99)[number], 0, "HU"
        frames.append(frame)
    content.PerFrameFunctionalGroupsSequence = frames
    content.save_as(path)
    return path


def test_a_multi_frame_file_is_refused_or_read_where_its_frames_say_they_lie(source, dataset, run):
    write_enhanced(source / "a", [100 + 2.5 * number for number in range(8)])
    assert reason(run()) == "multi_frame"
    found = image(dataset, run(accepted={"multi_frame"}))
    np.testing.assert_array_equal(found.data[0], VOXELS)
    np.testing.assert_allclose(found.to_world[:3, 3], (-20, 15, 100))
    np.testing.assert_allclose(found.spacing_mm, (2.5, 1.5, 1.0))


@pytest.mark.parametrize(
    ("places", "slopes"),
    [
        ([100.0, 102.5, 105.0, 107.5, 100.0, 102.5, 105.0, 107.5], None),  # two time points
        ([100.0, 102.5, 107.5, 105.0, 110.0, 112.5, 115.0, 117.5], None),  # out of order
        ([100.0 + 2.5 * number for number in range(8)], [1, 1, 1, 2, 1, 1, 1, 1]),
    ],
)
def test_frames_that_are_no_stack_are_never_taken_for_one(source, run, places, slopes):
    write_enhanced(source / "a", places, slopes)
    outcome = run(accepted={"multi_frame"})
    assert reason(outcome) == "multi_frame" and "dcm2niix" in outcome.refused[0].sentence


def test_frames_without_a_place_are_refused(source, run):
    folder = write_series(source / "a", VOXELS[:1])
    edit(folder, 0, NumberOfFrames=8, PixelData=(VOXELS + 1024).astype("<i2").tobytes())
    assert reason(run()) == "multi_frame"
    assert reason(run(accepted={"multi_frame"})) == "no_spacing"


def test_slices_without_a_place_are_refused(source, run):
    folder = write_series(source / "a", VOXELS)
    for number in range(8):
        path = sorted(folder.iterdir())[number]
        content = pydicom.dcmread(path)
        del content.ImagePositionPatient
        content.save_as(path)
    assert reason(run()) == "no_spacing"
