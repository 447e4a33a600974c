"""The index: what is written is read, parts merge, and stock nnU-Net folders need none."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from nnssl.data.case import CaseEntry, Constants
from nnssl.data.index import Index, index_file, read_index, stored_index, write_index
from nnssl.errors import DataError


def entry(folder, case="a"):
    return CaseEntry(
        case_id=case,
        dataset="Dataset745_X",
        folder=folder,
        file=f"{case}.b2nd",
        raw_file=f"{case}_raw.b2nd",
        shape=(3, 4, 5),
        channels=1,
        dtype="float16",
        spacing_mm=(1.5, 1.0, 1.0),
        to_world=((0.0, 0.0, 1.0, -5.25), (0.0, 1.0, 0.0, 2.0), (1.5, 0.0, 0.0, 0.1), (0.0, 0.0, 0.0, 1.0)),
        subject="s",
        modality=("ct",),
        source_hash="f00",
        source_stamp="a:1:2",
        bbox=((0, 3), (1, 5), (0, 5)),
        constants=(Constants(scheme="CTNormalization", offset=1.5, scale=2.0, lower=-1.0, upper=9.0),),
        sidecars={"body": f"{case}.body.npz"},
    )


def index_of(folder, *cases, spacing=1.0, **more):
    entries = {case: entry(folder, case) for case in cases}
    return Index(dataset="Dataset745_X", made_from={"spacing": [spacing]}, entries=entries, **more)


def test_what_is_written_is_read(tmp_path):
    index = index_of(tmp_path, "b", "a", quarantined={"c": "broken"})
    write_index(tmp_path, index)
    assert read_index(tmp_path) == replace(index, entries=dict(sorted(index.entries.items())))


def test_a_moved_folder_is_still_read(tmp_path):
    (tmp_path / "old").mkdir()
    write_index(tmp_path / "old", index_of(tmp_path / "old", "a"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_index(tmp_path / "new").entries["a"].path == tmp_path / "new" / "a.b2nd"


def test_parts_merge_and_a_case_made_later_leaves_quarantine(tmp_path):
    write_index(tmp_path, index_of(tmp_path, "a", quarantined={"c": "broken", "d": "broken"}))
    write_index(tmp_path, index_of(tmp_path, "c"), part=(1, 2))
    write_index(tmp_path, index_of(tmp_path, "b"), part=(2, 2))
    merged = read_index(tmp_path)
    assert list(merged.entries) == ["a", "b", "c"]
    assert merged.quarantined == {"d": "broken"}


def test_of_two_entries_for_a_case_the_one_written_last_counts(tmp_path):
    index = index_of(tmp_path, "a")
    write_index(tmp_path, Index(dataset="D", entries={"a": replace(index.entries["a"], raw_file=None)}), part=(2, 4))
    write_index(tmp_path, Index(dataset="D", entries=index.entries), part=(1, 8))
    os.utime(tmp_path / index_file((2, 4)), ns=(1, 1))
    assert read_index(tmp_path).entries["a"].raw_file == "a_raw.b2nd"
    os.utime(tmp_path / index_file((1, 8)), ns=(0, 0))
    assert read_index(tmp_path).entries["a"].raw_file is None


def test_parts_of_different_plans_are_refused(tmp_path):
    write_index(tmp_path, index_of(tmp_path, "a"), part=(1, 2))
    write_index(tmp_path, index_of(tmp_path, "b", spacing=2.0), part=(2, 2))
    with pytest.raises(DataError, match=r"different plans .*spacing"):
        read_index(tmp_path)


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / index_file()).write_text('{"format": 1, "entr')
    with pytest.raises(DataError, match=r"nnssl_index\.json cannot be read"):
        read_index(tmp_path)


def test_missing_and_empty_folders_say_what_to_run(tmp_path):
    with pytest.raises(DataError, match="nnssl_plan_and_preprocess"):
        read_index(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no preprocessed cases"):
        read_index(tmp_path)
    assert stored_index(tmp_path) is None


def test_a_stock_nnunet_folder_is_read_from_headers_alone(tiny_workspace, tmp_path):
    dataset = tiny_workspace / "nnUNet_preprocessed" / "Dataset004_Tiny"
    folder = dataset / "nnsslPlans_3d_fullres"
    copied = tmp_path / "Dataset004_Tiny" / folder.name
    copied.mkdir(parents=True)
    for file in folder.iterdir():
        # unpickling this would fail: nothing may try
        content = b"not a pickle" if file.suffix == ".pkl" else file.read_bytes()
        (copied / file.name).write_bytes(content)
    for name in ("nnsslPlans.json", "dataset.json"):
        (copied.parent / name).write_bytes((dataset / name).read_bytes())
    index = read_index(copied)
    assert list(index.entries) == [f"case_{number:02d}" for number in range(4)]
    first = index.entries["case_00"]
    assert first.spacing_mm == (1.5, 1.25, 1.0) and first.modality == ("ct",) and first.dtype == "float32"
    assert first.subject == "case_00" and first.raw_file is None
    np.testing.assert_array_equal(first.to_world, np.diag([1.5, 1.25, 1.0, 1.0]))
