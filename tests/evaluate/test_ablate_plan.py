"""What an ablation will run: one factor at a time, checked before anything starts."""

from __future__ import annotations

import doctest

import pytest

from nnssl.errors import NnsslError, RecipeError, UsageError
from nnssl.evaluate.ablate import plan as ablate_plan
from nnssl.evaluate.ablate.plan import Factor, plan_runs, read_factor
from nnssl.registry import find_trainer


@pytest.fixture(scope="module")
def mae() -> type:
    return find_trainer("MAETrainer")


def test_values_are_parted_by_commas_outside_brackets() -> None:
    assert doctest.testmod(ablate_plan).failed == 0
    assert read_factor("optimizer.lr=1e-3, 1e-4") == Factor("optimizer.lr", ("1e-3", "1e-4"))


@pytest.mark.parametrize(
    "word", ["optimizer.lr", "optimizer.lr=", "=1,2", "optimizer.lr=1,,2", "method.ratio=(0.6,0.7"]
)
def test_other_forms_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--over takes key=value,value"):
        read_factor(word)


def test_one_factor_differs_from_the_base_at_a_time(mae: type) -> None:
    factors = [Factor("optimizer.lr", ("1e-3", "1e-2")), Factor("method.ratio", ("(0.5,0.6)",))]
    runs = plan_runs(mae, factors, overrides={"epochs": "3", "optimizer.lr": "1e-3"})
    assert [run.name for run in runs] == [
        "ablate-base", "ablate-optimizer.lr-1e-2", "ablate-method.ratio-0.5_0.6",
    ]  # fmt: skip
    base, faster, ratio = (run.recipe for run in runs)
    assert (base.optimizer.lr, faster.optimizer.lr, ratio.optimizer.lr) == (1e-3, 1e-2, 1e-3)
    assert base.method.ratio == faster.method.ratio != ratio.method.ratio == (0.5, 0.6)
    assert {(recipe.total_steps, recipe.batch_size, recipe.seed) for recipe in (base, faster, ratio)} == {
        (base.total_steps, base.batch_size, base.seed)
    }
    assert runs[1].overrides == {"epochs": "3", "optimizer.lr": "1e-2"}


def test_every_setting_has_every_seed(mae: type) -> None:
    runs = plan_runs(mae, [Factor("optimizer.lr", ("1e-2",))], overrides={}, seeds=2, prefix="x")
    assert [(run.name, run.recipe.seed) for run in runs] == [
        ("x-base-seed0", 0), ("x-optimizer.lr-1e-2-seed0", 0), ("x-base-seed1", 1), ("x-optimizer.lr-1e-2-seed1", 1),
    ]  # fmt: skip
    assert runs[0].setting == runs[2].setting != runs[1].setting


def test_values_that_look_alike_as_names_get_names_of_their_own(mae: type) -> None:
    names = [run.name for run in plan_runs(mae, [Factor("method.ratio", ("(0.5,0.6)", "[0.5,0.6]"))], overrides={})]
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("factor", "error", "message"),
    [
        (Factor("method.ratoi", ("1",)), RecipeError, r"Unknown key method\.ratoi\. Did you mean ratio"),
        (Factor("optimiser.lr", ("1",)), RecipeError, "Did you mean optimizer"),
        (Factor("optimizer.lr", ("fast",)), RecipeError, "optimizer.lr must be a number"),
        (Factor("optimizer.lr", ("0",)), RecipeError, "optimizer.lr"),
        (Factor("epochs", ("1", "2")), UsageError, "would change how much a run sees.*--set epochs=VALUE"),
        (Factor("seed", ("0",)), UsageError, "is what the base recipe has"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_anything_runs(
    mae: type, factor: Factor, error: type[NnsslError], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_runs(mae, [factor], overrides={})


def test_a_factor_is_given_once_and_seeds_are_varied_once(mae: type) -> None:
    factor = Factor("optimizer.lr", ("1e-2",))
    with pytest.raises(UsageError, match="was given twice"):
        plan_runs(mae, [factor, factor], overrides={})
    with pytest.raises(UsageError, match="both vary the seed"):
        plan_runs(mae, [Factor("seed", ("1", "2"))], overrides={}, seeds=2)
