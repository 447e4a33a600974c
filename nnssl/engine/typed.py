"""Dataclasses from text and JSON and back: `--set key=value`, `recipe.json`. Knows types, not recipes; no torch.

Text is read as a Python literal (`3`, `1e-3`, `(4, 4)`, `none`) or, for a field that holds a dataclass, as a call of
its name (`Global(1.0)`). Nothing is evaluated: the syntax tree is walked.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nnssl.errors import PluginError, RecipeError

_WORDS = {"none": None, "null": None, "true": True, "false": False}
NO_KEY = {"key": False}  # metadata of a field that is neither set from outside nor recorded
_KIND = "kind"  # names the class of a dataclass where a field allows several


def closest(word: str, known: Sequence[str]) -> str:
    """A sentence with the closest match, or "" when nothing comes near."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def field_types(cls: type[Any]) -> dict[str, Any]:
    """{field: resolved type} of a dataclass.

    Raises:
        PluginError: an annotation cannot be resolved (imported only under TYPE_CHECKING).
    """
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise PluginError(
            f"The annotations of {cls.__module__}.{cls.__qualname__} cannot be read ({error}). Import the types of "
            f"its fields at module level, not under TYPE_CHECKING."
        ) from error
    return {field.name: hints[field.name] for field in _keys(cls)}


def _keys(config: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(config) if field.init and field.metadata.get("key", True)]


def replaced(config: Any, key: str, value: object, *, prefix: str = "") -> Any:
    """`config` with the dotted `key` set to `value`, converted to the field's type.

    Raises:
        RecipeError: the key does not exist (with the closest match) or the value has another type.
    """
    head, _, rest = key.partition(".")
    known = field_types(type(config))
    if head not in known:
        where = f" under {prefix[:-1]}" if prefix else ""
        raise RecipeError(
            f"Unknown key {prefix}{key}.{closest(head, list(known))} The keys{where} are: {', '.join(sorted(known))}."
        )
    if not rest:
        new = from_plain(value, known[head], key=prefix + head)
    else:
        inner = getattr(config, head)
        if not dataclasses.is_dataclass(inner):
            raise RecipeError(
                f"{prefix}{key} cannot be set: {prefix}{head} is {inner!r} and has no keys. "
                f"Set {prefix}{head} itself, for example {prefix}{head}={_example(known[head])}."
            )
        new = replaced(inner, rest, value, prefix=f"{prefix}{head}.")
    return dataclasses.replace(config, **{head: new})


def flatten(tree: Mapping[str, object], config: object, *, prefix: str = "") -> dict[str, object]:
    """Nested mappings as {dotted key: value}; stops where the field is not a dataclass of `config`."""
    flat: dict[str, object] = {}
    for name, value in tree.items():
        inner = getattr(config, name, None)
        kind = value.get(_KIND, type(inner).__name__) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and dataclasses.is_dataclass(inner) and kind == type(inner).__name__:
            rest = {k: v for k, v in value.items() if k != _KIND}
            flat.update(flatten(rest, inner, prefix=f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def to_plain(value: object, *, key: str = "") -> Any:
    """A dataclass as JSON values; every dataclass says its `kind`.

    Raises:
        PluginError: a value that JSON cannot hold.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in _keys(value)}
        return {_KIND: type(value).__name__} | {n: to_plain(v, key=f"{key}.{n}".strip(".")) for n, v in fields.items()}
    if isinstance(value, Mapping):
        return {str(n): to_plain(v, key=f"{key}.{n}") for n, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(v, key=key) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise PluginError(f"{key} holds a {type(value).__name__}, which recipe.json cannot hold; use plain values.")


def from_plain(value: object, kind: Any, *, key: str) -> Any:
    """`value` (text of the command line, or JSON) as type `kind`.

    Raises:
        RecipeError: the value does not fit the type.
    """
    if isinstance(value, str) and not _takes_text(kind, value):
        value = _read(value, kind, key)
    try:
        return _fit(value, kind, key)
    except _Misfit:
        raise RecipeError(
            f"{key} must be {describe(kind)}; {value!r} is not. Example: {key}={_example(kind)}"
        ) from None


def describe(kind: Any) -> str:
    """A type in words, for messages."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is None or kind is type(None):
        return "none"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin in (tuple, list, Sequence):
        inner = [describe(a) for a in args if a is not ...]
        return f"a list of {inner[0] if len(set(inner)) == 1 and inner else ', '.join(inner)}" + (
            f" (exactly {len(args)})" if origin is tuple and ... not in args else ""
        )
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


class _Misfit(Exception):
    """The value does not fit; turned into a sentence by `from_plain`, which knows the key."""


def _fit(value: object, kind: Any, key: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for member in args:
            try:
                return _fit(value, member, key)
            except _Misfit:
                continue
        raise _Misfit
    if origin is Literal:
        if value in args:
            return value
        raise _Misfit
    if origin in (tuple, list, Sequence):
        return _fit_sequence(value, origin, args, key)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _fit_dataclass(value, kind, key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (None, type(None)):
        kind = type(None)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool)):
        return value
    raise _Misfit


def _fit_sequence(value: object, origin: Any, args: tuple[Any, ...], key: str) -> Any:
    if not isinstance(value, (tuple, list)):
        raise _Misfit
    if origin is tuple and ... not in args:
        if len(value) != len(args):
            raise _Misfit
        return tuple(_fit(v, a, key) for v, a in zip(value, args, strict=True))
    made = [_fit(v, args[0] if args else Any, key) for v in value]
    return made if origin is list else tuple(made)


def _fit_dataclass(value: object, kind: type[Any], key: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping) or value.get(_KIND, kind.__name__) != kind.__name__:
        raise _Misfit
    known = field_types(kind)
    arguments = {name: v for name, v in value.items() if name != _KIND}
    for name in arguments:
        if name not in known:
            raise RecipeError(f"Unknown key {key}.{name}.{closest(str(name), list(known))}")
    return kind(**{n: from_plain(v, known[n], key=f"{key}.{n}") for n, v in arguments.items()})


def _takes_text(kind: Any, text: str) -> bool:
    """Whether `text` stands for itself in a field of this type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_takes_text(a, text) for a in args) and text.lower() not in _WORDS
    return kind is str or (origin is Literal and text in args)


def _read(text: str, kind: Any, key: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return _walk(ast.parse(text.strip(), mode="eval").body, _dataclasses_of(kind))
    except (SyntaxError, ValueError):
        if "," in text and not text.strip().startswith(("(", "[")):  # 4,4,4 in one word
            return _read(f"({text},)", kind, key)
        return text


def _walk(node: ast.expr, known: Mapping[str, type[Any]]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
        names = list(field_types(known[node.func.id]))
        given = dict(zip(names, (_walk(a, known) for a in node.args), strict=False))
        given |= {str(k.arg): _walk(k.value, known) for k in node.keywords}
        return {_KIND: node.func.id} | given
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_walk(item, known) for item in node.elts)
    if isinstance(node, ast.Name) and node.id.lower() in _WORDS:
        return _WORDS[node.id.lower()]
    return ast.literal_eval(node)


def _dataclasses_of(kind: Any) -> dict[str, type[Any]]:
    """Every dataclass that a value of this type may hold, by name."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        inner = [_dataclasses_of(t) for t in field_types(kind).values()]
        return {kind.__name__: kind} | {n: t for d in inner for n, t in d.items()}
    return {n: t for a in typing.get_args(kind) for n, t in _dataclasses_of(a).items()}


def _example(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _example(next((a for a in args if a is not type(None)), args[0]))
    if origin is Literal:
        return str(args[0])
    if origin is tuple and ... not in args:
        return ",".join(_example(a) for a in args)
    if origin in (tuple, list, Sequence):
        return ",".join([_example(args[0])] * 2) if args else "1,2"
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        parts = {name: _example(inner) for name, inner in field_types(kind).items()}
        return f"{kind.__name__}({', '.join(f'{n}=({v})' if ',' in v else f'{n}={v}' for n, v in parts.items())})"
    return {int: "4", float: "0.5", bool: "true", str: "name"}.get(kind, "none")
