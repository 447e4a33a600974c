"""Settings of trainings and probes, changed by name: flat frozen dataclasses that know no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from nnssl.engine.typed import closest, field_types, from_plain
from nnssl.errors import RecipeError

S = TypeVar("S")


def changed(settings: S, values: Mapping[str, object]) -> S:
    """`settings` (a dataclass) with the given values, JSON or text of the command line, set all at once.

    Raises:
        RecipeError: an unknown key (with the closest match), a value of another type, or values that do not fit each
            other.
    """
    known = field_types(type(settings))
    unknown = [key for key in values if key not in known]
    if unknown:
        raise RecipeError(
            f"Unknown key {unknown[0]}.{closest(unknown[0], list(known))} The keys are: {', '.join(known)}."
        )
    read = {key: from_plain(value, known[key], key=key) for key, value in values.items()}
    config: Any = settings
    made: S = dataclasses.replace(config, **read)
    return made
