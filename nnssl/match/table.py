"""Match tables: body points of every case and the same anatomy in other cases, good ones only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnssl.data.tables import read_matches, table_file
from nnssl.engine.randomness import numpy_generator
from nnssl.errors import DataError, UsageError
from nnssl.match.cases import STEP_MM, MatchCase, Points, dataset_cases
from nnssl.match.choose import make_matcher
from nnssl.match.matcher import Matcher, cycle_error_mm
from nnssl.match.points import rounded_mm
from nnssl.needs import Match, MatchedPoints

MADE_ANEW = ("affine", "body")  # by preprocessing; tables of other matchers are somebody's own


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a table is made.

    Attributes:
        partners: other cases for every case.
        points: body points of a pair that are tried.
        least_score: rows below it are left out; None: the matcher's share of the least sure rows (`unsure_share`).
        most_cycle_mm: rows from which one comes back farther away are left out.
        seed: of the choice of partners and points.
    """

    partners: int = 8
    points: int = 64
    least_score: float | None = None
    most_cycle_mm: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.partners, self.points) < 1 or self.most_cycle_mm <= 0 or self.seed < 0:
            raise UsageError("A match table needs partners and points of at least 1, and a cycle error above 0 mm.")


def make_table(
    matcher: Matcher, cases: Sequence[MatchCase], settings: TableSettings, *, say: Callable[[str], None]
) -> list[Match]:
    """The rows of a data set.

    Args:
        matcher: prepared here.
        cases: all of the data set.
        settings: how many, and which rows are good.
        say: takes a sentence about how many were kept.

    Raises:
        DataError: fewer than two cases for a matcher that needs two, or not one good row.
    """
    from tqdm import tqdm

    if len(cases) < 2 and matcher.name != "self":
        raise DataError(
            f"Points are matched between cases, and there is only {cases[0].case_id if cases else 'none'}. Use "
            f"--matcher self for a single case."
        )
    matcher.prepare(cases)
    rows, tried = [], 0
    for number, case in enumerate(tqdm(cases, unit="case", disable=not sys.stderr.isatty())):
        points = body_points(case, settings)
        for partner in _partners(cases, number, settings, own=matcher.name == "self"):
            tried += len(points)
            rows += _rows(matcher, case.case_id, points, partner.case_id, settings)
    rows = _sure(rows, matcher, settings)
    say(f"{len(rows)} of {tried} matches between {len(cases)} cases are good ({matcher.name}).")
    if not rows:
        bounds = f"cycle error up to {settings.most_cycle_mm:g} mm"
        bounds += "" if settings.least_score is None else f", score of at least {settings.least_score:g}"
        raise DataError(
            f"None of {tried} matches by {matcher.name} is good enough ({bounds}). Use another matcher, train its "
            f"network longer, or loosen the bounds."
        )
    return rows


def of_preprocessed(case_ids: Sequence[str], folder: str) -> list[Match]:
    """The table that preprocessing makes: matcher `auto` without weights.

    A table that is there already, by embeddings or the user's own, is kept.

    Args:
        case_ids: preprocessed cases.
        folder: of the configuration, nnUNet_preprocessed/DATASET/PLANS_CONFIGURATION.
    """
    from nnssl.paths import folders

    file = table_file(Path(folder), MatchedPoints)
    if file.is_file():
        present = read_matches(file)
        if any(row.matcher.split(":")[0] not in MADE_ANEW for row in present):
            return present
    cases = dataset_cases(Path(folder).parent.name, folders(), case_ids)
    return make_table(make_matcher("auto"), cases, TableSettings(), say=lambda sentence: None)


def body_points(case: MatchCase, settings: TableSettings) -> Points:
    """(P, 3) random places of the body in mm."""
    rng = numpy_generator(settings.seed, 0, "match points", case.case_id)
    inside = np.flatnonzero(case.scout.body)
    chosen = rng.choice(inside, size=settings.points, replace=len(inside) < settings.points)
    index = np.stack(np.unravel_index(chosen, case.scout.body.shape), -1) + rng.uniform(-0.5, 0.5, (len(chosen), 3))
    return np.asarray(case.scout.origin_mm + STEP_MM * index[:, ::-1])


def _partners(cases: Sequence[MatchCase], number: int, settings: TableSettings, *, own: bool) -> list[MatchCase]:
    if own:
        return [cases[number]]
    rng = numpy_generator(settings.seed, 0, "match partners", cases[number].case_id)
    others = [case for index, case in enumerate(cases) if index != number]
    chosen = rng.permutation(len(others))[: settings.partners]
    return [others[index] for index in sorted(chosen)]


def _rows(matcher: Matcher, case_a: str, points: Points, case_b: str, settings: TableSettings) -> list[Match]:
    """The rows of a pair from which one comes back."""
    there = matcher.match(case_a, points, case_b)
    cycle = cycle_error_mm(matcher, case_a, points, case_b, there)
    good = there.valid & (cycle <= settings.most_cycle_mm)
    label = matcher.label(case_a, case_b)
    return [
        Match(
            case_a=case_a,
            point_a_mm=rounded_mm(points[index]),
            case_b=case_b,
            point_b_mm=rounded_mm(there.points_mm[index]),
            score=round(float(there.score[index]), 4),
            cycle_mm=round(float(cycle[index]), 3),
            matcher=label,
        )
        for index in np.flatnonzero(good)
    ]


def _sure(rows: list[Match], matcher: Matcher, settings: TableSettings) -> list[Match]:
    """The rows that are sure enough.

    The bound is the matcher's quantile of the rows' own scores. True matches within one scan would not do as a scale:
    two patients are never as alike as a scan and itself (with a little noise 30 % of its cells score below 0.9997; the
    best match between 6 head-neck CT scored 0.973).
    """
    least = settings.least_score
    if least is None:
        if not rows or not matcher.unsure_share:
            return rows
        least = float(np.quantile([row.score for row in rows], matcher.unsure_share))
    return [row for row in rows if row.score >= least]
