"""Things put aside in groups while folders are walked, on disk: a group comes back when all of it is known."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from nnssl.ingest.scan_text import to_text

T = TypeVar("T")


class Spool(Generic[T]):
    """Items by group. The file has no name in any folder and goes with the process.

    Args:
        to_plain: makes plain values for JSON of an item.
        from_plain: makes the item of them again; tuples have become lists.
    """

    def __init__(self, to_plain: Callable[[T], Any], from_plain: Callable[[Any], T]) -> None:
        self._to_plain, self._from_plain = to_plain, from_plain
        self._db = sqlite3.connect("", isolation_level=None)  # a private file, SQLite's own
        self._db.execute("PRAGMA cache_size = -400")
        self._db.execute("CREATE TABLE items (class BLOB, item TEXT)")
        self._db.execute("BEGIN")
        self._count = 0

    def add(self, group: str, item: T) -> None:
        """Put one aside."""
        self._db.execute(
            "INSERT INTO items VALUES (?, ?)",
            (group.encode("utf-8", "surrogatepass"), to_text(self._to_plain(item))),
        )
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def groups(self) -> Iterator[list[T]]:
        """Every group, by their names; each with its items in the order in which they came. Closes the spool."""
        name: bytes | None = None
        group: list[T] = []
        for own, item in self._db.execute("SELECT class, item FROM items ORDER BY class, rowid"):
            if own != name and group:
                yield group
                group = []
            name = own
            group.append(self._from_plain(json.loads(item)))
        if group:
            yield group
        self._db.close()
