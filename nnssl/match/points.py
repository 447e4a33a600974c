"""Points of one case matched to others, as rows; and points as users write them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnssl.errors import DataError, UsageError
from nnssl.match.cases import MatchCase, Points
from nnssl.match.matcher import Matcher, cycle_error_mm
from nnssl.needs import Match

_COLUMNS = ("x", "y", "z")


def match_points(matcher: Matcher, case: MatchCase, points_mm: Points, others: Sequence[MatchCase]) -> list[Match]:
    """Every point's match in every other case, where there is one.

    Args:
        matcher: prepared with all of them.
        case: whose points they are.
        points_mm: (P, 3) mm in LPS.
        others: where to look.

    Raises:
        UsageError: a point outside of the scan.
    """
    outside = np.flatnonzero(~case.scout.inside(points_mm))
    if len(outside):
        low = case.scout.origin_mm
        high = low + 4.0 * (np.array(case.scout.image.shape)[::-1] - 1)
        raise UsageError(
            f"Point {_text(points_mm[outside[0]])} lies outside of {case.case_id}, which reaches from {_text(low)} to "
            f"{_text(high)} mm in LPS. Give mm as SimpleITK does (ITK-SNAP and nibabel: x and y with the other sign), "
            f"or voxel indices i,j,k from 0 with --voxels."
        )
    rows = []
    for other in others:
        there = matcher.match(case.case_id, points_mm, other.case_id)
        cycle = cycle_error_mm(matcher, case.case_id, points_mm, other.case_id, there)
        label = matcher.label(case.case_id, other.case_id)
        for index in np.flatnonzero(there.valid):
            rows.append(
                Match(
                    case_a=case.case_id,
                    point_a_mm=rounded_mm(points_mm[index]),
                    case_b=other.case_id,
                    point_b_mm=rounded_mm(there.points_mm[index]),
                    score=round(float(there.score[index]), 4),
                    cycle_mm=round(float(cycle[index]), 3) if np.isfinite(cycle[index]) else None,
                    matcher=label,
                )
            )
    return rows


def parse_points(words: Sequence[str]) -> Points:
    """(P, 3) of words like "12.5,-40,310".

    Raises:
        UsageError: a word that is no three numbers.
    """
    found = []
    for word in words:
        parts = word.split(",")
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) != 3 or not np.isfinite(numbers).all():
            raise UsageError(f"--points takes x,y,z without spaces, for example 12.5,-40,310; found {word!r}.")
        found.append(numbers)
    return np.array(found, np.float64).reshape(-1, 3)


def read_points(path: Path) -> Points:
    """(P, 3) from a CSV with the columns x, y and z; others are passed over.

    Raises:
        DataError: it is not there, or garbled.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark before the first line
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Give a CSV with the columns x,y,z.") from error
    if not rows or any(name not in rows[0] for name in _COLUMNS):
        raise DataError(f"{path} needs a first line with x,y,z (others are passed over), and a point a line.")
    short = next((number for number, row in enumerate(rows, start=2) if None in map(row.get, _COLUMNS)), None)
    if short is not None:
        raise DataError(f"Line {short} of {path} has too few values; x, y and z are needed.")
    try:
        points = np.array([[float(row[name]) for name in _COLUMNS] for row in rows], np.float64)
    except ValueError as error:
        raise DataError(f"{path} holds something else than numbers in x, y or z ({error}).") from error
    if not np.isfinite(points).all():
        raise DataError(f"{path} holds a number that is not finite.")
    return points


def from_voxels(case: MatchCase, voxels: Points) -> Points:
    """(P, 3) mm of voxel indices i j k in the order of the file's axes, from 0, as SimpleITK counts them."""
    to_world = case.read().to_world
    return np.asarray(voxels[:, ::-1] @ to_world[:3, :3].T + to_world[:3, 3])


def rounded_mm(point: Points) -> tuple[float, float, float]:
    """(3,) as a tuple, to a thousandth of a millimetre, which keeps a table readable."""
    x, y, z = (round(float(value), 3) for value in point)
    return x, y, z


def _text(point: Points) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in point) + ")"
