"""Matchers give the same place of the world, whatever the file's axes are, and find what was moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnssl.errors import DataError, UsageError
from nnssl.match.affine import AffineMatcher
from nnssl.match.cases import MatchCase, Points
from nnssl.match.choose import FallbackMatcher, make_matcher
from nnssl.match.matcher import Matcher, cycle_error_mm
from nnssl.match.sam import SamMatcher
from nnssl.match.simple import BodyMatcher, SelfMatcher
from nnssl.match.table import TableSettings, body_points
from tests.match.conftest import LINEAR, SHIFT_MM, SPACING_MM

Cases = dict[str, MatchCase]
FINE_CELL_MM = 2 * SPACING_MM
COPIES = ("a_flipped", "a_permuted", "a_resampled")


def points_of(case: MatchCase, count: int = 40) -> Points:
    """Body points away from the scan's border, where a copy of another field of view has nothing to show."""
    points = body_points(case, TableSettings(points=4 * count))
    low = case.scout.origin_mm + 25
    high = case.scout.origin_mm + 4.0 * np.array(case.scout.image.shape)[::-1] - 25
    return points[((points > low) & (points < high)).all(axis=1)][:count]


@pytest.fixture(scope="module")
def matchers(cases: Cases, weights: Path) -> dict[str, Matcher]:
    made = {"sam": SamMatcher(weights), "affine": AffineMatcher(), "body": BodyMatcher()}
    for matcher in made.values():
        matcher.prepare(list(cases.values()))
    return made


@pytest.mark.parametrize("name", ["sam", "affine", "body"])
@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_a_scan_match_at_the_same_place_of_the_world(
    name: str, copy: str, matchers: dict[str, Matcher], cases: Cases
) -> None:
    points = points_of(cases["a"])
    there = matchers[name].match("a", points, copy)
    error = np.linalg.norm(there.points_mm - points, axis=1)
    assert there.valid.all()
    if name == "sam" and copy == "a_resampled":  # other voxels, and a network that never learned
        assert np.median(error) < FINE_CELL_MM
    else:
        assert np.median(error) < (1e-6 if name == "sam" else 4.0)
        assert np.quantile(error, 0.9) < FINE_CELL_MM


@pytest.mark.parametrize("name", ["sam", "affine", "body"])
def test_a_case_matches_itself_where_it_is(name: str, matchers: dict[str, Matcher], cases: Cases) -> None:
    matcher, points = matchers[name], points_of(cases["a"])
    there = matcher.match("a", points, "a")
    np.testing.assert_allclose(there.points_mm, points, atol=1e-6)
    assert (there.score > 0.99).all()
    assert (cycle_error_mm(matcher, "a", points, "a", there) < 1e-6).all()


def test_answers_of_embeddings_never_leave_the_scan_so_that_the_way_back_has_one(
    matchers: dict[str, Matcher], cases: Cases
) -> None:
    sam, points = matchers["sam"], body_points(cases["a"], TableSettings(points=1500))
    assert isinstance(sam, SamMatcher)
    there = sam.match("a", points, "b")
    b = sam._embedded("b")
    assert b.cells(there.points_mm)[1].all()
    assert np.isfinite(cycle_error_mm(sam, "a", points, "b", there)[there.valid]).all()
    beyond = b.centres_mm(np.array([0])) - 400.0
    corner = b.to_world[:3, 3]
    np.testing.assert_allclose(b.brought_in(np.concatenate([beyond, points[:1]])), [corner, points[0]])


def test_a_case_with_another_number_of_channels_is_refused(weights: Path, cases: Cases) -> None:
    matcher, a = SamMatcher(weights), cases["a"]
    matcher.prepare([replace(a, files=a.files * 2, modality=a.modality * 2)])
    with pytest.raises(DataError, match=r"take 1 channel\(s\), so 1 file\(s\) a case; .* are 2"):
        matcher.match("a", np.zeros((1, 3)), "a")


def test_a_moved_body_is_found_by_registration(matchers: dict[str, Matcher], cases: Cases) -> None:
    points = points_of(cases["a"])
    size = np.array(cases["a"].read().data.shape[:0:-1])
    centre = np.array([-120.0, 35.0, 410.0]) + SPACING_MM * (size - 1) / 2
    truth = (points - centre) @ LINEAR.T + centre + SHIFT_MM
    there = matchers["affine"].match("a", points, "a_moved")
    seen = there.valid
    assert seen.mean() > 0.8
    assert np.median(np.linalg.norm(there.points_mm - truth, axis=1)[seen]) < 4.0
    assert np.median(there.score[seen]) > 0.8


def test_two_people_match_better_than_by_lot(matchers: dict[str, Matcher], cases: Cases) -> None:
    """The spine runs where the body does: a point on its axis is matched to nearly its place along x and y."""
    points = points_of(cases["a"])
    for name in ("affine", "body"):
        there = matchers[name].match("a", points, "b")
        assert there.valid.mean() > 0.8
        assert np.median(np.abs(there.points_mm - points)) < 20.0


def test_scans_that_share_nothing_have_no_match(matchers: dict[str, Matcher], cases: Cases) -> None:
    a = cases["a"]
    matcher = SelfMatcher()
    matcher.prepare([a, cases["b"]])
    points = points_of(a)
    assert matcher.match("a", points, "a").valid.all()
    assert not matcher.match("a", points, "b").valid.any()
    for one in matchers.values():
        assert not one.match("a", points + 2000.0, "b").valid.any()


def test_fingerprints_follow_weights_and_template(weights: Path, cases: Cases, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    import torch

    content = torch.load(weights, weights_only=True)
    content["heads"]["fine.smooth.bias"] += 1.0
    torch.save(content, other)
    assert SamMatcher(weights).fingerprint() == SamMatcher(weights).fingerprint()
    assert SamMatcher(weights).fingerprint() != SamMatcher(other).fingerprint()
    ours, theirs = AffineMatcher(), AffineMatcher()
    ours.prepare([cases["a"]])
    theirs.prepare([cases["b"]])
    assert ours.fingerprint() != theirs.fingerprint()


def test_auto_takes_weights_else_registration_else_outlines(
    weights: Path, matchers: dict[str, Matcher], cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_matcher("auto", weights).name == "sam"
    matcher, affine = FallbackMatcher(), matchers["affine"]
    matcher.prepare(list(cases.values()))
    assert isinstance(affine, AffineMatcher)
    matcher._affine = affine
    assert matcher.label("a", "a_moved").startswith("affine:")
    points = points_of(cases["a"])
    assert (matcher.match("a", points, "a_moved").points_mm == affine.match("a", points, "a_moved").points_mm).all()
    monkeypatch.setattr(affine, "accepted", lambda a, b: False)
    assert matcher.label("a", "b") == "body:1"
    assert not affine.match("a", points, "b").valid.any()
    assert matcher.match("a", points, "b").valid.any()


def test_wrong_questions_are_refused(weights: Path, cases: Cases, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs weights"):
        make_matcher("sam")
    with pytest.raises(UsageError, match="takes no weights"):
        make_matcher("body", weights)
    with pytest.raises(UsageError, match="auto, sam"):
        make_matcher("eye")
    with pytest.raises(UsageError, match="'z' was not prepared"):
        BodyMatcher().match("z", np.zeros((1, 3)), "z")
    import torch

    content = torch.load(weights, weights_only=True)
    del content["heads"]
    torch.save(content, tmp_path / "headless.pth")
    with pytest.raises(DataError, match="holds no embedding heads"):
        SamMatcher(tmp_path / "headless.pth")
