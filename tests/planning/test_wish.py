"""A preset brings its own plan."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from nnssl import registry
from nnssl.engine.plan import plan_info
from nnssl.engine.recipe import PlanWish, Recipe, resolve
from nnssl.errors import PlanError, PluginError, RecipeError, UsageError
from nnssl.nnunet import build_network
from nnssl.planning.requirements import of_trainers
from nnssl.planning.wish import wished
from tests.tiny import tiny_plans

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
WISH = PlanWish(name="Paper", spacing_mm=2.0, patch_size=(16, 32, 32), strides=STRIDES)


def planner_made(**changes: Any) -> dict[str, Any]:
    """A plan of four stages with further configurations."""
    plans = tiny_plans("Dataset745_Tiny", plans_name="nnsslPlansPaper", **changes)
    plans["configurations"] |= {"2d": {"patch_size": [64, 64]}, "3d_lowres": {"inherits_from": "3d_fullres"}}
    return plans


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "resenc"])
def test_the_planners_plan_gets_the_wished_patch_spacing_and_strides(residual: bool) -> None:
    before = planner_made(residual=residual)
    untouched = copy.deepcopy(before)
    plans = wished(before, WISH)
    assert before == untouched and list(plans["configurations"]) == ["3d_fullres"]
    configuration = plans["configurations"]["3d_fullres"]
    info = plan_info(configuration, channels=1)
    assert (info.patch_size, info.spacing_mm, info.total_stride) == ((16, 32, 32), (2.0, 2.0, 2.0), (8, 16, 16))
    assert info.features == (8, 16, 32, 64, 128)
    name = before["configurations"]["3d_fullres"]["architecture"]["network_class_name"]
    assert configuration["architecture"]["network_class_name"] == name
    build_network(configuration["architecture"], channels=1, classes=2)
    for key in ("normalization_schemes", "data_identifier", "batch_size"):
        assert configuration[key] == before["configurations"]["3d_fullres"][key]


def test_thick_slices_can_be_wished_for() -> None:
    wish = replace(WISH, spacing_mm=(2.0, 1.0, 1.0))
    assert wished(planner_made(), wish)["configurations"]["3d_fullres"]["spacing"] == [2.0, 1.0, 1.0]
    assert (wish.spacing_words, WISH.spacing_words, WISH.spacing) == ("2 x 1 x 1 mm", "2 mm", (2.0, 2.0, 2.0))
    with pytest.raises(PluginError, match="D the largest"):
        replace(WISH, spacing_mm=(1.0, 1.0, 2.0))


def test_networks_without_strides_and_transposed_axes_are_refused() -> None:
    plans = planner_made()
    del plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"]
    with pytest.raises(PlanError, match=r"convolutional U-Nets; the planner chose .*PlainConvUNet"):
        wished(plans, WISH)
    with pytest.raises(PlanError, match=r"axes in the order of the files; the planner chose \[2, 0, 1\]"):
        wished({**planner_made(), "transpose_forward": [2, 0, 1]}, WISH)


@pytest.mark.parametrize("change", [{"name": "a/b"}, {"spacing_mm": 0.0}, {"patch_size": (16, 40, 32)},
                                    {"patch_size": (8, 32, 48)}])  # fmt: skip
def test_a_wish_that_cannot_be_planned_is_refused_where_it_is_written(change: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="divides into at least 8 cells"):
        replace(WISH, **change)


def test_the_wish_is_no_key_of_a_run() -> None:
    trainer = SimpleNamespace(
        __name__="T", method=SimpleNamespace(Config=int), recipe=Recipe(method=0), presets={"paper": Recipe(plan=WISH)}
    )
    plain, paper = Recipe(), Recipe(plan=WISH)
    assert paper.to_json() == plain.to_json() and paper.digest() == plain.digest()
    assert resolve(trainer, "paper", {"epochs": 3}).plan == WISH
    with pytest.raises(RecipeError, match=r"Unknown key plan\."):
        resolve(trainer, "paper", {"plan": "none"})


def test_trainers_that_bring_different_plans_are_planned_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnssl.needs import Needs

    method = SimpleNamespace(Config=int, needs=lambda config: Needs(values="raw"))
    found = {
        name: SimpleNamespace(__name__=name, method=method, recipe=Recipe(), presets={"paper": Recipe(plan=wish)})
        for name, wish in (("A", WISH), ("B", replace(WISH, name="Other")), ("C", None), ("D", WISH))
    }
    monkeypatch.setattr(registry, "find_trainer", lambda name: found[name])
    required = of_trainers(["A", "C", "D"], "paper")
    assert required.plan == WISH and required.raw
    assert of_trainers(["A"]).plan is None
    with pytest.raises(UsageError, match="A and B bring different plans"):
        of_trainers(["A", "B"], "paper")
