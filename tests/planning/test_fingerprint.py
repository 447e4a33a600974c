"""The fingerprint without labels, and the plans nnU-Net makes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.fingerprint import case_statistics, fingerprint, samples_per_case
from nnssl.planning.run import FINGERPRINT_FILE, write_fingerprint
from tests.tiny import make_raw_dataset
from tests.tiny import workspace_folders as folders_of


@pytest.fixture
def dataset(tmp_path):
    where = folders_of(tmp_path)
    make_raw_dataset(where.raw, 745, 4, kind="two")
    return read_raw_dataset("Dataset745_Tiny", where)


def statistics(dataset):
    return [case_statistics(case, dataset.modality, "SimpleITKIO", 500) for case in dataset.cases]


def test_it_has_nnunets_schema(dataset):
    made = fingerprint(statistics(dataset))
    assert set(made) == {
        "foreground_intensity_properties_per_channel",
        "median_relative_size_after_cropping",
        "shapes_after_crop",
        "spacings",
    }
    per_channel = made["foreground_intensity_properties_per_channel"]
    assert list(per_channel) == ["0", "1"]
    assert set(per_channel["0"]) == {"max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"}
    assert made["spacings"] == [[1.5, 1.25, 1.0]] * 4


def test_order_of_cases_does_not_matter(dataset):
    cases = statistics(dataset)
    assert fingerprint(cases) == fingerprint(cases[::-1])


def test_numbers_come_from_the_foreground_alone(tmp_path):
    where = folders_of(tmp_path)
    make_raw_dataset(where.raw, 745, 2, kind="ct")
    dataset = read_raw_dataset("Dataset745_Tiny", where)
    properties = fingerprint(statistics(dataset))["foreground_intensity_properties_per_channel"]["0"]
    assert properties["min"] > -500  # air is -1000
    assert 20 < properties["median"] < 200


def test_number_of_workers_does_not_change_the_file(dataset, tmp_path):
    where = folders_of(tmp_path)
    file = where.preprocessed / dataset.name / FINGERPRINT_FILE
    written = []
    for workers in (1, 3):
        assert write_fingerprint(dataset, "SimpleITKIO", where, workers=workers, anew=True, say=print) == {}
        written.append(file.read_bytes())
    assert written[0] == written[1]


def test_a_fingerprint_of_the_same_files_is_used_again_and_a_new_case_makes_a_new_one(dataset, tmp_path):
    where = folders_of(tmp_path)
    said = []
    write_fingerprint(dataset, "SimpleITKIO", where, workers=1, anew=False, say=said.append)
    write_fingerprint(dataset, "SimpleITKIO", where, workers=1, anew=False, say=said.append)
    assert len(said) == 1 and "same files" in said[0]
    make_raw_dataset(where.raw, 745, 5, kind="two")
    grown = read_raw_dataset("Dataset745_Tiny", where)
    write_fingerprint(grown, "SimpleITKIO", where, workers=1, anew=False, say=said.append)
    content = json.loads((where.preprocessed / dataset.name / FINGERPRINT_FILE).read_text())
    assert len(content["spacings"]) == 5


def test_a_fingerprint_that_nnunet_made_from_labels_is_kept(dataset, tmp_path):
    where = folders_of(tmp_path)
    file = where.preprocessed / dataset.name / FINGERPRINT_FILE
    file.parent.mkdir(parents=True)
    file.write_text('{"spacings": []}')
    said = []
    write_fingerprint(dataset, "SimpleITKIO", where, workers=1, anew=True, say=said.append)
    assert file.read_text() == '{"spacings": []}' and "nnU-Net made" in said[0]


def test_percentiles_are_those_of_all_foreground_voxels(dataset):
    from nnssl.planning.reading import read_image

    cases = [case_statistics(case, dataset.modality, "SimpleITKIO", 50_000) for case in dataset.cases]
    made = fingerprint(cases)["foreground_intensity_properties_per_channel"]["0"]
    images = [read_image(case.files, "SimpleITKIO").data for case in dataset.cases]
    exact = np.concatenate([image[0][(image != 0).any(0)] for image in images])
    assert made["percentile_99_5"] == pytest.approx(np.percentile(exact, 99.5), rel=0.02)
    assert made["mean"] == pytest.approx(exact.mean(), rel=0.02)


def test_samples_are_bounded_for_small_and_large_data_sets():
    assert samples_per_case(3) == 100_000
    assert samples_per_case(1000) == 10_000
    assert samples_per_case(100_000) == 1000
