"""Match tables as CSV."""

from __future__ import annotations

import pytest

from nnssl.data.tables import read_table, table_file, write_table
from nnssl.errors import DataError
from nnssl.needs import Match, Table


class Points(Table):
    name = "points"


MATCHES = [
    Match(case_a="a", point_a_mm=(1.0, -2.5, 1 / 3), case_b="b,c", point_b_mm=(4.0, 5.0, 6.0), score=0.75),
    Match(
        case_a="b,c",
        point_a_mm=(0.0, 0.0, 0.0),
        case_b="a",
        point_b_mm=(1e-9, 2.0, 3.0),
        score=1.0,
        cycle_mm=2.5,
        matcher="affine:0123",
    ),
]


def test_what_is_written_is_read_exactly(tmp_path):
    write_table(tmp_path, Points, MATCHES)
    assert read_table(tmp_path, Points, {"a", "b,c"}) == MATCHES
    assert table_file(tmp_path, Points).name == "points.csv"


def test_a_missing_table_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="--for"):
        read_table(tmp_path, Points, {"a"})


def test_unknown_cases_are_named_with_their_line(tmp_path):
    write_table(tmp_path, Points, MATCHES)
    with pytest.raises(DataError, match=r"Line 2 .*'b,c'"):
        read_table(tmp_path, Points, {"a"})


def test_a_users_own_table_needs_no_matcher_and_no_cycle_error(tmp_path):
    table_file(tmp_path, Points).write_text(
        "case_a,x_a_mm,y_a_mm,z_a_mm,case_b,x_b_mm,y_b_mm,z_b_mm,score\na,1,2,3,b,4,5,6,1\n"
    )
    (row,) = read_table(tmp_path, Points, {"a", "b"})
    assert (row.matcher, row.cycle_mm, row.point_b_mm) == ("user", None, (4.0, 5.0, 6.0))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,1,2,3,a,4,5,6,1", "11 values at line 2"),
        ("a,1,2,x,a,4,5,6,1,,", "numbers in mm"),
        ("a,1,2,3,a,4,5,6,1,far,", "numbers in mm"),
        ("a,1,2,nan,a,4,5,6,1,,", "finite"),
        ("a,1,2,3,a,4,5,6,1,inf,", "finite"),
    ],
)
def test_garbled_lines_are_named(tmp_path, line, message):
    write_table(tmp_path, Points, [])
    file = table_file(tmp_path, Points)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, Points, {"a"})


def test_another_header_is_refused(tmp_path):
    table_file(tmp_path, Points).write_text("x,y\n")
    with pytest.raises(DataError, match="first line"):
        read_table(tmp_path, Points, {"a"})
