"""Preprocessing a folder: quarantine, restart, parts, raw values, sidecars and tables."""

from __future__ import annotations

import errno
import itertools
import os
import threading

import numpy as np
import pytest

from nnssl.data.index import read_index
from nnssl.data.sidecar import BodyMask, read_sidecar
from nnssl.data.store import read_box
from nnssl.data.tables import read_table
from nnssl.errors import DataError, PluginError
from nnssl.needs import Match, Needs, Sidecar, Table
from nnssl.planning import write_case
from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.folder import clean_folder, preprocess_folder
from nnssl.planning.grid import case_plan
from nnssl.planning.reading import read_image
from nnssl.planning.requirements import Required, union
from tests.tiny import make_raw_dataset, tiny_plans, workspace_folders

SMALL = (14, 15, 16)


@pytest.fixture
def where(tmp_path):
    where = workspace_folders(tmp_path)
    make_raw_dataset(where.raw, 745, 5, shape=SMALL)
    return where


def go(where, required=None, *, workers=2, part=None, spacing=(1.5, 1.25, 1.0)):
    dataset = read_raw_dataset("Dataset745_Tiny", where)
    plan = case_plan(tiny_plans(dataset.name, spacing_mm=spacing), "3d_fullres")
    folder = where.preprocessed / dataset.name / plan.data_identifier
    return preprocess_folder(dataset, plan, folder, required or Required(), workers=workers, part=part), folder


def stamps(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.b2nd")}


def test_every_case_is_made_once_and_a_rerun_makes_none(where):
    first, folder = go(where)
    assert len(first.made) == 5 and not first.quarantined
    before = stamps(folder)
    again, _ = go(where)
    assert again.made == () and len(again.kept) == 5
    assert stamps(folder) == before


def test_a_run_that_was_killed_goes_on_where_it_was(where, monkeypatch):
    written = write_case.CaseWriter.write

    def die_at_the_third(self, case, previous):
        if case.case_id == "case_02":
            raise KeyboardInterrupt
        return written(self, case, previous)

    monkeypatch.setattr(write_case.CaseWriter, "write", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        go(where, workers=1)
    monkeypatch.undo()
    outcome, folder = go(where)
    assert outcome.kept == ("case_00", "case_01")
    assert outcome.made == ("case_02", "case_03", "case_04")
    assert len(read_index(folder).entries) == 5


def test_a_changed_or_lost_case_is_made_again(where):
    _, folder = go(where)
    hashes = {case: entry.source_hash for case, entry in read_index(folder).entries.items()}
    make_raw_dataset(where.raw, 745, 1, shape=SMALL, seed=7)
    (folder / "case_03.b2nd").unlink()
    outcome, _ = go(where)
    assert outcome.made == ("case_00", "case_03")
    now = {case: entry.source_hash for case, entry in read_index(folder).entries.items()}
    assert {case for case in now if now[case] != hashes[case]} == {"case_00"}


def test_bad_cases_are_quarantined_and_good_ones_are_all_made(where):
    images = where.raw / "Dataset745_Tiny" / "imagesTr"
    os.truncate(images / "case_01_0000.nii.gz", 800)
    (images / "case_03_0001.nii.gz").touch()
    outcome, folder = go(where)
    assert outcome.made == ("case_00", "case_02", "case_04")
    assert set(outcome.quarantined) == {"case_01", "case_03"}
    assert "case_01_0000.nii.gz is truncated" in outcome.quarantined["case_01"]
    assert read_index(folder).quarantined == outcome.quarantined
    assert not (folder / "case_01.b2nd").exists()


def test_a_case_that_went_bad_leaves_the_index(where):
    _, folder = go(where)
    os.truncate(where.raw / "Dataset745_Tiny" / "imagesTr" / "case_01_0000.nii.gz", 800)
    go(where)
    assert "case_01" not in read_index(folder).entries


def test_parts_make_all_cases_and_the_whole_run_merges_them(where):
    whole, folder = go(where)
    expected = {
        case: read_box(entry.path, (0, 0, 0), entry.shape) for case, entry in read_index(folder).entries.items()
    }
    clean_folder(folder)
    made = [go(where, part=(number, 2))[0].made for number in (1, 2)]
    assert made == [("case_00", "case_02", "case_04"), ("case_01", "case_03")]
    assert sorted(file.name for file in folder.glob("nnssl_index*")) == [
        "nnssl_index.part-1-of-2.json",
        "nnssl_index.part-2-of-2.json",
    ]
    assert list(read_index(folder).entries) == list(expected)
    merged, _ = go(where)
    assert merged.kept == whole.made
    assert [file.name for file in folder.glob("nnssl_index*")] == ["nnssl_index.json"]
    for case, entry in read_index(folder).entries.items():
        np.testing.assert_array_equal(read_box(entry.path, (0, 0, 0), entry.shape), expected[case])


def test_data_of_another_plan_are_refused_by_name_of_what_differs(where):
    _, folder = go(where)
    with pytest.raises(DataError, match=r"another plan: spacing differ.*--clean"):
        go(where, spacing=(2.0, 1.0, 1.0))
    clean_folder(folder)
    assert len(go(where, spacing=(2.0, 1.0, 1.0))[0].made) == 5


def test_data_of_stock_nnunet_are_neither_mixed_nor_deleted(where):
    folder = where.preprocessed / "Dataset745_Tiny" / "nnsslPlans_3d_fullres"
    folder.mkdir(parents=True)
    (folder / "case_00.b2nd").touch()
    (folder / "case_00_seg.b2nd").touch()
    with pytest.raises(DataError, match="preprocessed by nnU-Net itself"):
        go(where)
    with pytest.raises(DataError, match="not deleted"):
        clean_folder(folder)


def test_a_full_disk_ends_the_work_and_leaves_no_half_file(where, monkeypatch):
    real = write_case.write_array
    lock, written = threading.Lock(), []

    def fill_up(path, array, patch_size):
        with lock:
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            written.append(path)
        real(path, array, patch_size)

    monkeypatch.setattr(write_case, "write_array", fill_up)
    with pytest.raises(OSError, match="No space left"):
        go(where, workers=1)
    monkeypatch.undo()
    folder = where.preprocessed / "Dataset745_Tiny" / "nnsslPlans_3d_fullres"
    assert sorted(file.name for file in folder.iterdir()) == ["case_00.b2nd", "case_01.b2nd", "nnssl_index.json"]
    assert len(go(where)[0].kept) == 2


def test_leftovers_of_a_killed_run_are_swept(where):
    _, folder = go(where)
    (folder / ".case_00.b2nd.abc.partial").touch()
    go(where)
    assert not list(folder.glob(".*.partial"))


def test_raw_hounsfield_units_are_stored_as_int16(where):
    _, folder = go(where, union([Needs(values="raw"), Needs()]))
    entry = read_index(folder).entries["case_01"]
    raw = read_box(entry.raw_path, (0, 0, 0), entry.shape)
    source = read_image([where.raw / "Dataset745_Tiny" / "imagesTr" / "case_01_0000.nii.gz"], "SimpleITKIO")
    assert raw.dtype == np.int16
    np.testing.assert_array_equal(raw, source.data)


def test_raw_mr_stays_float32(tmp_path):
    where = workspace_folders(tmp_path)
    make_raw_dataset(where.raw, 745, 1, shape=SMALL, kind="mr")
    _, folder = go(where, Required(raw=True))
    entry = read_index(folder).entries["case_00"]
    assert read_box(entry.raw_path, (0, 0, 0), entry.shape).dtype == np.float32


def test_raw_values_asked_for_later_make_the_cases_again_and_keep_the_sidecars(where):
    _, folder = go(where, Required(sidecars=(BodyMask,)))
    outcome, _ = go(where, Required(raw=True))
    entry = read_index(folder).entries["case_00"]
    assert len(outcome.made) == 5
    assert read_sidecar(entry, BodyMask)["mask"].any()
    assert go(where, Required(raw=True, sidecars=(BodyMask,)))[0].made == ()


class Mean(Sidecar):
    name = "mean"
    version = 3

    @classmethod
    def compute(cls, case):
        return {"grid": case.image.mean((1, 2, 3)), "original": case.original.mean((1, 2, 3)), "to": case.to_world}


class Pairs(Table):
    name = "pairs"

    @classmethod
    def compute(cls, case_ids, folder):
        point = (0.0, 0.0, 0.0)
        return [
            Match(case_a=a, point_a_mm=point, case_b=b, point_b_mm=point, score=1.0)
            for a, b in itertools.pairwise(case_ids)
        ]


def test_sidecars_see_raw_values_and_tables_see_all_cases(where):
    _, folder = go(where, Required(sidecars=(Mean,), tables=(Pairs,)), spacing=(1.0, 1.0, 1.0))
    entries = read_index(folder).entries
    arrays = read_sidecar(entries["case_00"], Mean)
    assert arrays["grid"] == pytest.approx(arrays["original"], rel=0.02)
    assert arrays["original"][0] < -100  # Hounsfield units, not normalised ones
    np.testing.assert_allclose(arrays["to"], entries["case_00"].to_world)
    assert len(read_table(folder, Pairs, entries)) == 4


def test_a_newer_sidecar_is_made_again(where, monkeypatch):
    go(where, Required(sidecars=(Mean,)))
    monkeypatch.setattr(Mean, "version", 4)
    outcome, folder = go(where, Required(sidecars=(Mean,)))
    assert len(outcome.made) == 5
    read_sidecar(read_index(folder).entries["case_00"], Mean)


def test_a_failing_sidecar_names_its_plugin_and_the_case(where, monkeypatch):
    monkeypatch.setattr(Mean, "compute", classmethod(lambda cls, case: 1 / 0))
    with pytest.raises(PluginError, match=r"Mean failed on case case_0.*ZeroDivisionError"):
        go(where, Required(sidecars=(Mean,)))


def test_two_sidecars_of_one_name_are_refused():
    class Other(Sidecar):
        name = "mean"

    with pytest.raises(PluginError, match="stored under the name 'mean'"):
        union([Needs(sidecars=(Mean,)), Needs(sidecars=(Other,))])
    assert union([Needs(sidecars=(Mean,)), Needs(sidecars=(Mean,))]).sidecars == (Mean,)


def test_a_fault_of_ours_is_not_taken_for_a_bad_case(where, monkeypatch):
    monkeypatch.setattr(write_case, "smallest_dtype", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        go(where)
    assert "while working on case case_0" in caught.value.__notes__[0]
