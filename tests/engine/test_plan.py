"""Checks that spare a late crash."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnssl.engine.plan import check_batch, check_views, plan_info
from nnssl.engine.recipe import Recipe
from nnssl.errors import PlanError, PluginError, RecipeError
from nnssl.method import Needs
from nnssl.views.spec import Source, ViewGroup, ViewSpec
from tests.tiny import tiny_plans

CONFIGURATION = tiny_plans("Dataset701_Tiny")["configurations"]["3d_fullres"]


def test_plan_says_strides_features_and_spacing() -> None:
    info = plan_info(CONFIGURATION, channels=2)
    assert info.total_stride == (8, 8, 8)
    assert info.features == (8, 16, 32, 64)
    assert (info.patch_size, info.spacing_mm, info.channels) == ((32, 32, 32), (1.5, 1.25, 1.0), 2)
    assert plan_info(CONFIGURATION, channels=1, patch_size=(16, 24, 32)).patch_size == (16, 24, 32)


def test_patch_must_be_divisible_by_the_strides() -> None:
    with pytest.raises(PlanError, match=r"\(36, 32, 32\) must be divisible.*\(8, 8, 8\).*use \(32, 32, 32\)"):
        plan_info(CONFIGURATION, channels=1, patch_size=(36, 32, 32))


def test_flat_plans_are_refused() -> None:
    with pytest.raises(PlanError, match="Use 3d_fullres or 3d_lowres"):
        plan_info({**CONFIGURATION, "patch_size": [32, 32]}, channels=1)


def test_other_networks_are_refused() -> None:
    architecture = {"network_class_name": "some.Primus", "arch_kwargs": {"embed_dim": 8}}
    with pytest.raises(PlanError, match=r"some\.Primus"):
        plan_info({**CONFIGURATION, "architecture": architecture}, channels=1)


def test_views_must_be_divisible_and_have_a_source() -> None:
    plan = plan_info(CONFIGURATION, channels=1)
    group = ViewGroup(name="global", size=(16, 16, 20))
    spec = ViewSpec(sources=(Source(size=((20, 20), (20, 20), (20, 20))),), groups=(group,))
    with pytest.raises(PlanError, match=r"views 'global' \(16, 16, 20\) must be divisible"):
        check_views(spec, plan, Needs())
    other = replace(spec, groups=(replace(group, size=(16, 16, 16), source="other"),))
    with pytest.raises(PluginError, match="names source 'other'"):
        check_views(other, plan, Needs())


@pytest.mark.parametrize(
    ("needs", "recipe", "ranks", "message"),
    [
        (Needs(batch_coupled=True), Recipe(accumulate=2), 1, "accumulate must be 1"),
        (Needs(min_cases=3), Recipe(batch_size=2), 1, "at least 3 cases.*batch_size=3"),
        (Needs(min_cases=3), Recipe(batch_size=8, accumulate=2), 2, "gives it 2 .*batch_size=12"),
        (Needs(min_cases=3, batch_coupled=True), Recipe(batch_size=2), 2, "batch_size=3"),
        (Needs(samples_per_case=4), Recipe(batch_size=6), 1, "multiple of 4"),
    ],
)
def test_batch_that_gives_the_loss_no_meaning_is_refused(
    needs: Needs, recipe: Recipe, ranks: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_batch(needs, recipe, ranks=ranks)


def test_fitting_batches_pass() -> None:
    check_batch(Needs(min_cases=3, batch_coupled=True), Recipe(batch_size=4), ranks=2)
    check_batch(Needs(min_cases=2, samples_per_case=2), Recipe(batch_size=8, accumulate=2), ranks=1)
