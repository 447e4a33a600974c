"""`nnssl_match`: points in, the same anatomy out, as CSV and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnssl.cli.match import main
from nnssl.data.index import Index, write_index
from nnssl.data.tables import read_matches
from nnssl.match.cases import MatchCase
from nnssl.paths import VARIABLES, Folders
from tests.volumes import ramp, write_case

POINT = "-31.5,90.25,455"
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def workspace(where: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, folder in zip(VARIABLES, (where.raw, where.preprocessed, where.results), strict=True):
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.chdir(tmp_path)


def test_points_are_matched_and_drawn(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(weights), "-d", "745", "--case", "a", "--points", POINT, "20,100,480", "--in", "a_flipped", "b"]
    assert main(words) == 0
    rows = read_matches(tmp_path / "nnssl_match" / "matches.csv")
    assert [row.case_b for row in rows] == ["a_flipped", "a_flipped", "b", "b"]
    assert rows[0].point_a_mm == (-31.5, 90.25, 455.0)
    np.testing.assert_allclose(rows[0].point_b_mm, rows[0].point_a_mm, atol=1e-3)
    assert rows[0].matcher.startswith("sam:")
    assert rows[0].cycle_mm == pytest.approx(0.0, abs=1e-3)
    assert (tmp_path / "nnssl_match" / "matches.png").read_bytes().startswith(PNG)
    assert "a    -31.5     90.2    455.0" in capsys.readouterr().out


def test_points_may_be_voxels_or_come_from_a_file(cases: dict[str, MatchCase], tmp_path: Path) -> None:
    to_world = cases["a_permuted"].read().to_world
    place = (to_world @ [20.0, 12.0, 9.0, 1.0])[:3]  # voxel i j k is (9, 12, 20)
    # as spreadsheets write it: with a mark before the first letter
    (tmp_path / "points.csv").write_text("name,x,y,z\nspot,9,12,20\n", encoding="utf-8-sig")
    common = ["-d", "745", "--matcher", "body", "--case", "a_permuted", "--in", "a", "a", "--voxels"]
    assert main([*common, "--points", "9,12,20", "-o", "typed"]) == 0
    assert main([*common, "--points_csv", "points.csv", "-o", "read"]) == 0
    typed, read = (read_matches(tmp_path / folder / "matches.csv") for folder in ("typed", "read"))
    assert typed == read and len(read) == 1  # whoever is named twice is matched once
    np.testing.assert_allclose(typed[0].point_a_mm, place, atol=1e-3)


def test_a_table_goes_to_a_file_or_to_the_preprocessed_folder(where: Folders, tmp_path: Path) -> None:
    common = ["-d", "745", "--table", "--matcher", "body", "--partners", "1", "--per_pair", "4"]
    assert main([*common, "-o", "table.csv"]) == 0
    rows = read_matches(tmp_path / "table.csv")
    assert {row.case_a for row in rows} == {"a", "a_flipped", "a_moved", "a_permuted", "a_resampled", "b"}
    assert main(common) == 2
    folder = where.preprocessed / "Dataset745_Phantoms" / "nnsslPlans_3d_fullres"
    folder.mkdir(parents=True)
    assert main(common) == 0
    assert read_matches(folder / "matches.csv") == rows
    entries = {name: write_case(folder, name, ramp((4, 4, 4)), dataset=folder.parent.name) for name in ("a", "b")}
    left_out = {"a_moved": "too dark"}
    write_index(folder, Index(dataset=folder.parent.name, made_from={}, entries=entries, quarantined=left_out))
    assert main(common) == 0  # training would refuse a table with others
    assert {row.case_a for row in read_matches(folder / "matches.csv")} == {"a", "b"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--case", "a", "--points_csv", "short.csv"], "Line 3 of short.csv has too few values"),
        (["--case", "a", "--points", "1,2"], "takes x,y,z without spaces"),
        (["--case", "a", "--points", "9999,0,0"], "reaches from"),
        (["--case", "zz", "--points", "0,0,0"], "has no case 'zz'"),
        (["--case", "a"], "one of the two"),
        (["--points", "0,0,0"], "with --case"),
        (["--table", "--case", "a"], "--table matches all cases"),
        (["--case", "a", "--points_csv", "absent.csv"], "absent.csv cannot be read"),
        (["--case", "a", "--points", "0,0,0", "--matcher", "sam"], "needs weights"),
    ],
)
def test_bad_input_is_told_in_a_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("short.csv").write_text("x,y,z\n1,2,3\n1,2\n")
    assert main(["-d", "745", *words]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
