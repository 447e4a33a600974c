"""What every matcher is: points of one scan to the same anatomy in another, in mm (LPS), never in voxels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from nnssl.errors import UsageError
from nnssl.match.cases import MatchCase, Points

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matched:
    """The answers to P points.

    Attributes:
        points_mm: (P, 3) in the other case, mm in LPS.
        score: (P,) higher is surer; scores of different matchers do not compare.
        valid: (P,) false where the matcher has no answer: the point or the answer lies outside the scan, or the two
            scans could not be brought together.
    """

    points_mm: Points
    score: Points
    valid: Flags


class Matcher(ABC):
    """Finds the same anatomy in two cases.

    Attributes:
        name: as on the command line.
        unsure_share: of the rows of a table, the least sure that are left out; 0 where scores do not tell good matches
            from bad ones.
    """

    name: ClassVar[str]
    unsure_share: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self._cases: dict[str, MatchCase] = {}

    def prepare(self, cases: Sequence[MatchCase]) -> None:
        """Take the cases that will be asked for. More can be added later."""
        self._cases |= {case.case_id: case for case in cases}

    @abstractmethod
    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        """The same anatomy in `case_b`.

        Args:
            case_a: a prepared case.
            points_mm: (P, 3) in it, mm in LPS.
            case_b: a prepared case.

        Raises:
            UsageError: a case that was not prepared.
            DataError: a scan that cannot be used.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes with everything that changes an answer: weights, settings, prepared cases where they matter."""

    def label(self, case_a: str, case_b: str) -> str:
        """Who answers for this pair, "name:fingerprint", as match tables record it."""
        return f"{self.name}:{self.fingerprint()}"

    def case(self, case_id: str) -> MatchCase:
        """A prepared case.

        Raises:
            UsageError: it was not prepared.
        """
        if case_id not in self._cases:
            raise UsageError(f"Case {case_id!r} was not prepared for matching; there are {', '.join(self._cases)}.")
        return self._cases[case_id]


def cycle_error_mm(matcher: Matcher, case_a: str, points_mm: Points, case_b: str, there: Matched) -> Points:
    """(P,) how far from each point one comes back from its match; infinite where there is no answer."""
    back = matcher.match(case_b, there.points_mm, case_a)
    apart = np.linalg.norm(back.points_mm - points_mm, axis=1)
    return np.where(there.valid & back.valid, apart, np.inf)
