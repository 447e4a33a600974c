"""JSON written piece by piece: an object of which some members are too long to be held."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TextIO


class Pairs:
    """The members of an inner object, one at a time."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self.pairs = pairs


class Rows:
    """The elements of an inner list, one at a time."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.rows = rows


def write_json(stream: TextIO, content: Mapping[str, Any]) -> None:
    """Write an object, a line a member, and a line an element of its `Pairs` and `Rows`.

    Example:
        >>> import sys
        >>> write_json(sys.stdout, {"a": 1, "b": Rows(iter([2, 3]))})
        {
          "a": 1,
          "b": [
            2,
            3
          ]
        }
    """
    stream.write("{")
    for number, (key, value) in enumerate(content.items()):
        stream.write(f"{',' if number else ''}\n  {json.dumps(key)}: ")
        if isinstance(value, Pairs):
            _inner(stream, (f"{json.dumps(name)}: {json.dumps(each)}" for name, each in value.pairs), "{}")
        elif isinstance(value, Rows):
            _inner(stream, map(json.dumps, value.rows), "[]")
        else:
            stream.write(json.dumps(value))
    stream.write("\n}\n")


def _inner(stream: TextIO, lines: Iterable[str], brackets: str) -> None:
    stream.write(brackets[0])
    empty = True
    for line in lines:
        stream.write(f"{'' if empty else ','}\n    {line}")
        empty = False
    stream.write(f"{'' if empty else chr(10) + '  '}{brackets[1]}")
