"""The merged plan takes its architecture from the weights and says where everything else comes from."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnssl.errors import PlanError
from nnssl.planning.plan_like import Keep, LikePlan, default_name, plan_like
from tests.tiny import tiny_plans


def pretrain(**changes: Any) -> dict[str, Any]:
    return tiny_plans("Dataset745_Pre", residual=True, **changes)


def own(**changes: Any) -> dict[str, Any]:
    return tiny_plans("Dataset004_Target", plans_name="own", **({"spacing_mm": (3.0, 1.0, 1.0)} | changes))


def merged(theirs: dict[str, Any], target: dict[str, Any], keep: Keep | None = None, cases: int = 1000) -> LikePlan:
    natural = target["configurations"]["3d_fullres"]["spacing"]
    return plan_like(theirs, target, name="P", keep=keep or Keep(), natural_spacing_mm=natural, cases=cases)


def only(like: LikePlan) -> dict[str, Any]:
    (configuration,) = like.plans["configurations"].values()
    made: dict[str, Any] = configuration
    return made


def test_architecture_is_the_weights_and_labels_readers_and_names_are_the_targets() -> None:
    like = merged(pretrain(), own())
    assert only(like)["architecture"] == pretrain()["configurations"]["3d_fullres"]["architecture"]
    assert like.plans["dataset_name"] == "Dataset004_Target"
    assert like.plans["plans_name"] == "P"
    assert only(like)["data_identifier"] == "P_3d_fullres"


def test_spacing_is_the_weights_and_the_median_shape_follows() -> None:
    configuration = only(merged(pretrain(), own()))
    assert configuration["spacing"] == [1.5, 1.25, 1.0]
    assert configuration["median_image_size_in_voxels"] == pytest.approx([40 * 2, 44 / 1.25, 48])


def test_keep_spacing_keeps_it_and_warns_where_it_is_far() -> None:
    like = merged(pretrain(), own(), Keep(spacing=True))
    assert only(like)["spacing"] == [3.0, 1.0, 1.0]
    assert only(like)["median_image_size_in_voxels"] == [40.0, 44.0, 48.0]
    assert not like.warnings
    assert "up to 6.0 times" in merged(pretrain(), own(spacing_mm=(9.0, 1.0, 1.0)), Keep(spacing=True)).warnings[0]


def test_resampling_that_multiplies_voxels_or_loses_detail_is_said() -> None:
    assert "times more voxels" in merged(pretrain(), own(spacing_mm=(5.0, 5.0, 5.0))).warnings[0]
    assert "loses detail" in merged(pretrain(), own(spacing_mm=(0.5, 0.4, 0.4))).warnings[0]


def test_ct_statistics_are_those_of_the_pretraining_unless_kept() -> None:
    theirs, target = pretrain(), own()
    theirs["foreground_intensity_properties_per_channel"]["0"]["mean"] = -7.0
    like = merged(theirs, target)
    assert like.plans["foreground_intensity_properties_per_channel"]["0"]["mean"] == -7.0
    assert any("minus -7" in choice.why for choice in like.choices)
    kept = merged(theirs, target, Keep(normalization=True))
    assert kept.plans["foreground_intensity_properties_per_channel"]["0"]["mean"] == 60.0


def test_a_ct_pretraining_never_normalises_an_mr_target() -> None:
    like = merged(pretrain(kind="ct"), own(kind="mr"))
    assert only(like)["normalization_schemes"] == ["ZScoreNormalization"]
    assert any("CT against another modality" in warning for warning in like.warnings)


def test_another_scheme_for_the_same_kind_of_scan_is_taken_from_the_weights() -> None:
    target = own(kind="mr")
    target["configurations"]["3d_fullres"]["normalization_schemes"] = ["RescaleTo01Normalization"]
    assert only(merged(pretrain(kind="mr"), target))["normalization_schemes"] == ["ZScoreNormalization"]


def test_keep_patch_takes_the_targets_made_legal() -> None:
    target = own(patch_size=(40, 45, 20))
    assert only(merged(pretrain(), target, Keep(patch=True)))["patch_size"] == [40, 40, 16]
    assert only(merged(pretrain(), target))["patch_size"] == [32, 32, 32]


def test_a_much_smaller_patch_than_the_targets_own_is_said() -> None:
    assert "--keep_patch" in merged(pretrain(), own(patch_size=(64, 96, 96))).warnings[-1]


@given(
    patch=st.tuples(*[st.integers(1, 40)] * 3),
    median=st.tuples(*[st.integers(1, 600)] * 3),
    batch=st.integers(1, 16),
    cases=st.integers(1, 500),
)
def test_patches_are_legal_for_the_strides_and_no_larger_than_cases_need(
    patch: tuple[int, int, int], median: tuple[int, int, int], batch: int, cases: int
) -> None:
    theirs, target = pretrain(), own(spacing_mm=(1.5, 1.25, 1.0))
    theirs["configurations"]["3d_fullres"].update(patch_size=[8 * side for side in patch], batch_size=batch)
    target["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = [float(side) for side in median]
    made = only(merged(theirs, target, cases=cases))
    sides = made["patch_size"]
    assert all(side % 8 == 0 and side > 0 for side in sides)
    assert sides[0] * sides[1] * sides[2] >= 8 * 8**3
    needed = [8 * math.ceil(bound / 8) for bound in median]
    wanted = [min(8 * side, bound) for side, bound in zip(patch, needed, strict=True)]
    if math.prod(wanted) >= 8 * 8**3:
        assert sides == wanted
    assert made["batch_size"] >= 2


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(PlanError, match="take 2 channels, Dataset004_Target has 1"):
        merged(pretrain(kind="two"), own())


def test_links_to_other_configurations_are_cut() -> None:
    target = own()
    target["configurations"]["3d_fullres"]["next_stage"] = "3d_cascade_fullres"
    assert "next_stage" not in only(merged(pretrain(), target))


def test_default_names_tell_what_was_kept_apart() -> None:
    assert default_name(pretrain(), Keep()) == "nnsslPlansLike745"
    assert default_name(pretrain(), Keep(patch=True, spacing=True)) == "nnsslPlansLike745OwnSpacingOwnPatch"
