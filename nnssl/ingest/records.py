"""Records as they lie in a ledger that is closed: counted, sorted and handed out one by one, never all in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from nnssl.ingest.record import Record, from_text


class Records:
    """Those records of a ledger that fit, cases first, by the names of cases and sources.

    Args:
        file: the ledger.
        status: "taken" or "refused"; empty for all.
        reason: of a refusal; empty for all.
        keep: what must live as long as this does (a folder that passes).
    """

    def __init__(self, file: Path, *, status: str = "", reason: str = "", keep: object = None) -> None:
        self._file, self._status, self._reason, self._keep = file, status, reason, keep

    def __len__(self) -> int:
        with closing(self._connected()) as db:
            return int(db.execute(f"SELECT count(*) {self._where}", self._values).fetchone()[0])

    def __iter__(self) -> Iterator[Record]:
        with closing(self._connected()) as db:
            for (body,) in db.execute(f"SELECT body {self._where} {_ORDER}", self._values):
                yield from_text(body)

    def __getitem__(self, index: int) -> Record:
        place = index + len(self) if index < 0 else index
        with closing(self._connected()) as db:
            row = db.execute(f"SELECT body {self._where} {_ORDER} LIMIT 1 OFFSET ?", (*self._values, place)).fetchone()
        if place < 0 or row is None:
            raise IndexError(index)
        return from_text(row[0])

    def of(self, reason: str) -> Records:
        """Those that were refused for one reason."""
        return Records(self._file, status="refused", reason=reason, keep=self._keep)

    @property
    def _where(self) -> str:
        return "FROM records WHERE (? = '' OR status = ?) AND (? = '' OR reason = ?)"

    @property
    def _values(self) -> tuple[str, ...]:
        return self._status, self._status, self._reason, self._reason

    def _connected(self) -> sqlite3.Connection:
        # nobody writes while this is read: an ingest shows its records when it has closed its ledger
        db = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro&nolock=1", uri=True)
        db.execute("PRAGMA cache_size = -400")
        db.execute("PRAGMA temp_store = FILE")
        return db


_ORDER = "ORDER BY status != 'taken', case_id, source"
