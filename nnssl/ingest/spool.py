"""Things put aside in groups while folders are walked, on disk: a group comes back when all of it is known."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Spool(Generic[T]):
    """Items by group. The file has no name in any folder and goes with the process."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a private file, SQLite's own
        self._db.execute("PRAGMA cache_size = -400")
        self._db.execute("CREATE TABLE items (class BLOB, item BLOB)")
        self._db.execute("BEGIN")
        self._count = 0

    def add(self, group: str, item: T) -> None:
        """Put one aside."""
        self._db.execute(
            "INSERT INTO items VALUES (?, ?)", (group.encode("utf-8", "surrogatepass"), pickle.dumps(item))
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
            group.append(pickle.loads(item))
        if group:
            yield group
        self._db.close()
