"""What an ablation will run: one factor at a time around a recipe, all of one length. Checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nnssl.engine.recipe import Recipe, resolve
from nnssl.errors import UsageError

BASE = "base"
# What changes how much a run sees: runs that differ in them differ in budget.
BUDGET = ("epochs", "steps_per_epoch", "batch_size", "accumulate", "patch_size")


@dataclass(frozen=True)
class Factor:
    """One key of the recipe and the values it takes, as text of the command line."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pretraining.

    Attributes:
        name: of its folder.
        factor: the key that differs from the base recipe; "" for the base itself.
        value: of that key, as text.
        overrides: all changed keys of the trainer's preset.
        recipe: what these make.
    """

    name: str
    factor: str = ""
    value: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    recipe: Recipe

    @property
    def setting(self) -> tuple[str, str]:
        """Runs of one setting differ in their seed alone."""
        return self.factor, self.value


def read_factor(word: str) -> Factor:
    """`key=a,b,c`; commas inside brackets do not part values.

    Raises:
        UsageError: another form, or a value given twice.

    Example:
        >>> read_factor("method.ratio=(0.6,0.75),(0.8,0.9)").values
        ('(0.6,0.75)', '(0.8,0.9)')
    """
    key, equals, text = word.partition("=")
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if not key or not equals or not all(values) or depth:
        raise UsageError(f"--over takes key=value,value; found {word!r}. Example: --over method.rotation_deg=0,15,30")
    if len(set(values)) < len(values):
        raise UsageError(f"--over {key} holds a value twice: {', '.join(values)}. Give each once.")
    return Factor(key, tuple(values))


def plan_runs(
    trainer: Any,
    factors: Sequence[Factor],
    *,
    preset: str = "default",
    overrides: Mapping[str, str],
    seeds: int = 1,
    prefix: str = "ablate",
) -> list[Run]:
    """The base recipe, then every other value of every factor, each with every seed; the base comes first.

    Args:
        trainer: an SSLTrainer class.
        factors: what to vary.
        preset: of the trainer.
        overrides: {key: text} for all runs.
        seeds: runs of each setting; their seeds count up from the recipe's.
        prefix: begins the runs' names.

    Raises:
        RecipeError: an unknown key (with the closest match), or a value that the recipe does not take.
        UsageError: a factor that changes the budget, that was given twice, or that has no value but the base's.
    """
    base = resolve(trainer, preset, overrides)
    settings: list[tuple[str, str, dict[str, str]]] = [("", "", dict(overrides))]
    for factor in factors:
        _check(factor, factors, seeds)
        made = [(factor.key, value, {**overrides, factor.key: value}) for value in factor.values]
        others = [one for one in made if resolve(trainer, preset, one[2]) != base]
        if not others:
            raise UsageError(
                f"--over {factor.key}: {', '.join(factor.values)} is what the base recipe has. Give another value."
            )
        settings += others
    runs = []
    for index in range(seeds):
        for key, value, given in settings:
            changed = given if seeds == 1 else {**given, "seed": str(base.seed + index)}
            parts = [prefix, *([key, _slug(value)] if key else [BASE]), *([f"seed{base.seed + index}"] * (seeds > 1))]
            recipe = resolve(trainer, preset, changed)
            runs.append(Run(name="-".join(parts), factor=key, value=value, overrides=changed, recipe=recipe))
    return _with_own_names(runs)


def _check(factor: Factor, factors: Sequence[Factor], seeds: int) -> None:
    if sum(other.key == factor.key for other in factors) > 1:
        raise UsageError(f"--over {factor.key} was given twice; give all its values at once.")
    if factor.key in BUDGET:
        raise UsageError(
            f"--over {factor.key} would change how much a run sees; an ablation compares runs of the same budget. Set "
            f"it for all of them with --set {factor.key}=VALUE."
        )
    if factor.key == "seed" and seeds > 1:
        raise UsageError("--over seed and --seeds both vary the seed. Give one of them.")


def _slug(value: str) -> str:
    """Letters that a folder's name may have."""
    plain = "".join(letter if letter.isalnum() or letter in "-.+" else "_" for letter in value)
    return plain.strip("_") or "none"


def _with_own_names(runs: Sequence[Run]) -> list[Run]:
    """Values that look alike as names ("0.5,1" and "0.5 1") get a few letters of their own."""
    names = [run.name for run in runs]
    return [
        run
        if names.count(run.name) == 1
        else replace(run, name=f"{run.name}-{hashlib.sha256(run.value.encode()).hexdigest()[:4]}")
        for run in runs
    ]
