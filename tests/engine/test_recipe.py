"""Recipes: presets, typed overrides, identity."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from nnssl.engine.recipe import Global, Optimizer, PerTensor, Recipe, assignments, differences, resolve
from nnssl.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 2
    scale: tuple[float, float] = (1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Config:
    ratio: float = 0.5
    size: tuple[int, int, int] | None = None
    label: str = "a"
    inner: Inner = Inner()


class SomeMethod:
    Config = Config


class SomeTrainer:
    method = SomeMethod
    recipe = Recipe(threads=1)
    presets = {"paper": Recipe(epochs=7, threads=1, method=Config(ratio=0.9))}  # noqa: RUF012


def test_default_is_the_recipe_and_presets_have_their_own_numbers() -> None:
    assert resolve(SomeTrainer).method == Config()
    assert (resolve(SomeTrainer, "paper").epochs, resolve(SomeTrainer, "paper").method.ratio) == (7, 0.9)


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("optimizer.clip=none", "optimizer.clip", None),
        ("optimizer.clip=PerTensor(0.3)", "optimizer.clip", PerTensor(0.3)),
        ("optimizer.clip=Global(max_norm=2)", "optimizer.clip", Global(2.0)),
        ("optimizer.betas=(0.9, 0.95)", "optimizer.betas", (0.9, 0.95)),
        ("patch_size=32,32,16", "patch_size", (32, 32, 16)),
        ("method.size=4,4,4", "method.size", (4, 4, 4)),
        ("method.label=1e3", "method.label", "1e3"),
        ("method.inner.depth=5", "method.inner.depth", 5),
        ("method.inner=Inner(depth=4, scale=(1, 3))", "method.inner", Inner(depth=4, scale=(1.0, 3.0))),
    ],
)
def test_set_gives_the_field_its_own_type(word: str, path: str, value: object) -> None:
    found: object = resolve(SomeTrainer, overrides=assignments([word]))
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epoch=3", "Unknown key epoch. Did you mean epochs"),
        ("method.ratoi=1", "Unknown key method.ratoi. Did you mean ratio"),
        ("method.ratio.x=1", "method.ratio is 0.5 and has no keys"),
        ("epochs=2.5", "epochs must be a whole number; 2.5 is not"),
        ("epochs=true", "epochs must be a whole number"),
        ("epochs=0", "epochs must be greater than 0"),
        ("precision=fp8", "one of auto, bf16, fp16, fp32, fp64; 'fp8' is not"),
        ("method.size=4,4", "exactly 3"),
        ("method=none", "must hold SomeTrainer's Config"),
        ("optimizer.clip=Global(open('x'))", "PerTensor or Global or none"),
        ("optimizer.momentum=1", r"lie in \[0, 1\)"),
        ("accumulate=3", "divisible by accumulate"),
        ("epochs", "--set takes key=value"),
    ],
)
def test_wrong_words_are_refused_with_the_way_out(word: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        resolve(SomeTrainer, overrides=assignments([word]))


def test_keys_that_depend_on_each_other_may_come_in_any_order() -> None:
    for words in (["batch_size=9", "accumulate=3"], ["accumulate=3", "batch_size=9"]):
        assert resolve(SomeTrainer, overrides=assignments(words)).batch_size == 9


def test_unknown_preset_names_the_others() -> None:
    with pytest.raises(RecipeError, match=r"no preset 'papper'. Did you mean paper\? Its presets are: default, paper"):
        resolve(SomeTrainer, "papper")


def test_recipe_survives_json() -> None:
    words = ["optimizer.clip=PerTensor(0.3)", "method.inner.scale=3,4", "patch_size=8,8,8"]
    recipe = resolve(SomeTrainer, overrides=assignments(words))
    again = resolve(SomeTrainer, overrides=json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_identity_ignores_what_a_continued_run_may_change() -> None:
    recipe = resolve(SomeTrainer)
    longer = replace(recipe, epochs=5000, save_every_minutes=1.0)
    assert longer.digest() == recipe.digest()
    assert differences(recipe.to_json(), longer) == []
    other = resolve(SomeTrainer, overrides={"method.inner.depth": "3"})
    assert other.digest() != recipe.digest()
    assert differences(recipe.to_json(), other) == ["method.inner.depth: 2 -> 3"]


def test_learning_rate_scales_with_the_batch() -> None:
    assert Optimizer(lr=0.3, scaling="linear").peak_lr(192) == pytest.approx(0.225)
    assert Optimizer(lr=1.0, scaling="sqrt", reference_batch=4).peak_lr(16) == pytest.approx(2.0)
    assert Optimizer(lr=0.3).peak_lr(192) == 0.3


def test_recipes_need_no_torch() -> None:
    code = "import sys, nnssl.engine.recipe, nnssl.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
