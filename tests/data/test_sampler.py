"""Sources and views of a sample: where they lie, how they relate, that they are keyed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnssl.data.collection import Collection
from nnssl.data.loader import make_batch
from nnssl.data.sampler import draw_sample
from nnssl.data.sidecar import BodyMask, write_sidecar
from nnssl.errors import DataError
from nnssl.needs import Match, MatchedPoints, Needs
from nnssl.views.affine import overlap
from nnssl.views.spec import Geometry, IntegerCrop, Source, ViewGroup, ViewSpec
from tests.volumes import collect, noise, noise_cases, one_group, ramp, write_case


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return noise_cases(tmp_path_factory.mktemp("four"), 4)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(4, 40)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
    low=st.integers(1, 50),
    more=st.integers(0, 20),
    key=st.integers(0, 1000),
)
def test_source_boxes_lie_in_the_case_and_hold_the_views(four, shape, size, low, more, key) -> None:  # type: ignore[no-untyped-def]
    entry = replace(four.training[0], shape=shape)
    spec = one_group(size, source=(low, low + more), geometry=IntegerCrop())
    drawn = draw_sample(four, spec, entry, key, 0)
    box, view = drawn.sources["case"].box, drawn.views["v"][0]
    expected_low = np.minimum(np.maximum(low, size), shape)
    assert (box.lower >= 0).all() and (box.lower + box.size <= shape).all()
    assert (box.size >= expected_low).all() and (box.size <= np.maximum(expected_low, low + more)).all()
    fits = np.array(size) <= box.size
    inside = (view.origin >= box.lower) & (view.origin + size <= box.lower + box.size)
    assert inside[fits].all()
    # A case smaller than the view lies wholly in it.
    around = (view.origin <= box.lower) & (view.origin + size >= box.lower + box.size)
    assert around[~fits].all()


@settings(max_examples=30, deadline=None)
@given(zoom=st.floats(1.0, 3.0), key=st.integers(0, 1000))
def test_a_zoomed_region_stays_in_the_source_box_without_being_stretched(four, zoom: float, key: int) -> None:  # type: ignore[no-untyped-def]
    spec = one_group((8, 8, 8), source=(12, 16), geometry=Geometry(scale=(zoom, zoom)))
    drawn = draw_sample(four, spec, four.training[0], key, 0)
    box, view = drawn.sources["case"].box, drawn.views["v"][0]
    assert (view.origin >= box.lower - 1e-9).all()
    assert (view.origin + 8 * view.scale <= box.lower + box.size + 1e-9).all()
    assert np.ptp(view.scale) == 0 and view.scale[0] == min(zoom, box.size.min() / 8)


@pytest.mark.parametrize("least", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("geometry", [IntegerCrop(), Geometry(scale=(0.8, 1.2), rotation_deg=30, flip=(0.5, 0.5, 0.5))])
def test_min_overlap_holds_between_any_two_views(four: Collection, least: float, geometry: Geometry) -> None:
    spec = one_group((8, 10, 10), geometry=geometry, count=3, min_overlap=least)
    places = set()
    for key in range(25):
        views = draw_sample(four, spec, four.training[0], key, 0).views["v"]
        for first in range(3):
            for second in range(first):
                assert overlap(views[first].to_case, views[second].to_case, (8, 10, 10)) >= least
        places.add(tuple(views[0].origin))
    assert len(places) > 20


def test_views_without_min_overlap_do_lie_apart(four: Collection) -> None:
    spec = one_group((8, 8, 8), geometry=IntegerCrop(), count=2)
    shares = []
    for key in range(60):
        one, two = draw_sample(four, spec, four.training[0], key, 0).views["v"]
        shares.append(overlap(one.to_case, two.to_case, (8, 8, 8)))
    assert min(shares) < 0.05 and max(shares) > 0.4


def test_changing_one_probability_leaves_the_other_draws(four: Collection) -> None:
    calm = one_group((8, 8, 8), geometry=Geometry(scale=(0.8, 1.2), rotation_deg=30))
    flipping = one_group((8, 8, 8), geometry=Geometry(scale=(0.8, 1.2), rotation_deg=30, flip=(1, 1, 1), rot90=1.0))
    for key in range(5):
        one, two = (draw_sample(four, spec, four.training[0], key, 0).views["v"][0] for spec in (calm, flipping))
        assert np.array_equal(one.scale, two.scale) and np.array_equal(one.rotation_deg, two.rotation_deg)


def test_grid_tiles_put_together_give_the_source_box(tmp_path: Path) -> None:
    array = noise((9, 12, 18))
    group = ViewGroup(name="v", size=(4, 6, 6), count=12, place="grid", grid=(2, 2, 3), geometry=IntegerCrop())
    spec = ViewSpec(sources=(Source(size=((9, 9), (12, 12), (18, 18))),), groups=(group,))
    tiles = make_batch(collect(write_case(tmp_path, "a", array)), spec, Needs(), [0], seed=0).views["v"].image[0, :, 0]
    whole = tiles.reshape(2, 2, 3, 4, 6, 6).permute(0, 3, 1, 4, 2, 5).reshape(8, 12, 18)
    assert np.array_equal(whole.numpy(), array[0, :8])


def test_other_is_another_case_and_every_other_has_its_turn(four: Collection) -> None:
    size = ((8, 8),) * 3
    spec = ViewSpec(
        sources=(Source(size=size), Source(name="second", pick="other", size=size)),
        groups=(ViewGroup(name="a", size=(8, 8, 8)), ViewGroup(name="b", source="second", size=(8, 8, 8))),
    )
    seen = set()
    for key in range(40):
        drawn = draw_sample(four, spec, four.training[1], key, 0)
        assert drawn.sources["case"].entry.case_id == "case_1"
        seen.add(drawn.sources["second"].entry.case_id)
    assert seen == {"case_0", "case_2", "case_3"}
    batch = make_batch(four, spec, Needs(), range(4), seed=0, batch_size=4)
    for one, two in zip(batch.sources["case"].case_ids, batch.sources["second"].case_ids, strict=True):
        assert one != two
    assert batch.views["b"].source == "second"


def test_the_only_case_has_no_other(tmp_path: Path) -> None:
    alone = noise_cases(tmp_path, 1)
    spec = ViewSpec(sources=(Source(pick="other", size=((8, 8),) * 3),), groups=(ViewGroup(name="a", size=(8, 8, 8)),))
    with pytest.raises(DataError, match="case_0 is the only one"):
        draw_sample(alone, spec, alone.training[0], 0, 0)


def test_a_body_anchor_is_a_body_voxel_inside_its_box(tmp_path: Path) -> None:
    entry = write_case(tmp_path, "a", ramp((16, 20, 24)), sidecars={"body": "a.body.npz"})
    mask = np.zeros((8, 10, 12), dtype=bool)
    mask[6, 1, 10] = mask[0, 9, 0] = True
    arrays = {"mask": mask, "first": np.array([0, 0, 1]), "stride": np.array([2, 2, 2])}
    write_sidecar(tmp_path / "a.body.npz", BodyMask, arrays)
    spec = ViewSpec(sources=(Source(anchor="body", size=((6, 9),) * 3),), groups=(ViewGroup(name="v", size=(4, 4, 4)),))
    found, corners = set(), set()
    for key in range(40):
        box = draw_sample(collect(entry), spec, entry, key, 0).sources["case"].box
        assert (box.lower <= box.anchor).all() and (box.anchor < box.lower + box.size).all()
        found.add(tuple(box.anchor.tolist()))
        corners.add(tuple((box.anchor - box.lower).tolist()))
    assert found == {(12, 2, 21), (0, 18, 1)}
    assert len(corners) > 15


def test_partners_are_anchored_on_their_matched_points(tmp_path: Path) -> None:
    one = write_case(tmp_path, "a", ramp((20, 20, 20)), spacing_mm=(2.0, 1.0, 1.0))
    two = write_case(tmp_path, "b", ramp((24, 24, 24)), spacing_mm=(2.0, 1.0, 1.0))
    point_a, point_b = (10.0 + 2 * 9, 20.0 + 8, 30.0 + 11), (10.0 + 2 * 12, 20.0 + 14, 30.0 + 10)
    forth = Match(case_a="a", point_a_mm=point_a, case_b="b", point_b_mm=point_b, score=1.0)
    both = replace(collect(one, two), matches={("Dataset001_Test", "a"): (forth,)})
    size = ((9, 9),) * 3
    spec = ViewSpec(
        sources=(Source(anchor="table", size=size), Source(name="partner", pick="partner", anchor="table", size=size)),
        groups=(
            ViewGroup(name="a", size=(5, 5, 5), place="anchor", geometry=IntegerCrop()),
            ViewGroup(name="b", source="partner", size=(5, 5, 5), place="anchor", geometry=IntegerCrop()),
        ),
    )
    drawn = draw_sample(both, spec, one, 7, 0)
    assert drawn.sources["case"].box.lower.tolist() == [5, 4, 7]
    assert drawn.sources["partner"].entry.case_id == "b"
    np.testing.assert_allclose(drawn.sources["partner"].anchor_mm, point_b)
    centre = drawn.views["b"][0].to_case @ np.array([2, 2, 2, 1])
    np.testing.assert_allclose(centre[:3], (12, 14, 10))
    with pytest.raises(DataError, match="b has no matched point"):
        draw_sample(both, spec, two, 0, 0)


@pytest.mark.parametrize("jitter_mm", [0.0, 6.0])
def test_padded_boxes_stay_centred_on_their_match_and_move_together(tmp_path: Path, jitter_mm: float) -> None:
    one = write_case(tmp_path, "a", ramp((20, 20, 20)), spacing_mm=(2.0, 1.0, 1.0))
    two = write_case(tmp_path, "b", ramp((24, 24, 24)), spacing_mm=(2.0, 1.0, 1.0))
    voxel_a, voxel_b = np.array([1.0, 9.2, 18.0]), np.array([12.4, 23.0, 3.0])  # near borders
    scale, corner = np.array([2.0, 1.0, 1.0]), np.array([10.0, 20.0, 30.0])
    point_a, point_b = (tuple((corner + scale * voxel).tolist()) for voxel in (voxel_a, voxel_b))
    row = Match(case_a="a", point_a_mm=point_a, case_b="b", point_b_mm=point_b, score=1.0)  # type: ignore[arg-type]
    back = replace(row, case_a="b", point_a_mm=row.point_b_mm, case_b="a", point_b_mm=row.point_a_mm)
    both = replace(collect(one, two), matches={("Dataset001_Test", "a"): (row,), ("Dataset001_Test", "b"): (back,)})
    source = Source(anchor="table", size=((8, 8),) * 3, jitter_mm=jitter_mm, padded=True)
    group = ViewGroup(name="a", size=(8, 8, 8), place="anchor", geometry=IntegerCrop())
    spec = ViewSpec(
        sources=(source, replace(source, name="partner", pick="partner")),
        groups=(group, replace(group, name="b", source="partner")),
    )
    shifts = []
    for key in range(12):
        drawn = draw_sample(both, spec, one, key, 0)
        names = [drawn.sources[name].entry.case_id for name in ("case", "partner")]
        assert names == ["a", "b"]
        moved = [(drawn.sources[name].anchor_mm - corner) / scale for name in ("case", "partner")]
        shift = moved[0] - voxel_a
        np.testing.assert_allclose(moved[1] - voxel_b, shift, atol=1e-9)  # the same vector
        for name, anchor in zip(("a", "b"), moved, strict=True):
            centre = (drawn.views[name][0].to_case @ np.array([3.5, 3.5, 3.5, 1]))[:3]
            assert np.abs(centre - anchor).max() <= 0.5 + 1e-9
        shifts.append(shift * scale)
    assert np.abs(shifts).max() <= jitter_mm and (np.ptp(shifts, axis=0) > jitter_mm).all() == (jitter_mm > 0)
    view = make_batch(both, spec, Needs(tables=(MatchedPoints,)), [0], seed=0, batch_size=2).views["a"]
    inside = view.valid[0, 0, 0]
    assert inside.any() and not inside.all()
    index = (view.to_source[0, 0, :3, 3]).long()
    at = inside.nonzero()
    assert torch.equal(view.image[0, 0][:, inside].T.long(), at + index)


def test_a_point_outside_its_case_is_the_nearest_voxel(tmp_path: Path) -> None:
    entry = write_case(tmp_path, "a", ramp((20, 20, 20)))
    row = Match(case_a="a", point_a_mm=(0.0, 25.0, 99.0), case_b="a", point_b_mm=(0.0, 25.0, 99.0), score=1.0)
    both = replace(collect(entry), matches={("Dataset001_Test", "a"): (row,)})
    spec = ViewSpec(
        sources=(Source(anchor="table", size=((4, 4),) * 3, padded=True),),
        groups=(ViewGroup(name="v", size=(4, 4, 4), place="anchor"),),
    )
    box = draw_sample(both, spec, entry, 0, 0).sources["case"].box
    assert box.anchor.tolist() == [0, 5, 19]


def test_keep_clean_is_the_image_before_its_intensities(four: Collection) -> None:
    from nnssl.views.intensity import BrightnessAdd
    from nnssl.views.spec import Intensity

    plain = make_batch(four, one_group((8, 8, 8), keep_clean=True), Needs(), [0], seed=0).views["v"]
    assert plain.clean is not None and torch.equal(plain.image, plain.clean)
    bright = Intensity(ops=(BrightnessAdd(3.0),))
    spec = one_group((8, 8, 8), keep_clean=True, count=2, intensity=(bright, Intensity()))
    changed = make_batch(four, spec, Needs(), [0], seed=0).views["v"]
    assert changed.clean is not None
    assert not torch.equal(changed.image[:, 0], changed.clean[:, 0])
    assert torch.equal(changed.image[:, 1], changed.clean[:, 1])
    assert make_batch(four, one_group((8, 8, 8)), Needs(), [0], seed=0).views["v"].clean is None
