"""What the chosen trainers' methods need on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from nnssl.errors import PluginError, UsageError
from nnssl.needs import Needs, Sidecar, Table
from nnssl.planning.wish import PlanWish

T = TypeVar("T", type[Sidecar], type[Table])


@dataclass(frozen=True, kw_only=True)
class Required:
    """The union of several methods' needs.

    Attributes:
        raw: whether `CASE_raw.b2nd` is needed.
        sidecars: per case.
        tables: per data set.
        plan: what the chosen preset needs of the plan; None: nothing.
    """

    raw: bool = False
    sidecars: tuple[type[Sidecar], ...] = ()
    tables: tuple[type[Table], ...] = ()
    plan: PlanWish | None = None


def union(needs: Iterable[Needs]) -> Required:
    """All of `needs`.

    Raises:
        PluginError: two different sidecars or tables share a name, so that one would overwrite the other.
    """
    listed = list(needs)
    sidecars = _distinct([sidecar for need in listed for sidecar in need.sidecars])
    tables = _distinct([table for need in listed for table in need.tables])
    return Required(raw=any(need.values == "raw" for need in listed), sidecars=sidecars, tables=tables)


def of_trainers(names: Sequence[str], preset: str | None = None) -> Required:
    """What the named trainers' methods need, each with its recipe's preset.

    Raises:
        PluginError: a trainer was not found.
        RecipeError: a trainer has no such preset.
        UsageError: two of them bring different plans.
    """
    from nnssl.engine.recipe import resolve
    from nnssl.registry import find_trainer

    needs, wishes = [], {}
    for name in names:
        trainer = find_trainer(name)
        recipe = resolve(trainer, preset or "default")
        needs.append(trainer.method.needs(recipe.method))
        if recipe.plan is not None:
            wishes[recipe.plan] = name
    if len(wishes) > 1:
        raise UsageError(
            f"{' and '.join(wishes.values())} bring different plans; run the command once for each of them."
        )
    return replace(union(needs), plan=next(iter(wishes), None))


def _distinct(classes: Sequence[T]) -> tuple[T, ...]:
    found: dict[str, T] = {}
    for each in classes:
        if found.setdefault(each.name, each) is not each:
            raise PluginError(
                f"{each.__module__}.{each.__name__} and {found[each.name].__module__}.{found[each.name].__name__} are "
                f"both stored under the name {each.name!r}. Rename one, or preprocess for one trainer at a time."
            )
    return tuple(found.values())
