"""Which scans must be read: those that are new, have changed, or are asked for by a reason that is accepted now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.ledger import Ledger
from nnssl.ingest.names import case_name, token
from nnssl.ingest.record import Record, printable
from nnssl.ingest.scan import Scan
from nnssl.ingest.take import Task
from nnssl.ingest.write import has_case


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What of a request decides on reading.

    Attributes:
        images: imagesTr of the data set.
        channels: names of the channels, where the user says them.
        accepted: names of reasons.
        hide_names: no name of a file or folder is written.
    """

    images: Path
    channels: Sequence[str]
    accepted: frozenset[str]
    hide_names: bool


class Tasks:
    """The scans that were promised, one by one from the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._count = ledger, ledger.count_tasks()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Task]:
        for key, scan, record in self._ledger.tasks():
            yield Task(key=key, scan=scan, record=record)


def promise(ledger: Ledger, wishes: Wishes) -> Tasks:
    """Note in the ledger what is to be read, each with the name of its case."""
    numbers: dict[str, int] = {}
    for key, root, scan in ledger.found():
        old = ledger.get(key)
        if old is not None and _still_good(wishes, scan, old):
            continue
        shown = _without_names(scan, key, ledger) if wishes.hide_names else scan
        again = old is not None and (old.status == "taken" or not ledger.is_used(old.case))
        case = old.case if old is not None and again else _free_name(shown, ledger, numbers)
        record = Record(
            source=printable(shown.shown),
            root=root,
            stamp=stamp(scan),
            case=case,
            subject=token(shown.subject) or case,
            session=token(shown.session),
            split=token(shown.split),
            modality=_modality(wishes.channels, scan),
            told=bool(wishes.channels) and not any(part.modality for part in scan.parts),
        )
        ledger.promise(key, record)
    return Tasks(ledger)


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


def _modality(channels: Sequence[str], scan: Scan) -> list[str]:
    said = [token(part.modality) for part in scan.parts]
    if len(channels) == len(said):
        return [name or token(given) for name, given in zip(said, channels, strict=True)]
    return said


def _still_good(wishes: Wishes, scan: Scan, record: Record) -> bool:
    if record.stamp != stamp(scan) or record.status == "pending":
        return False
    if record.status == "taken":
        return has_case(wishes.images, record.case, len(scan.parts))
    return record.reason not in wishes.accepted and bool(scan.parts)


def _free_name(scan: Scan, ledger: Ledger, numbers: dict[str, int]) -> str:
    """A name that no case has; `numbers` remembers how often each was wanted, thousands may be called alike."""
    wanted = name = case_name(scan.name)
    while ledger.is_used(name):
        numbers[wanted] = numbers.get(wanted, 1) + 1
        name = f"{wanted}-{numbers[wanted]}"
    return name


def _without_names(scan: Scan, key: str, ledger: Ledger) -> Scan:
    subject = ledger.pseudonyms.of("subject", scan.subject, letter="P")
    session = ledger.pseudonyms.of("session", scan.session, letter="S", digits=6) if scan.session else ""
    name = "_".join(filter(None, (subject, session, key[:6])))
    return replace(scan, shown=f"scan {key[:8]}", name=name, subject=subject, session=session)
