"""What an ingest remembers, so that the next one reads only what is new: one record a scan, kept beside the data set.

It is a SQLite file: memory stays the same however many scans there are, and a killed run loses two seconds. Sources
are known by keyed hashes of their paths: the file holds neither paths of the machine nor names of patients.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from nnssl.errors import DataError
from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.ledger_tables import TABLES, connected
from nnssl.ingest.patterns import is_excluded
from nnssl.ingest.record import Record, from_text, to_text
from nnssl.ingest.scan import Scan
from nnssl.ingest.scan_text import scan_from_text, scan_to_text
from nnssl.ingest.subjects import People
from nnssl.ingest.voxels import Voxels

FOLDER = "ingest"
FILE = "ledger.sqlite"
_VERSION = "3"
_SECONDS = 2.0  # between commits
_AT_A_TIME = 200  # rows in memory
_ABOUT = (
    "Written by nnssl_ingest. Keep it to go on; delete it before you give the data set away: with its key, guesses of "
    "patient numbers could be tested."
)


class Ledger:
    """All records of a data set, and what this run found. One process at a time writes it.

    Attributes:
        file: where it lies.
        key: of the pseudonyms; whoever has it can test guesses of paths and patient numbers.
        pseudonyms: names of patients in this data set.
        people: who the scans are of.
        voxels: hashes of them, here and in other data sets.

    Args:
        file: where it lies.
        connection: to it.
        described: whether there is a dataset.json. Without, and without a run that came to its end, nothing is decided.
    """

    def __init__(self, file: Path, connection: sqlite3.Connection, *, described: bool) -> None:
        self.file = file
        self._db = connection
        self._db.executescript(TABLES)
        self._db.execute("BEGIN")
        self._db.execute("UPDATE records SET now = 0 WHERE now")
        if described and self._one("SELECT value FROM about WHERE name = 'version'") == "2":  # knew no stopped runs
            self._db.execute("INSERT INTO finished SELECT key FROM records WHERE status = 'taken'")
        self._finished = described or self.count_had() > 0
        for table in () if self._finished else ("people", "origins"):
            self._db.execute(f"DELETE FROM {table}")
        key = self._one("SELECT value FROM about WHERE name = 'key'") or secrets.token_hex(16)
        for name, value in (("key", key), ("version", _VERSION), ("about", _ABOUT)):
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))
        self.key = bytes.fromhex(key)
        self.pseudonyms = Pseudonyms(self.key)
        self.people = People(self._db, self.pseudonyms)
        self.voxels = Voxels(self._db)
        self._place = int(self._one("SELECT max(place) FROM records") or 0)
        self._next = time.monotonic() + _SECONDS

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is known is kept, also when the run ends early."""
        self.commit()
        self._db.close()

    def _one(self, query: str, values: Sequence[object] = ()) -> str | None:
        row = self._db.execute(query, values).fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def commit(self) -> None:
        """Put everything on the disk."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")
        self._next = time.monotonic() + _SECONDS

    def commit_sometimes(self) -> None:
        """The same, when the last time was a while ago."""
        if time.monotonic() >= self._next:
            self.commit()

    def key_of(self, scan: Scan) -> str:
        """Knows a scan again: by its files, and which of their volumes."""
        places = [f"{part.form}:{part.volume}:{file.resolve()}" for part in scan.parts for file in part.files]
        reason = scan.refused.reason if scan.refused and not places else ""
        return self.pseudonyms.digest("scan", *sorted(places) or [scan.where or scan.shown, reason])[:32]

    # what was found now

    def add_found(self, root: str, scan: Scan) -> None:
        """Note a scan of a source.

        The same files found twice are one: a list knows more of them than a folder, and a file more than a link to it.
        """
        if not self.people.sight(key := self.key_of(scan), root, scan):
            first = scan_from_text(self._one("SELECT scan FROM found WHERE key = ?", (key,)) or "")
            if scan.is_listed != first.is_listed:
                return
            better = _is_link(first) and not _is_link(scan) and is_excluded(first) == is_excluded(scan)
            one, other = (scan.shown, first.shown) if better else (first.shown, scan.shown)
            self._db.execute("INSERT INTO twice VALUES (?)", (f"{other} is {one}" if one != other else f"{one} again",))
            if not better:
                return
            self.people.forget(key)
            self.people.sight(key, root, scan)
        line = f"{scan.name}\0{scan.shown}".encode("utf-8", "surrogatepass")
        self._db.execute(
            "INSERT OR REPLACE INTO found (key, root, line, scan) VALUES (?, ?, ?, ?)",
            (key, root, line, scan_to_text(scan)),
        )

    def found(self) -> Iterator[tuple[str, str, Scan]]:
        """(key, root, scan) in the order of the scans' names; records may be written meanwhile."""
        last: tuple[bytes, str] = (b"", "")
        query = "SELECT line, key, root, scan FROM found WHERE (line, key) > (?, ?) ORDER BY line, key LIMIT ?"
        while rows := self._db.execute(query, (*last, _AT_A_TIME)).fetchall():
            for _, key, root, content in rows:
                yield key, root, scan_from_text(content)
            last = rows[-1][:2]

    def change_found(self, key: str, scan: Scan) -> None:
        """Say something else of a scan that was found."""
        self._db.execute("UPDATE found SET scan = ? WHERE key = ?", (scan_to_text(scan), key))

    def count_found(self) -> int:
        """How many scans were found."""
        return int(self._one("SELECT count(*) FROM found") or 0)

    def found_twice(self, limit: int) -> tuple[int, list[str]]:
        """How many scans were found that are others of those found, and the first of them in words."""
        lines = self._db.execute("SELECT line FROM twice ORDER BY line LIMIT ?", (limit,)).fetchall()
        return int(self._one("SELECT count(*) FROM twice") or 0), [str(line) for (line,) in lines]

    def drop_found(self, key: str) -> None:
        """Take a scan out of those found: it has become a part of another, or is not wanted."""
        self._db.execute("DELETE FROM found WHERE key = ?", (key,))
        self.people.forget(key)

    def forget_absent(self, roots: Sequence[str]) -> None:
        """What one of these sources once had and was refused is forgotten with it; cases that were taken stay."""
        for root in roots:
            self._db.execute(
                "DELETE FROM records WHERE status != 'taken' AND root = ? AND key NOT IN (SELECT key FROM found)",
                (root,),
            )

    def absent(self, roots: Sequence[str]) -> Iterator[tuple[str, Record]]:
        """(key, record) of cases that one of these sources once had and has no longer; may be written meanwhile."""
        query = (
            "SELECT place, key, body FROM records WHERE status = 'taken' AND root = ? AND place > ? "
            "AND key NOT IN (SELECT key FROM found) ORDER BY place LIMIT ?"
        )
        for root in roots:
            last = -1
            while rows := self._db.execute(query, (root, last, _AT_A_TIME)).fetchall():
                for _, key, body in rows:
                    yield key, from_text(body)
                last = rows[-1][0]

    # records

    def get(self, key: str) -> Record | None:
        """The record of a scan, if it is known."""
        text = self._one("SELECT body FROM records WHERE key = ?", (key,))
        return None if text is None else from_text(text)

    def promise(self, key: str, record: Record) -> None:
        """A scan that is to be read in this run, and the name of its case."""
        self._place += 1
        self._db.execute("DELETE FROM records WHERE key = ?", (key,))
        self._db.execute(
            "INSERT INTO records VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?)", (key, self._place, *_columns(record))
        )
        self._db.execute("UPDATE found SET task = 1 WHERE key = ?", (key,))

    def set_aside(self, key: str, record: Record) -> None:
        """A scan that was read and left out for its cohort's or the request's sake: a case until it is judged anew."""
        record.status, record.reason, record.sentence = "taken", "", ""
        self.put(key, record)
        self._db.execute("INSERT OR IGNORE INTO aside VALUES (?)", (key,))

    def is_aside(self, key: str) -> bool:
        """Whether a scan was set aside, so that its case has no files."""
        return self._one("SELECT 1 FROM aside WHERE key = ?", (key,)) is not None

    def take_from_aside(self) -> Iterator[tuple[str, Scan, Record]]:
        """(key, scan, record) of those that were judged fit; they must be promised, as nothing else is any more."""
        self._db.execute("UPDATE found SET task = 0 WHERE task")
        self._db.execute("DELETE FROM aside WHERE key NOT IN (SELECT key FROM records WHERE status = 'taken')")
        query = (
            "SELECT aside.key, scan, body FROM aside JOIN records ON records.key = aside.key "
            "JOIN found ON found.key = aside.key WHERE status = 'taken' LIMIT 1"
        )
        while row := self._db.execute(query).fetchone():
            self._db.execute("DELETE FROM aside WHERE key = ?", row[:1])
            yield row[0], scan_from_text(row[1]), from_text(row[2])

    # what runs that came to their end have made

    def finish(self, kind: tuple[int, str] | None) -> None:
        """This run is at its end: its cases are the data set, which is of this kind (number of channels, family)."""
        self._db.execute("DELETE FROM finished")
        self._db.execute("INSERT INTO finished SELECT key FROM records WHERE status = 'taken'")
        text = f"{kind[0]} {kind[1]}" if kind else ""
        self._db.execute("INSERT OR REPLACE INTO about VALUES ('kind', ?)", (text,))

    def kind(self) -> tuple[int, str] | None:
        """What the last of these runs said of the data set's kind."""
        count, _, family = (self._one("SELECT value FROM about WHERE name = 'kind'") or "").partition(" ")
        return (int(count), family) if family else None

    def was_there(self, key: str) -> bool:
        """Whether a scan was a case before this run."""
        return self._one("SELECT 1 FROM finished WHERE key = ?", (key,)) is not None

    def count_had(self) -> int:
        """How many cases there were before this run."""
        return int(self._one("SELECT count(*) FROM finished") or 0)

    def count_lost(self) -> int:
        """How many of them are cases no longer."""
        query = "SELECT count(*) FROM finished WHERE key NOT IN (SELECT key FROM records WHERE status = 'taken')"
        return int(self._one(query) or 0)

    def stopped(self) -> list[tuple[str, str]]:
        """(key, case) of what a run that was stopped had begun, and this run has not found."""
        query = (
            "SELECT key, case_id FROM records WHERE status != ? AND key NOT IN (SELECT key FROM finished) "
            "AND key NOT IN (SELECT key FROM found)"
        )
        refused = "refused" if self._finished else ""  # which runs before have told; else they are to be forgotten too
        return [(str(key), str(case)) for key, case in self._db.execute(query, (refused,))]

    def forget(self, key: str) -> None:
        """Know nothing of a scan any more."""
        self._db.execute("DELETE FROM records WHERE key = ?", (key,))

    def keep(self, key: str) -> None:
        """A case that a run that was stopped has taken: as if it were read now, in the order in which scans are."""
        self._place += 1
        self._db.execute("UPDATE records SET place = ?, now = 1 WHERE key = ?", (self._place, key))

    def reasons(self) -> list[tuple[str, int, str]]:
        """(reason, how many, a source) of all that is refused, the most frequent first."""
        query = "SELECT reason, count(*), min(source) FROM records WHERE status = 'refused' GROUP BY 1 ORDER BY 2 DESC"
        return [(str(reason), int(count), str(source)) for reason, count, source in self._db.execute(query)]

    def subjects(self, *, hidden: bool) -> list[tuple[str, int]]:
        """(what told who they are, number of subjects) of the cases, the most first; each subject is counted once.

        Args:
            hidden: folders are not named.
        """
        query = (
            "SELECT coalesce(known, 'earlier runs'), count(*) FROM (SELECT min(json_extract(scan, '$.by')) AS known "
            "FROM records LEFT JOIN found ON records.key = found.key WHERE status = 'taken' "
            "GROUP BY json_extract(body, '$.subject')) GROUP BY 1"
        )
        counts: Counter[str] = Counter()
        for by, count in self._db.execute(query):
            counts[str(by).partition(" in ")[0] if hidden else str(by)] += int(count)
        return counts.most_common()

    def copy_to(self, file: Path) -> None:
        """A copy of what is on the disk."""
        self.commit()
        self._db.execute("COMMIT")
        target = sqlite3.connect(file)
        self._db.backup(target)
        target.close()
        self._db.execute("BEGIN")

    def put(self, key: str, record: Record) -> None:
        """What became of a scan that was promised."""
        self._db.execute(
            "UPDATE records SET root = ?, status = ?, reason = ?, case_id = ?, source = ?, content = ?, body = ? "
            "WHERE key = ?",
            (*_columns(record), key),
        )

    def tasks(self) -> Iterator[tuple[str, Scan, Record]]:
        """(key, scan, record) of what this run has promised, in that order."""
        last = -1
        query = (
            "SELECT place, records.key, scan, body FROM records JOIN found ON found.key = records.key "
            "WHERE task AND place > ? ORDER BY place LIMIT ?"
        )
        while rows := self._db.execute(query, (last, _AT_A_TIME)).fetchall():
            for _, key, content, body in rows:
                yield key, scan_from_text(content), from_text(body)
            last = rows[-1][0]

    def count_tasks(self) -> int:
        """How many scans this run has promised."""
        return int(self._one("SELECT count(*) FROM found WHERE task") or 0)

    def is_used(self, case: str) -> bool:
        """Whether a case of the data set, or of this run, has this name."""
        query = "SELECT 1 FROM records WHERE case_id = ? AND (status = 'taken' OR now) LIMIT 1"
        return self._one(query, (case,)) is not None

    def is_new(self, key: str) -> bool:
        """Whether a scan was promised in this run."""
        return self._one("SELECT 1 FROM records WHERE key = ? AND now", (key,)) is not None

    def taken(self) -> Iterator[tuple[str, Record]]:
        """(key, record) of the cases in the order in which they were promised; records may be written meanwhile."""
        last = -1
        query = "SELECT place, key, body FROM records WHERE status = 'taken' AND place > ? ORDER BY place LIMIT ?"
        while rows := self._db.execute(query, (last, _AT_A_TIME)).fetchall():
            for _, key, body in rows:
                yield key, from_text(body)
            last = rows[-1][0]

    def copies(self) -> Iterator[list[tuple[str, Record]]]:
        """Cases with the same voxels, each group in the order in which they were promised, those set aside last."""
        last = ""
        query = (
            "SELECT content FROM records WHERE status = 'taken' AND content > ? GROUP BY content "
            "HAVING count(*) > 1 ORDER BY content LIMIT 1"
        )
        while (content := self._one(query, (last,))) is not None:
            rows = self._db.execute(
                "SELECT key, body FROM records WHERE status = 'taken' AND content = ? "
                "ORDER BY key IN (SELECT key FROM aside), place",
                (content,),
            )
            yield [(key, from_text(body)) for key, body in rows.fetchall()]
            last = content


def _is_link(scan: Scan) -> bool:
    return any(file.is_symlink() for file in scan.files[:1])


def _columns(record: Record) -> tuple[str, ...]:
    return (
        record.root,
        record.status,
        record.reason,
        record.case,
        record.source,
        record.content,
        to_text(record),
    )


def open_ledger(dataset: Path, *, aside: Path | None = None) -> Ledger:
    """The ledger of a data set, or a fresh one.

    Args:
        dataset: nnUNet_raw/DatasetXXX_Name.
        aside: for a run that must write nothing: a folder for a copy of the ledger.

    Raises:
        DataError: the data set was made by other means, another ingest is at it, or the ledger is damaged.
    """
    file = dataset / FOLDER / FILE
    described = (dataset / "dataset.json").is_file()
    if not file.is_file() and (described or any(dataset.glob("images*/*"))):
        raise DataError(
            f"{dataset} is there already and was not made by nnssl_ingest (it has no {FOLDER}/{FILE}). Choose "
            f"another id with -d, or move that data set away. To start over one that nnssl_ingest made, delete its "
            f"whole folder: its cases are links and copies, the sources stay as they are."
        )
    try:
        if aside is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            return Ledger(file, connected(file), described=described)
        copy = aside / FILE
        connection = connected(copy)
        if file.is_file():
            source = sqlite3.connect(file)
            source.backup(connection)
            source.close()
        return Ledger(copy, connection, described=described)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise DataError(f"Another nnssl_ingest is writing {dataset} ({file} is locked). Wait for it.") from error
        raise DataError(f"{file} is damaged ({error}). Move {dataset} away and ingest anew.") from error
