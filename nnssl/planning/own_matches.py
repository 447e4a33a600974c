"""A match table of the user's own, in place of the one that preprocessing would make."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from nnssl.data.case import CaseEntry
from nnssl.data.index import read_index
from nnssl.data.tables import read_matches, write_table
from nnssl.errors import DataError
from nnssl.needs import Match, MatchedPoints

MOST_OUTSIDE = 0.5  # of the rows; more are no border points but another frame


def read_own_matches(file: Path, cases: Collection[str]) -> list[Match]:
    """The rows of a user's table, before any case is preprocessed.

    Args:
        file: a CSV as `nnssl.data.tables` describes it.
        cases: names of the raw data set's cases.

    Raises:
        DataError: it is not there or garbled, has no row, or names a case that the data set does not have.
    """
    if not file.is_file():
        raise DataError(f"{file} is not there; --matches takes a CSV with a match a line.")
    rows = read_matches(file)
    if not rows:
        raise DataError(f"{file} has a first line and no match.")
    for number, row in enumerate(rows, start=2):
        for case in (row.case_a, row.case_b):
            if case not in cases:
                known = ", ".join(sorted(cases)[:8]) + (" ..." if len(cases) > 8 else "")
                raise DataError(f"Line {number} of {file} names case {case!r}; the data set has {known}.")
    return rows


def store_own_matches(rows: Sequence[Match], folder: Path, *, say: Callable[[str], None]) -> None:
    """Write the rows that can be used into a preprocessed folder.

    A row is left out where a case was, and where a point lies outside of the stored case: there is nothing to crop.

    Args:
        rows: of `read_own_matches`.
        folder: of the configuration, nnUNet_preprocessed/DATASET/PLANS_CONFIGURATION.
        say: takes a sentence.

    Raises:
        DataError: hardly any point lies in its case, as where the coordinates are not LPS, or no row is left.
    """
    entries = read_index(folder).entries
    there = [row for row in rows if row.case_a in entries and row.case_b in entries]
    inside = [
        row
        for row in there
        if _holds(entries[row.case_a], row.point_a_mm) and _holds(entries[row.case_b], row.point_b_mm)
    ]
    if len(inside) < MOST_OUTSIDE * len(there) or not inside:
        raise DataError(
            f"Of {len(rows)} matches, {len(rows) - len(there)} name cases that were left out, and "
            f"{len(there) - len(inside)} of the others have a point outside of its case. Points are needed in mm in "
            f"LPS, as SimpleITK gives them; ITK-SNAP and nibabel give RAS, where x and y have the other sign."
        )
    write_table(folder, MatchedPoints, inside)
    lost = len(rows) - len(inside)
    say(
        f"{len(inside)} matches taken over" + (f", {lost} left out (cases that were, points outside)." if lost else ".")
    )


def _holds(entry: CaseEntry, point_mm: Sequence[float]) -> bool:
    """Whether a point lies in one of a stored case's voxels."""
    voxel = np.linalg.solve(np.asarray(entry.to_world, np.float64), np.array([*point_mm, 1.0]))[:3]
    return bool(((voxel >= -0.5) & (voxel <= np.array(entry.shape) - 0.5)).all())
