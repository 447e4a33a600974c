"""A table of the user's own is judged before the work, and only rows that can be cropped are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnssl.data.index import Index, write_index
from nnssl.data.tables import read_matches, table_file, write_matches
from nnssl.errors import DataError
from nnssl.needs import Match, MatchedPoints
from nnssl.planning.own_matches import read_own_matches, store_own_matches
from tests.volumes import ramp, write_case

# cases of 20 x 20 x 20 voxels of 1 mm from (x, y, z) = (10, 20, 30) on in D H W order: see `write_case`
ROW = Match(case_a="a", point_a_mm=(12.0, 25.0, 40.0), case_b="b", point_b_mm=(20.0, 30.0, 49.4), score=1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    entries = {name: write_case(tmp_path, name, ramp((20, 20, 20))) for name in ("a", "b")}
    one = entries["a"]
    write_index(tmp_path, Index(dataset=one.dataset, made_from={}, entries=entries, quarantined={"bad": "too dark"}))
    return tmp_path


def outside(row: Match) -> Match:
    return replace(row, point_b_mm=(-20.0, -30.0, 49.4))


def test_rows_of_cases_and_places_that_are_there_are_stored(folder: Path) -> None:
    rows = [ROW, replace(ROW, case_b="bad"), ROW, outside(ROW), replace(ROW, case_a="b", case_b="a")]
    said: list[str] = []
    store_own_matches(rows, folder, say=said.append)
    assert read_matches(table_file(folder, MatchedPoints)) == [ROW, ROW, rows[4]]
    assert said == ["3 matches taken over, 2 left out (cases that were, points outside)."]


def test_points_in_another_frame_are_refused_with_the_reason(folder: Path) -> None:
    rows = [ROW, outside(ROW), outside(ROW)]
    with pytest.raises(DataError, match=r"2 of the others have a point outside .* LPS.*x and y have the other sign"):
        store_own_matches(rows, folder, say=print)
    with pytest.raises(DataError, match="Of 1 matches, 1 name cases that were left out"):
        store_own_matches([replace(ROW, case_a="bad")], folder, say=print)
    assert not table_file(folder, MatchedPoints).exists()


def test_what_cannot_be_used_is_told_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    with pytest.raises(DataError, match=r"own.csv is not there; --matches takes a CSV"):
        read_own_matches(file, {"a", "b"})
    write_matches(file, [])
    with pytest.raises(DataError, match="no match"):
        read_own_matches(file, {"a", "b"})
    write_matches(file, [ROW, replace(ROW, case_b="c")])
    with pytest.raises(DataError, match=r"Line 3 of .*names case 'c'; the data set has a, b"):
        read_own_matches(file, {"a", "b"})
    assert len(read_own_matches(file, {"a", "b", "c"})) == 2
