"""What an ingest remembers, so that the next one reads only what is new: one record a scan, kept beside the data set.

Sources are known by keyed hashes of their paths: the file holds neither paths of the machine nor names of patients.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.scan import Scan

FOLDER = "ingest"
FILE = "ledger.json"
_VERSION = 1
_SHARE = 0.05  # of the time that writing it along the way may take


@dataclass(kw_only=True)
class Record:
    """What became of one scan.

    Attributes:
        source: how the finder shows it.
        root: which source it came from, hashed.
        stamp: sizes and times of its files, hashed.
        status: "pending", "taken" or "refused".
        case: its name in the data set.
        subject: who, as written.
        session: when, as written.
        split: as the source says.
        modality: one a channel, as the source says.
        looks_like: "ct" or "other", by its values.
        reason: why it was refused; empty for others.
        sentence: the reason in words.
        notes: what was done to it, or is worth telling.
        suspicions: {name: sentence}, which stop nothing.
        accepted: reasons that spoke against it and were accepted.
        linked: whether its files are links.
        channels: from `describe`, one a channel.
        content: hashes of its channels' voxels, with commas between.
        picture: name of its picture in the ingest folder.
    """

    source: str
    root: str
    stamp: str
    status: str = "pending"
    case: str = ""
    subject: str = ""
    session: str = ""
    split: str = ""
    modality: list[str] = field(default_factory=list)
    looks_like: str = ""
    reason: str = ""
    sentence: str = ""
    notes: list[str] = field(default_factory=list)
    suspicions: dict[str, str] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    linked: bool = False
    channels: list[dict[str, Any]] = field(default_factory=list)
    content: str = ""
    picture: str = ""


@dataclass(kw_only=True)
class Ledger:
    """All records of a data set.

    Attributes:
        folder: DatasetXXX_Name/ingest.
        key: of the pseudonyms; whoever has it can test guesses of paths and patient numbers.
        records: {key of the scan: record}.
    """

    folder: Path
    key: bytes
    records: dict[str, Record] = field(default_factory=dict)
    _next: float = 0.0

    @property
    def pseudonyms(self) -> Pseudonyms:
        """Names of patients in this data set."""
        return Pseudonyms(self.key)

    def key_of(self, scan: Scan) -> str:
        """Knows a scan again: by its files, and which of their volumes."""
        places = [f"{part.form}:{part.volume}:{file.resolve()}" for part in scan.parts for file in part.files]
        reason = scan.refused.reason if scan.refused and not places else ""
        return self.pseudonyms.digest("scan", *sorted(places) or [scan.shown, reason])[:32]

    def save(self) -> None:
        """Write the file."""
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "version": _VERSION,
            "about": "Written by nnssl_ingest. Keep it to go on; delete it before you give the data set away: with its "
            "key, guesses of patient numbers could be tested.",
            "key": self.key.hex(),
            "records": {key: vars(record) for key, record in self.records.items()},
        }
        with whole_file(self.folder / FILE) as temporary:
            temporary.write_text(json.dumps(content, separators=(",", ":")))
        ended = time.monotonic()
        self._next = ended + (ended - started) / _SHARE

    def save_sometimes(self) -> None:
        """Write the file if writing has not cost too much of the time so far."""
        if time.monotonic() >= self._next:
            self.save()


def stamp(scan: Scan) -> str:
    """Changes when a file of a scan does."""
    seen = []
    for file in scan.files:
        try:
            stat = file.stat()
        except OSError:
            continue
        seen.append(f"{stat.st_size}:{stat.st_mtime_ns}")
    return Pseudonyms(b"").digest(*seen)[:16]


def open_ledger(dataset: Path) -> Ledger:
    """The ledger of a data set, or a fresh one.

    Raises:
        DataError: the data set was made by other means, or the ledger is damaged.
    """
    folder = dataset / FOLDER
    file = folder / FILE
    if not file.is_file():
        if (dataset / "dataset.json").is_file() or any(dataset.glob("images*/*")):
            raise DataError(
                f"{dataset} is there already and was not made by nnssl_ingest (it has no {FOLDER}/{FILE}). Choose "
                f"another id with -d, or move that data set away."
            )
        return Ledger(folder=folder, key=secrets.token_bytes(16))
    try:
        content = json.loads(file.read_text())
        known = {each.name for each in fields(Record)}
        records = {
            str(key): Record(**{name: value for name, value in record.items() if name in known})
            for key, record in content["records"].items()
        }
        return Ledger(folder=folder, key=bytes.fromhex(content["key"]), records=records)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged ({error!r}). Move {dataset} away and ingest anew.") from error
