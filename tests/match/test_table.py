"""Match tables hold good rows only, say who made them, and leave other people's tables alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnssl.data.tables import read_matches, table_file, write_matches
from nnssl.errors import DataError, UsageError
from nnssl.match.cases import MatchCase, Points
from nnssl.match.matcher import Matched, Matcher
from nnssl.match.sam import SamMatcher
from nnssl.match.simple import BodyMatcher, SelfMatcher
from nnssl.match.table import TableSettings, body_points, make_table, of_preprocessed
from nnssl.needs import Match, MatchedPoints
from nnssl.paths import VARIABLES, Folders

Cases = dict[str, MatchCase]
SMALL = TableSettings(partners=2, points=8)


class OneWay(Matcher):
    """Goes 6 mm along x and never comes back; surer to the left than to the right."""

    name = "one_way"

    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        score = (points_mm[:, 0] < np.median(points_mm[:, 0])).astype(float)
        return Matched(points_mm + np.array([6.0, 0.0, 0.0]), score, np.ones(len(points_mm), bool))

    def fingerprint(self) -> str:
        return "xyz"


def test_rows_say_where_they_are_from_and_how_good_they_are(cases: Cases) -> None:
    said: list[str] = []
    rows = make_table(
        OneWay(), list(cases.values()), TableSettings(partners=2, points=8, most_cycle_mm=13), say=said.append
    )
    assert len(rows) == 6 * 2 * 8
    assert {row.matcher for row in rows} == {"one_way:xyz"}
    assert all(row.cycle_mm == pytest.approx(12.0, abs=1e-3) for row in rows)
    assert all(row.point_b_mm[0] - row.point_a_mm[0] == pytest.approx(6.0, abs=2e-3) for row in rows)
    assert all(row.case_a != row.case_b for row in rows)
    assert said == ["96 of 96 matches between 6 cases are good (one_way)."]


def test_rows_that_do_not_come_back_or_are_unsure_are_left_out(cases: Cases) -> None:
    high = TableSettings(partners=2, points=8, most_cycle_mm=13, least_score=2)
    with pytest.raises(DataError, match=r"up to 13 mm, score of at least 2\)"):
        make_table(OneWay(), list(cases.values()), high, say=lambda sentence: None)
    with pytest.raises(DataError, match=r"None of 96 matches by one_way .* up to 10 mm"):
        make_table(OneWay(), list(cases.values()), SMALL, say=lambda sentence: None)
    settings = TableSettings(partners=2, points=8, most_cycle_mm=13, least_score=0.5)
    rows = make_table(OneWay(), list(cases.values()), settings, say=lambda sentence: None)
    assert len(rows) == 48
    assert all(row.score == 1.0 for row in rows)


def test_points_are_body_and_the_same_every_time(cases: Cases) -> None:
    points = body_points(cases["a"], TableSettings(points=200))
    assert cases["a"].scout.in_body(points).all()
    np.testing.assert_array_equal(points, body_points(cases["a"], TableSettings(points=200)))
    assert not np.array_equal(points, body_points(cases["a"], TableSettings(points=200, seed=1)))


def test_a_single_case_matches_only_itself(cases: Cases) -> None:
    alone = [cases["a"]]
    with pytest.raises(DataError, match="--matcher self"):
        make_table(BodyMatcher(), alone, SMALL, say=lambda sentence: None)
    rows = make_table(SelfMatcher(), alone, SMALL, say=lambda sentence: None)
    assert {(row.case_a, row.case_b, row.cycle_mm) for row in rows} == {("a", "a", 0.0)}


class Surer(OneWay):
    """Comes back; the farther to the left, the surer."""

    name = "surer"
    unsure_share = 0.3

    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        return Matched(points_mm, -points_mm[:, 0], np.ones(len(points_mm), bool))


def test_the_least_sure_rows_are_left_out_where_scores_tell(cases: Cases) -> None:
    rows = make_table(Surer(), list(cases.values()), SMALL, say=lambda sentence: None)
    assert len(rows) == pytest.approx(0.7 * 96, abs=1)
    sure = TableSettings(partners=2, points=8, least_score=-1e9)
    everything = make_table(Surer(), list(cases.values()), sure, say=lambda sentence: None)
    assert len(everything) == 96
    left_out = [row for row in everything if row not in rows]
    assert max(row.score for row in left_out) <= min(row.score for row in rows)


def test_two_patients_that_are_less_alike_than_a_scan_and_itself_have_rows(weights: Path, cases: Cases) -> None:
    matcher = SamMatcher(weights)
    loose = TableSettings(points=8, most_cycle_mm=1e6)
    rows = make_table(matcher, [cases["a"], cases["b"]], loose, say=lambda sentence: None)
    assert SamMatcher.unsure_share == 0.3
    assert 10 <= len(rows) <= 13  # of 16
    assert max(row.score for row in rows) < 0.99


def test_preprocessing_makes_the_table_and_keeps_one_of_another_matcher(
    where: Folders, cases: Cases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, folder in zip(VARIABLES, (where.raw, where.preprocessed, where.results), strict=True):
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr("nnssl.match.table.make_matcher", lambda name: BodyMatcher())
    folder = tmp_path / "Dataset745_Phantoms" / "nnsslPlans_3d_fullres"
    folder.mkdir(parents=True)
    made = of_preprocessed(["a", "a_flipped"], str(folder))
    assert {row.matcher for row in made} == {"body:1"}
    assert {row.case_a for row in made} == {"a", "a_flipped"}
    own = [Match(case_a="a", point_a_mm=(1.0, 2.0, 3.0), case_b="b", point_b_mm=(4.0, 5.0, 6.0), score=1.0)]
    write_matches(table_file(folder, MatchedPoints), own)
    assert of_preprocessed(["a", "b"], str(folder)) == own == read_matches(table_file(folder, MatchedPoints))
    write_matches(table_file(folder, MatchedPoints), made)
    assert of_preprocessed(["a", "a_moved"], str(folder)) != made


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        TableSettings(points=0)
