"""Matching by affine registration: every case to one template, so that n cases cost n registrations."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnssl.match.cases import Points, Scout
from nnssl.match.matcher import Matched, Matcher
from nnssl.match.registration import Registration, moved, register

REACH_MM, LATTICE_MM = 32.0, 8.0  # the neighbourhood whose likeness is the score
_VERSION = "1"


class AffineMatcher(Matcher):
    """p_b = T_b(T_a^-1(p_a)), T_c from the template to case c; the score is the correlation of 64 mm neighbourhoods.

    The template is the prepared case with the median height: with other cases the answers may be others, so it is part
    of the fingerprint.
    """

    name = "affine"

    def __init__(self) -> None:
        super().__init__()
        self._template: str | None = None
        self._digest: str | None = None
        self._found: dict[str, Registration] = {}

    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        """By way of the template; no answer where either case could not be registered."""
        matrix = self._between(case_a, case_b)
        a, b = self.case(case_a).scout, self.case(case_b).scout
        answers = moved(matrix, points_mm)
        valid = a.inside(points_mm) & b.inside(answers) & self.accepted(case_a, case_b)
        return Matched(answers, _likeness(a, points_mm, b, matrix), valid)

    def accepted(self, case_a: str, case_b: str) -> bool:
        """Whether both cases could be registered to the template, or are one."""
        return case_a == case_b or all(self._registration(case).accepted for case in (case_a, case_b))

    def fingerprint(self) -> str:
        """Version, and the template's content."""
        if self._digest is None:
            template = self.case(self._template_id()).read().source_hash
            self._digest = hashlib.sha256(f"{_VERSION} {template}".encode()).hexdigest()[:12]
        return self._digest

    def _between(self, case_a: str, case_b: str) -> npt.NDArray[np.float64]:
        if case_a == case_b:
            return np.eye(4)
        a, b = (self._registration(case).matrix for case in (case_a, case_b))
        return np.asarray(b @ np.linalg.inv(a))

    def _template_id(self) -> str:
        if self._template is None:
            height = {name: np.count_nonzero(case.scout.body.any(axis=(1, 2))) for name, case in self._cases.items()}
            ordered = sorted(height, key=lambda name: (height[name], name))
            self._template = ordered[len(ordered) // 2]
        return self._template

    def _registration(self, case_id: str) -> Registration:
        if case_id not in self._found:
            template, case = self.case(self._template_id()), self.case(case_id)
            if template is case:
                self._found[case_id] = Registration(np.eye(4), 1.0, True)
            else:
                self._found[case_id] = register(template.scout, case.scout, ct="ct" in case.modality)
        return self._found[case_id]


def _likeness(a: Scout, points_mm: Points, b: Scout, matrix: npt.NDArray[np.float64]) -> Points:
    """(P,) correlation of the values around every point and around its match; 0 where either is constant."""
    ticks = np.arange(-REACH_MM, REACH_MM + 1, LATTICE_MM)
    offsets = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)
    around = points_mm[:, None] + offsets
    there = moved(matrix, around.reshape(-1, 3))
    x = _values(a, around.reshape(-1, 3)).reshape(len(points_mm), -1)
    y = _values(b, there).reshape(len(points_mm), -1)
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.asarray((x * y).sum(axis=1) / np.maximum(size, 1e-6))


def _values(scout: Scout, points_mm: Points) -> npt.NDArray[np.float64]:
    index = scout.index(points_mm)
    return np.asarray(ndimage.map_coordinates(scout.image, index.T, order=1, mode="nearest"), np.float64)
