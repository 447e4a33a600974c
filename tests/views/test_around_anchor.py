"""Views around an anchor: uniform over the admissible places, always with the anchor, exact crops of the case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnssl.data.loader import make_batch
from nnssl.data.sampler import draw_sample
from nnssl.data.sidecar import BodyMask, write_sidecar
from nnssl.needs import Needs
from nnssl.views.draws import SourceBox, draw_views
from nnssl.views.spec import WHOLE_CASE, Geometry, IntegerCrop, Source, ViewGroup, ViewSpec
from tests.volumes import collect, ramp, write_case

ANISOTROPIC = (3.0, 0.8, 1.1)


def drawn(
    shape: tuple[int, ...], anchor: tuple[int, ...], size: tuple[int, int, int], keys: int, **fields: object
) -> np.ndarray:
    """(keys, views, 3) corners of the views of a box that is the whole case."""
    box = SourceBox(
        lower=np.zeros(3, np.int64),
        size=np.array(shape),
        anchor=np.array(anchor, dtype=float),
        spacing_mm=np.array(ANISOTROPIC),
        channels=1,
    )
    options = {"geometry": IntegerCrop()} | fields
    group = ViewGroup(name="v", count=2, size=size, place="around_anchor", **options)  # type: ignore[arg-type]
    return np.array([[view.origin for view in draw_views(group, box, 5, key)] for key in range(keys)])


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    size=st.tuples(*[st.integers(1, 20)] * 3),
    where=st.tuples(*[st.floats(0, 0.999)] * 3),
)
def test_views_hold_the_anchor_and_stay_in_the_case(shape, size, where) -> None:  # type: ignore[no-untyped-def]
    anchor = tuple(int(share * side) for share, side in zip(where, shape, strict=True))
    origin = drawn(shape, anchor, size, keys=4)
    assert (origin == np.round(origin)).all()
    assert (origin <= anchor).all() and (anchor < origin + np.array(size)).all()
    low, high = np.minimum(0, np.array(shape) - size), np.maximum(0, np.array(shape) - size)
    assert (origin >= low).all() and (origin <= high).all()  # a case smaller than the view lies wholly in it


@pytest.mark.parametrize(
    ("side", "size", "anchor"), [(40, 12, 20), (40, 12, 3), (40, 12, 38), (14, 12, 7), (12, 12, 5), (30, 1, 9)]
)
def test_starts_are_uniform_on_the_admissible_interval_and_independent(side: int, size: int, anchor: int) -> None:
    low, high = max(0, anchor - size + 1), min(side - size, anchor)
    origin = drawn((side,) * 3, (anchor,) * 3, (size,) * 3, keys=600)
    for axis in range(3):
        both = [origin[:, view, axis].astype(int) - low for view in range(2)]
        assert min(b.min() for b in both) == 0 and max(b.max() for b in both) == high - low
        if high == low:
            continue
        for starts in both:
            counts = np.bincount(starts, minlength=high - low + 1)
            assert stats.chisquare(counts).pvalue > 1e-4
        assert abs(np.corrcoef(*both)[0, 1]) < 0.15


def test_zoomed_regions_hold_the_anchor_too() -> None:
    group = {"geometry": Geometry(scale=(0.7, 1.4), per_axis=True)}
    origin = drawn((40, 40, 40), (3, 20, 39), (10, 10, 10), keys=50, **group)
    assert (origin <= [3, 20, 39]).all() and (origin >= 0).all()
    assert (origin != np.round(origin)).any()


def test_a_body_anchored_pair_is_a_pair_of_exact_crops(tmp_path: Path) -> None:
    shape = (20, 26, 30)
    entry = write_case(tmp_path, "ramp", ramp(shape), spacing_mm=ANISOTROPIC, sidecars={"body": "ramp.body.npz"})
    mask = np.zeros((20, 26, 30), bool)
    mask[4:9, 15:, 2:20] = True
    arrays = {"mask": mask, "first": np.zeros(3, np.int64), "stride": np.ones(3, np.int64)}
    write_sidecar(tmp_path / "ramp.body.npz", BodyMask, arrays)
    group = ViewGroup(name="v", count=2, size=(8, 12, 10), place="around_anchor", geometry=IntegerCrop())
    spec = ViewSpec(sources=(Source(anchor="body", size=WHOLE_CASE),), groups=(group,))
    needs = Needs(sidecars=(BodyMask,))
    batch = make_batch(collect(entry), spec, needs, range(20), seed=0)
    view = batch.views["v"]
    assert view.valid.all()
    index = ramp((8, 12, 10))
    for row in range(20):
        sample = draw_sample(collect(entry), spec, entry, row, 0)
        anchor = sample.sources["case"].box.anchor.astype(int)
        assert mask[tuple(anchor)]
        for number in range(2):
            start = view.to_source[row, number, :3, 3].numpy()
            assert np.array_equal(view.image[row, number].numpy(), index + start[:, None, None, None])
            assert (start <= anchor).all() and (anchor < start + np.array(group.size)).all()
