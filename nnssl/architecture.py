"""What the `architecture` block of a plan may name. A plan may come with a stranger's weights, and nnU-Net's builder
imports and calls whatever its names lead to; so names are resolved and judged here before that builder sees them.

Allowed are classes of `torch.nn.modules` and `dynamic_network_architectures` that are layers or networks, nothing that
can merely be reached through these packages. Sizes are bounded, and the network's parameters are counted without
memory, so that a plan cannot ask for more than a machine has.
"""

from __future__ import annotations

import pydoc
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nnssl.errors import PlanError

NETWORKS = "dynamic_network_architectures"
_LAYERS = ("torch.nn.modules", NETWORKS)  # where classes may be defined
_ROOTS = ("torch.nn", NETWORKS)  # what names may begin with: torch.nn.LeakyReLU is defined in torch.nn.modules
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MOST_ITEMS = 64  # stages, or sides of a kernel
_LARGEST = 4096  # features, blocks, kernel sides
_MOST_PARAMETERS = 2**31  # nnU-Net's largest have 10^8
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, RecursionError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
T = TypeVar("T")


def checked(architecture: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """Class name, keyword arguments and the names of those to be imported, all of them harmless.

    Args:
        architecture: a plans file's block with `network_class_name`, `arch_kwargs` and `_kw_requires_import`.

    Raises:
        PlanError: a name that leads elsewhere, a size beyond all networks, or a block of another form.
    """
    try:
        name = architecture["network_class_name"]
        arguments = dict(architecture["arch_kwargs"])
        imports = list(architecture["_kw_requires_import"])
        named = [(key, arguments[key]) for key in imports if arguments[key] is not None]
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(
            f"`architecture` of a plan must hold network_class_name, arch_kwargs and _kw_requires_import ({error!r}). "
            f"Correct it, or plan again."
        ) from error
    _network(name)
    for key, value in named:
        _layer(key, value)
    _bounded("arch_kwargs", arguments)
    return str(name), arguments, [str(key) for key in imports]


def built(build: Callable[[], T], count: Callable[[T], int] | None = None) -> T:
    """What `build` builds; all it may fail with becomes one kind of error.

    Args:
        build: makes a network.
        count: of its parameters, where these are to be bounded.

    Raises:
        PlanError: it cannot be built, or has more parameters than any network of nnU-Net's.
    """
    try:
        made = build()
    except _FAULTS as error:
        raise PlanError(
            f"nnU-Net cannot build the network that the plan describes ({type(error).__name__}: {error}). Correct "
            f"`architecture` there, or plan again."
        ) from error
    if count is not None and count(made) > _MOST_PARAMETERS:
        raise PlanError(
            f"The plan describes a network of {count(made) / 1e9:.1f} thousand million parameters; at most "
            f"{_MOST_PARAMETERS / 1e9:.1f} are built. Correct `architecture` there."
        )
    return made


def _network(name: Any) -> None:
    found = _resolved("network_class_name", name, (NETWORKS,))
    if found is None:  # nnU-Net looks for the last word among its own networks, since modules move
        import dynamic_network_architectures.architectures.unet as unets

        found = getattr(unets, str(name).rsplit(".", 1)[-1], None)
    _judge("network_class_name", name, found, (NETWORKS,))


def _layer(key: str, name: Any) -> None:
    _judge(key, name, _resolved(key, name, _ROOTS), _LAYERS)


def _resolved(key: str, name: Any, roots: tuple[str, ...]) -> Any:
    """What Python finds under the name; asked only for names below `roots`, since to look is to import."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.startswith(tuple(f"{r}." for r in roots)):
        raise PlanError(_refusal(key, name))
    try:
        return pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise PlanError(_refusal(key, name)) from error


def _judge(key: str, name: Any, found: Any, homes: tuple[str, ...]) -> None:
    from torch import nn

    home = getattr(found, "__module__", None)
    if (
        not isinstance(found, type)
        or not issubclass(found, nn.Module)
        or not str(home).startswith(tuple(f"{each}." for each in homes))
    ):
        raise PlanError(_refusal(key, name))


def _refusal(key: str, name: Any) -> str:
    return (
        f"The plan's architecture names {str(name)[:80]!r} as {key}; only networks of {NETWORKS} and layers of "
        f"torch.nn are built, never what else a file may name. Do not use this file if it came from elsewhere."
    )


def _bounded(where: str, value: Any, depth: int = 0) -> None:
    """Refuse sizes and nestings that no network has: building one would take for ever."""
    inside = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    large = isinstance(value, int | float) and not abs(value) <= _LARGEST
    if large or len(inside) > _MOST_ITEMS or depth > 4:
        raise PlanError(
            f"The plan's architecture asks for {str(value)[:60]} in {where}; numbers up to {_LARGEST} and lists up to "
            f"{_MOST_ITEMS} long make a network. Correct it, or plan again."
        )
    for each in inside:
        _bounded(where, each, depth + 1)
