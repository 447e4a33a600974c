"""The doctor's table: one row a property, its verdict, what a mismatch costs, and the command that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["fits", "note", "no", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: the property.
        weights: its value in the weights.
        target: its value in the target's plan.
        verdict: fits; note: differs a little; no: does not fit; unknown: the weights do not say.
        consequence: what happens if nothing is done; "" where it fits.
        fix: what to do, a command where there is one.
    """

    what: str
    weights: str
    target: str
    verdict: Verdict
    consequence: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The commands that mend things, ready to be copied."""

    plan_like: str
    export: str


def by(sides: Sequence[int]) -> str:
    """3x3x3."""
    return "x".join(str(side) for side in sides)
