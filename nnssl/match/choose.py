"""Which matcher: by name, or `auto`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnssl.errors import UsageError
from nnssl.match.affine import AffineMatcher
from nnssl.match.cases import MatchCase, Points
from nnssl.match.matcher import Matched, Matcher
from nnssl.match.simple import BodyMatcher, SelfMatcher

NAMES = ("auto", "sam", "affine", "body", "self")


def make_matcher(name: str, weights: str | Path | None = None, *, device: str = "cpu") -> Matcher:
    """The matcher of a name.

    Args:
        name: one of `NAMES`; `auto` is `sam` with weights, else `affine`, and `body` for pairs that it cannot align.
        weights: of AnatEmbedTrainer, for `sam` and `auto`.
        device: where embeddings are made.

    Raises:
        UsageError: an unknown name, or weights missing or not wanted.
        DataError: weights that hold no embeddings.
    """
    if name not in NAMES:
        raise UsageError(f"There is no matcher {name!r}; there are {', '.join(NAMES)}.")
    if name == "sam" and weights is None:
        raise UsageError("The matcher sam needs weights of AnatEmbedTrainer: name the checkpoint.")
    if weights is not None and name not in ("sam", "auto"):
        raise UsageError(f"The matcher {name} takes no weights; leave the checkpoint away or use --matcher sam.")
    if weights is not None:
        from nnssl.match.sam import SamMatcher

        return SamMatcher(weights, device=device)
    if name == "affine":
        return AffineMatcher()
    if name == "body":
        return BodyMatcher()
    return SelfMatcher() if name == "self" else FallbackMatcher()


class FallbackMatcher(Matcher):
    """`affine` where it accepts both cases of a pair, else `body`; `label` says which."""

    name = "auto"

    def __init__(self) -> None:
        super().__init__()
        self._affine, self._body = AffineMatcher(), BodyMatcher()

    def prepare(self, cases: Sequence[MatchCase]) -> None:
        """For both."""
        super().prepare(cases)
        self._affine.prepare(cases)
        self._body.prepare(cases)

    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        """By the matcher of this pair."""
        return self._of(case_a, case_b).match(case_a, np.asarray(points_mm), case_b)

    def fingerprint(self) -> str:
        """Of both."""
        return f"{self._affine.fingerprint()}+{self._body.fingerprint()}"

    def label(self, case_a: str, case_b: str) -> str:
        """Of the one that answers for this pair."""
        return self._of(case_a, case_b).label(case_a, case_b)

    def _of(self, case_a: str, case_b: str) -> Matcher:
        return self._affine if self._affine.accepted(case_a, case_b) else self._body
