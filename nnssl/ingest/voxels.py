"""Which voxels the cases of a data set have, and what is known of the images of other data sets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from nnssl.ingest.record import Record, from_text


class Voxels:
    """Tables of the ledger's database: hashes of voxels.

    Args:
        database: the ledger's.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def note(self, cases: Iterable[tuple[str, Record]]) -> int:
        """Prepare `keys` and `has_shape` for cases, given as (key, record); how many there are."""
        count = 0
        self._db.execute("DELETE FROM voxels")
        for key, record in cases:
            count += 1
            for content, channel in zip(record.content.split(","), record.channels, strict=False):
                self._db.execute("INSERT INTO voxels VALUES (?, ?, ?)", (content, _text(channel["shape"]), key))
        return count

    def keys(self, content: str) -> list[str]:
        """Keys of the cases with a channel of these voxels."""
        return [key for (key,) in self._db.execute("SELECT key FROM voxels WHERE content = ?", (content,))]

    def has_shape(self, shape: Sequence[int]) -> bool:
        """Whether a case has a channel of these sides."""
        query = "SELECT 1 FROM voxels WHERE shape = ? LIMIT 1"
        return self._db.execute(query, (_text(shape),)).fetchone() is not None

    def kept_out(self) -> Iterator[Record]:
        """What lists keep out of the data set and could be read; records may be written meanwhile."""
        last = -1
        query = (
            "SELECT place, body FROM records WHERE status = 'refused' AND reason IN ('held_out', 'unknown_split') "
            "AND content != '' AND place > ? ORDER BY place LIMIT 1"
        )
        while row := self._db.execute(query, (last,)).fetchone():
            last = row[0]
            yield from_text(row[1])

    # images of data sets that have no ledger: to read them once is enough

    def of_other(self, image: str) -> str | None:
        """The hash of an image's voxels, if it was read before; empty where it could not be read.

        Args:
            image: hash of its path, size and time.
        """
        row = self._db.execute("SELECT content FROM others WHERE image = ?", (image,)).fetchone()
        return None if row is None else str(row[0])

    def note_other(self, image: str, content: str) -> None:
        """Remember it."""
        self._db.execute("INSERT OR REPLACE INTO others VALUES (?, ?)", (image, content))


def _text(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
