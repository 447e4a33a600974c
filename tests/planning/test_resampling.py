"""Our resampling against nnU-Net's own function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnssl.planning.resampling import is_reproduced, nearest_indices, new_shape, resample, separate_axis

OPTIONS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
SIDES = st.tuples(*[st.integers(2, 19)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.25, 2.0, 3.0, 5.0])] * 3)


def theirs(data, shape, spacing, target, force=None):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    return resample_data_or_seg_to_shape(data, shape, spacing, target, **{**OPTIONS, "force_separate_z": force})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(SIDES, SIDES, SPACINGS, SPACINGS, st.sampled_from([None, None, True, False]), st.integers(1, 2))
def test_resampling_equals_nnunets(old, new, spacing, target, force, channels):
    data = np.random.default_rng(sum(old)).standard_normal((channels, *old)).astype(np.float32) * 3 + 5
    expected = theirs(data, new, spacing, target, force)
    result = resample(data, new, separate_axis(spacing, target, force))
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() < 1e-4 * data.std()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SPACINGS, SPACINGS, st.sampled_from([None, True, False]))
def test_separate_axis_follows_nnunets_rule(spacing, target, force):
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    separate, axis = determine_do_sep_z_and_axis(force, spacing, target)
    assert separate_axis(spacing, target, force) == (axis if separate else None)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), [(5, 10), (10, 5), (7, 19), (4, 6), (3, 12), (33, 100)])
def test_nearest_slices_are_nnunets_also_at_halves(axis, old, new):
    shape, target_shape, spacing, target = [6, 6, 6], [6, 6, 6], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]
    shape[axis], target_shape[axis], spacing[axis] = old, new, 5.0
    data = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    expected = theirs(data, target_shape, spacing, target)
    assert np.abs(resample(data, target_shape, axis) - expected).max() < 1e-5


def test_nearest_indices_by_hand():
    assert nearest_indices(2, 4).tolist() == [0, 0, 1, 1]
    assert nearest_indices(4, 2).tolist() == [1, 3]  # centres at 0.5 and 2.5: halves go up


def test_clipping_is_by_slice_when_one_axis_is_separate():
    data = np.zeros((1, 2, 8, 8), np.float32)
    data[0, 0, 4, 4] = 1000.0
    result = resample(data, (2, 16, 16), 0)
    assert result[0, 0].min() == 0
    assert np.abs(result[0, 1]).max() == 0


def test_no_change_of_shape_is_no_work():
    data = np.ones((1, 3, 4, 5), np.float32)
    assert resample(data, (3, 4, 5), None) is data


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SIDES, SPACINGS, SPACINGS)
def test_new_shape_rounds_as_nnunet(shape, spacing, target):
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    assert new_shape(shape, spacing, target) == tuple(compute_new_shape(shape, spacing, target))


def test_only_nnunets_default_is_reproduced():
    assert is_reproduced("resample_data_or_seg_to_shape", OPTIONS)
    assert is_reproduced("resample_data_or_seg_to_shape", {**OPTIONS, "force_separate_z": False})
    assert not is_reproduced("resample_data_or_seg_to_shape", {**OPTIONS, "order": 1})
    assert not is_reproduced("resample_torch_fornnunet", OPTIONS)
