"""Matched points of a data set, as CSV in mm (LPS): a header, then one match a line."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.needs import Match, Table

_HEADER = ["case_a", "x_a_mm", "y_a_mm", "z_a_mm", "case_b", "x_b_mm", "y_b_mm", "z_b_mm", "score"]


def table_file(folder: Path, table: type[Table]) -> Path:
    """Where a table lies in a configuration's folder."""
    return folder / f"{table.name}.csv"


def write_table(folder: Path, table: type[Table], matches: Sequence[Match]) -> None:
    """Write the rows of `table`, whole or not at all."""
    with whole_file(table_file(folder, table)) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for match in matches:
            writer.writerow([match.case_a, *match.point_a_mm, match.case_b, *match.point_b_mm, match.score])


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
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != _HEADER:
        raise DataError(
            f"The first line of {path} must be {','.join(_HEADER)}; it is {','.join(rows[0] if rows else [])}."
        )
    matches = [_match(row, f"line {number} of {path}") for number, row in enumerate(rows[1:], start=2)]
    for number, match in enumerate(matches, start=2):
        for case in (match.case_a, match.case_b):
            if case not in known_cases:
                raise DataError(
                    f"Line {number} of {path} names case {case!r}, which is not in {folder}. Make the table again with "
                    f"nnssl_plan_and_preprocess --for."
                )
    return matches


def _match(row: Sequence[str], where: str) -> Match:
    if len(row) != len(_HEADER):
        raise DataError(f"Expected {len(_HEADER)} values at {where}, found {len(row)}: {','.join(row)}")
    try:
        xa, ya, za, xb, yb, zb, score = (float(row[column]) for column in (1, 2, 3, 5, 6, 7, 8))
    except ValueError as error:
        raise DataError(f"Expected numbers in mm at {where}, found {','.join(row)} ({error}).") from error
    if not all(map(math.isfinite, (xa, ya, za, xb, yb, zb, score))):
        raise DataError(f"Expected finite numbers at {where}, found {','.join(row)}.")
    return Match(case_a=row[0], point_a_mm=(xa, ya, za), case_b=row[4], point_b_mm=(xb, yb, zb), score=score)
