"""Matchers that look at no anatomy: `body` goes by the outline of the body, `self` stays where it is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnssl.match.cases import STEP_MM, Points, Scout
from nnssl.match.matcher import Matched, Matcher

_SMOOTH_SLICES = 5  # an arm in one slice must not move what is matched there


class SelfMatcher(Matcher):
    """The same place of the same case: for tests, and for data sets of a single case."""

    name = "self"

    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        """The points themselves; no other case has an answer."""
        valid = self.case(case_a).scout.inside(points_mm) & (self.case(case_b).case_id == case_a)
        return Matched(points_mm.copy(), valid.astype(np.float64), valid)

    def fingerprint(self) -> str:
        """There is nothing to change."""
        return "1"


class BodyMatcher(Matcher):
    """The same share of the body's height, and of its outline in that slice: within 20 to 40 mm where scans show the
    same part of the body, and wrong where they do not."""

    name = "body"

    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        """By the outlines; the score is the ratio of the heights, 1 where both scans show as much."""
        a, b = self._outline(case_a), self._outline(case_b)
        moved = b.points(a.shares(points_mm))
        ratio = min(a.height_mm, b.height_mm) / max(a.height_mm, b.height_mm)
        valid = self.case(case_a).scout.inside(points_mm) & self.case(case_b).scout.inside(moved)
        return Matched(moved, np.full(len(moved), ratio), valid)

    def fingerprint(self) -> str:
        """The version of the rule."""
        return "1"

    def _outline(self, case_id: str) -> Outline:
        return _outline(self.case(case_id).scout)


class Outline:
    """The box of the body, slice by slice.

    Attributes:
        height_mm: from its lowest to its highest slice.
    """

    def __init__(self, scout: Scout) -> None:
        filled = np.flatnonzero(scout.body.any(axis=(1, 2)))
        self._low_z = scout.origin_mm[2] + STEP_MM * (filled[0] - 0.5)
        self.height_mm = float(STEP_MM * (filled[-1] - filled[0] + 1))
        self._z = scout.origin_mm[2] + STEP_MM * filled
        boxes = [_range(scout.body[z].any(axis=axis)) for axis in (0, 1) for z in filled]  # x of all, then y of all
        x, y = np.array(boxes[: len(filled)]), np.array(boxes[len(filled) :])
        smooth = [ndimage.uniform_filter1d(ends, _SMOOTH_SLICES, axis=0, mode="nearest") for ends in (x, y)]
        self._ends = [STEP_MM * ends + scout.origin_mm[axis] for axis, ends in enumerate(smooth)]  # (slices, 2) mm

    def shares(self, points_mm: Points) -> Points:
        """(P, 3) x y z in units of the outline, 0 to 1 inside it."""
        low, high = self._box(points_mm[:, 2])
        z = (points_mm[:, 2] - self._low_z) / self.height_mm
        return np.column_stack([(points_mm[:, :2] - low) / (high - low), z])

    def points(self, shares: Points) -> Points:
        """(P, 3) mm: the inverse of `shares`."""
        z = self._low_z + shares[:, 2] * self.height_mm
        low, high = self._box(z)
        return np.column_stack([low + shares[:, :2] * (high - low), z])

    def _box(self, z_mm: Points) -> tuple[Points, Points]:
        """(P, 2) x and y where the outline begins and ends at a height."""
        low, high = (
            np.column_stack([np.interp(z_mm, self._z, ends[:, side]) for ends in self._ends]) for side in (0, 1)
        )
        return low, high


@lru_cache(maxsize=256)
def _outline(scout: Scout) -> Outline:
    return Outline(scout)


def _range(filled: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Where a row of voxels begins and ends, at their outer faces."""
    found = np.flatnonzero(filled)
    return float(found[0]) - 0.5, float(found[-1]) + 0.5
