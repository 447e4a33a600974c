"""Who the scans of a data set are of, and which source knows best: lists before folders, one name a person.

A name of a person holds within its collection: a source, a BIDS tree, a task folder. The same name elsewhere is another
person, unless DICOM gives both the same number. What is written tells them apart, now and in later runs.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.names import token
from nnssl.ingest.patterns import is_excluded
from nnssl.ingest.scan import Scan
from nnssl.ingest.splits import split_finding
from nnssl.planning.checks import Finding

if TYPE_CHECKING:
    from nnssl.ingest.ledger import Ledger

_WALK, _LIST, _UNKNOWN, _HELD, _EXCLUDED = range(5)  # who speaks of a file: the higher one is heard
_KEPT_OUT = {
    _UNKNOWN: Finding("unknown_split", "a list has it, or a file of it, for something in a word that is not known"),
    _HELD: Finding("held_out", "a list has it, or a file of it, for testing or validation"),
}


class People:
    """Tables of the ledger's database on persons and sources, and of what was found of them now.

    Args:
        database: the ledger's.
        pseudonyms: of the data set.
    """

    def __init__(self, database: sqlite3.Connection, pseudonyms: Pseudonyms) -> None:
        self._db, self._pseudonyms = database, pseudonyms

    def who(self, root: str, scan: Scan) -> str:
        """The same for scans of one person, and for nobody else."""
        place = () if scan.everywhere else (root, scan.collection)
        return self._pseudonyms.digest("who", *place, scan.subject)[:32]

    # what was found now

    def sight(self, key: str, root: str, scan: Scan) -> bool:
        """Note a scan that was found; whether it is to be heard, as no better source has spoken of the same files."""
        rank = _rank(scan)
        known = self._number("SELECT rank FROM sightings WHERE key = ?", key)
        if known is not None and known >= rank:
            return False
        values = (key, rank, token(scan.subject), self.who(root, scan))
        self._db.execute("INSERT OR REPLACE INTO sightings VALUES (?, ?, ?, ?)", values)
        for file in (*scan.files, *map(Path, scan.claims)) if rank > _WALK else ():
            self._db.execute(
                "INSERT INTO claims VALUES (?, ?) ON CONFLICT (file) DO UPDATE SET rank = max(rank, excluded.rank)",
                (_digest(file, self._pseudonyms), rank),
            )
        return True

    def forget(self, key: str) -> None:
        """Take a scan out of those found."""
        self._db.execute("DELETE FROM sightings WHERE key = ?", (key,))

    def has_claims(self) -> bool:
        """Whether a list, or a pattern, speaks of any file."""
        return self._number("SELECT 1 FROM claims LIMIT 1") is not None

    def outdone_by(self, key: str, scan: Scan) -> int | None:
        """The rank of a better source that speaks of one of a scan's files; None where none does."""
        rank = self._number("SELECT rank FROM sightings WHERE key = ?", key) or 0
        claims = [
            self._number("SELECT rank FROM claims WHERE file = ?", _digest(file, self._pseudonyms))
            for file in scan.files
        ]
        return max((claim for claim in claims if claim is not None and claim > rank), default=None)

    def layouts(self) -> Counter[str]:
        """How many scans were found in each layout."""
        query = "SELECT json_extract(scan, '$.layout'), count(*) FROM found GROUP BY 1"
        return Counter({str(layout): int(count) for layout, count in self._db.execute(query)})

    # what is written

    def name(self, root: str, scan: Scan) -> str:
        """What a scan's subject is called in the data set; empty where its source's name is of no letters.

        The plain name, unless another person has it, in an earlier run or in this one: then with the collection ahead.
        """
        who, plain = self.who(root, scan), token(scan.subject)
        known = self._text("SELECT name FROM people WHERE who = ?", who)
        if known is not None or not plain:
            return known or ""
        wanted = [] if self._is_shared(plain, who) else [plain]
        origin = self._text("SELECT name FROM origins WHERE root = ?", root) or ""
        wanted += [token(f"{scan.collection} {scan.subject}")] if scan.collection.strip(".") else []
        wanted += [token(f"{origin} {scan.collection} {scan.subject}")]
        free = next((each for each in wanted if self._is_free(each)), None)
        number = 2
        while free is None:
            free = f"{wanted[-1]}-{number}" if self._is_free(f"{wanted[-1]}-{number}") else None
            number += 1
        self._db.execute("INSERT INTO people VALUES (?, ?)", (who, free))
        return free

    def note_origin(self, root: str, source: Path, *, hidden: bool) -> None:
        """Note what a source is called: its name, with folders above it where another one is called so.

        Args:
            root: what the ledger calls it.
            source: the path.
            hidden: no name is written.
        """
        if self.origin(root):
            return
        parts = source.resolve().parts
        names = [f"source {root[:8]}"] if hidden else ["/".join(parts[-n:]) for n in range(1, len(parts))]
        for name in [*names, f"{names[-1] if names else '/'} {root[:8]}"]:
            if self._text("SELECT root FROM origins WHERE name = ?", name) is None:
                self._db.execute("INSERT INTO origins VALUES (?, ?)", (root, name))
                return

    def origin(self, root: str) -> str:
        """What a source is called."""
        return self._text("SELECT name FROM origins WHERE root = ?", root) or ""

    def _is_shared(self, plain: str, who: str) -> bool:
        """Whether scans of somebody else that were found now have this name, too."""
        ends = (f"SELECT {end}(who) FROM sightings WHERE name = ?" for end in ("min", "max"))
        return any(self._text(query, plain) not in (None, who) for query in ends)

    def _is_free(self, name: str) -> bool:
        return self._text("SELECT who FROM people WHERE name = ?", name) is None

    def _text(self, query: str, *values: str) -> str | None:
        row = self._db.execute(query, values).fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def _number(self, query: str, *values: str) -> int | None:
        text = self._text(query, *values)
        return None if text is None else int(text)


def leave_to_lists(ledger: Ledger) -> None:
    """Drop what folders say of files of which a list, or a pattern, says something else.

    What a list keeps out of training, by one of its files, stays among those found, refused: so it leaves a data set
    that has it, and is counted.
    """
    if not ledger.people.has_claims():
        return
    for key, root, scan in ledger.found():
        rank = ledger.people.outdone_by(key, scan)
        if rank is None:
            continue
        ledger.drop_found(key)
        if rank in _KEPT_OUT:
            ledger.add_found(root, replace(scan, refused=_KEPT_OUT[rank]))


def _rank(scan: Scan) -> int:
    if is_excluded(scan):
        return _EXCLUDED
    if not scan.is_listed:
        return _WALK
    finding = split_finding(scan.split)
    return _LIST if finding is None else _HELD if finding.reason == "held_out" else _UNKNOWN


def _digest(file: Path, pseudonyms: Pseudonyms) -> str:
    return pseudonyms.digest("file", str(file.resolve()))[:32]
