"""Matched points of a data set, as CSV in mm (LPS): a header, then one match a line.

The first nine columns are needed; `cycle_mm` and `matcher` may be left away, as a table of the user's own will do.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.needs import Match, Table

_HEADER = ["case_a", "x_a_mm", "y_a_mm", "z_a_mm", "case_b", "x_b_mm", "y_b_mm", "z_b_mm", "score"]
_OPTIONAL = ["cycle_mm", "matcher"]


def table_file(folder: Path, table: type[Table]) -> Path:
    """Where a table lies in a configuration's folder."""
    return folder / f"{table.name}.csv"


def write_table(folder: Path, table: type[Table], matches: Sequence[Match]) -> None:
    """Write the rows of `table`, whole or not at all."""
    write_matches(table_file(folder, table), matches)


def write_matches(path: Path, matches: Sequence[Match]) -> None:
    """Write matches to a file, whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_HEADER, *_OPTIONAL])
        for match in matches:
            cycle = "" if match.cycle_mm is None else match.cycle_mm
            found = [match.score, cycle, match.matcher]
            writer.writerow([match.case_a, *match.point_a_mm, match.case_b, *match.point_b_mm, *found])


def read_table(folder: Path, table: type[Table], known_cases: Collection[str]) -> list[Match]:
    """The rows of `table`, checked.

    Raises:
        DataError: the file is missing, its header differs, a number is not finite, or a case is not in `known_cases`.
    """
    path = table_file(folder, table)
    if not path.is_file():
        raise DataError(
            f"The table {path} is needed and missing. Run nnssl_plan_and_preprocess with --for and the trainer that "
            f"needs it."
        )
    matches = read_matches(path)
    for number, match in enumerate(matches, start=2):
        for case in (match.case_a, match.case_b):
            if case not in known_cases:
                raise DataError(
                    f"Line {number} of {path} names case {case!r}, which is not in {folder}. Take its lines "
                    f"out, or delete the file and have it made again: nnssl_plan_and_preprocess --for."
                )
    return matches


def read_matches(path: Path) -> list[Match]:
    """The matches in a file; whether the cases are there is not checked.

    Raises:
        DataError: its header differs, or a number is not finite.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark before the first line
            rows = list(csv.reader(file))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no CSV of text ({error}).") from error
    header = rows[0] if rows else []
    more = header[len(_HEADER) :]
    if header[: len(_HEADER)] != _HEADER or any(name not in _OPTIONAL for name in more):
        raise DataError(
            f"The first line of {path} must be {','.join(_HEADER)}, and may go on with {','.join(_OPTIONAL)}; it is "
            f"{','.join(header)}."
        )
    return [_match(row, header, f"line {number} of {path}") for number, row in enumerate(rows[1:], start=2)]


def _match(row: Sequence[str], header: Sequence[str], where: str) -> Match:
    if len(row) != len(header):
        raise DataError(f"Expected {len(header)} values at {where}, found {len(row)}: {','.join(row)}")
    said = dict(zip(header[len(_HEADER) :], row[len(_HEADER) :], strict=True))
    try:
        xa, ya, za, xb, yb, zb, score = (float(row[column]) for column in (1, 2, 3, 5, 6, 7, 8))
        cycle_mm = float(said["cycle_mm"]) if said.get("cycle_mm") else None
    except ValueError as error:
        raise DataError(f"Expected numbers in mm at {where}, found {','.join(row)} ({error}).") from error
    if not all(map(math.isfinite, (xa, ya, za, xb, yb, zb, score, cycle_mm or 0.0))):
        raise DataError(f"Expected finite numbers at {where}, found {','.join(row)}.")
    return Match(
        case_a=row[0],
        point_a_mm=(xa, ya, za),
        case_b=row[4],
        point_b_mm=(xb, yb, zb),
        score=score,
        cycle_mm=cycle_mm,
        matcher=said.get("matcher") or "user",
    )
