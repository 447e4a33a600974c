"""Which scans must be read: those that are new, have changed, or are asked for by a reason that is accepted now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnssl.ingest.before import Before
from nnssl.ingest.identity import Pseudonyms, without
from nnssl.ingest.ledger import Ledger
from nnssl.ingest.names import case_name, token
from nnssl.ingest.patterns import EXCLUDED, is_excluded
from nnssl.ingest.record import Record, printable
from nnssl.ingest.scan import Scan
from nnssl.ingest.splits import REASONS as KEPT_OUT
from nnssl.ingest.take import Task
from nnssl.ingest.write import has_case

# judgements that another request, or other scans beside it, may turn: what was refused for them is judged anew
_TURN = frozenset({"other_modality", "duplicate", "channel_count", "ct_not_hu"})


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What of a request decides on reading.

    Attributes:
        images: imagesTr of the data set.
        channels: names of the channels, where the user says them.
        hide_names: no name of a file or folder is written.
    """

    images: Path
    channels: Sequence[str]
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


def promise(ledger: Ledger, wishes: Wishes, before: Before) -> Tasks:
    """Note in the ledger what is to be read, each with the name of its case.

    What is known and is not read again takes over what this request says of it; where the request or the other scans
    may have turned the judgement that keeps it out, it is set aside, to be judged anew. What a run that was stopped
    has taken is kept where this request would have it taken in the same way, and decides nothing.
    """
    for key, case in ledger.stopped():
        ledger.forget(key)
        if case and not ledger.is_used(case):
            before.take_away(case, had=False)
    numbers: dict[str, int] = {}
    for key, root, scan in ledger.found():
        old = ledger.get(key)
        same = old is not None and old.stamp == stamp(scan) and old.status != "pending"
        if old is not None and same and is_excluded(scan) == (old.reason == EXCLUDED):
            if _was_set_aside(old):
                _renew(old, key, root, scan, ledger, wishes)
                ledger.set_aside(key, old)
                continue
            begun = old.status == "taken" and not ledger.was_there(key)
            fits = not begun or _is_as(_promised(key, root, scan, old, ledger, wishes, numbers), old, scan)
            if fits and _still_good(wishes, scan, old):
                if _renew(old, key, root, scan, ledger, wishes, begun=begun):
                    ledger.put(key, old)
                if begun:
                    ledger.keep(key)
                continue
        had = ledger.was_there(key)
        record = _promised(key, root, scan, old, ledger, wishes, numbers)
        ledger.promise(key, record)
        if old is not None and (had or (old.case != record.case and not ledger.is_used(old.case))):
            before.take_away(old.case, had=had)
    return Tasks(ledger)


def _is_as(fresh: Record, old: Record, scan: Scan) -> bool:
    """Whether a run that was stopped took a scan as this one would."""
    names = ("root", "origin", "source", "subject", "session", "split")
    return all(getattr(fresh, name) == getattr(old, name) for name in names) and {*old.accepted} <= {*scan.allowed}


def promise_again(ledger: Ledger, wishes: Wishes) -> Tasks:
    """Note in the ledger that those are to be read which were set aside and were judged fit."""
    numbers: dict[str, int] = {}
    for key, scan, old in ledger.take_from_aside():
        old.status = "refused"
        ledger.put(key, old)  # gives up the name of its case, which another one may have by now
        ledger.promise(key, _promised(key, old.root, scan, old, ledger, wishes, numbers))
    return Tasks(ledger)


def _promised(
    key: str, root: str, scan: Scan, old: Record | None, ledger: Ledger, wishes: Wishes, numbers: dict[str, int]
) -> Record:
    """The record of a scan before it is read; what was accepted of the same file stays accepted."""
    shown = _without_names(scan, key, root, ledger) if wishes.hide_names else scan
    had = ledger.was_there(key)
    same = old is not None and (had or old.source == printable(shown.shown))
    again = old is not None and same and (old.status == "taken" or not ledger.is_used(old.case))
    case = old.case if old is not None and again else _free_name(shown, ledger, numbers)
    now = stamp(scan)
    return Record(
        source=printable(shown.shown),
        root=root,
        origin=ledger.people.origin(root),
        stamp=now,
        case=case,
        subject=_subject(shown, root, ledger, wishes) or case,
        session=token(shown.session),
        split=token(shown.split),
        modality=_modality(wishes.channels, scan),
        told=_told(wishes.channels, scan),
        suspicions=dict(scan.odd),
        allowed=sorted({*scan.allowed, *(old.accepted if old is not None and had and old.stamp == now else ())}),
    )


def _renew(
    old: Record, key: str, root: str, scan: Scan, ledger: Ledger, wishes: Wishes, *, begun: bool = False
) -> bool:
    """What this request says of a scan that is known; whether that is something else than the last one said."""
    said = old.modality, old.told, old.allowed, old.subject, old.session, old.split
    if scan.is_listed:
        shown = _without_names(scan, key, root, ledger) if wishes.hide_names else scan
        old.subject, old.session = _subject(shown, root, ledger, wishes) or old.case, token(shown.session)
        old.split = token(scan.split)
    if wishes.channels or begun or not ledger.count_had():
        old.modality, old.told = _modality(wishes.channels, scan), _told(wishes.channels, scan)
    old.allowed = sorted(scan.allowed)
    return said != (old.modality, old.told, old.allowed, old.subject, old.session, old.split)


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


def _told(channels: Sequence[str], scan: Scan) -> bool:
    return bool(channels) and not any(part.modality for part in scan.parts)


def _was_set_aside(record: Record) -> bool:
    """Whether it was read and found sound; a CT by its source's own word stays refused for its values."""
    sound = record.status == "refused" and record.reason in _TURN and bool(record.content)
    return sound and (record.told or record.reason != "ct_not_hu")


def _still_good(wishes: Wishes, scan: Scan, record: Record) -> bool:
    said = scan.refused is not None and scan.refused.reason in KEPT_OUT and not record.accepts(scan.refused.reason)
    if said != (record.reason in KEPT_OUT) and (said or scan.is_listed):
        return False  # the list says something else than it did; a folder says nothing of it
    if record.status == "taken":
        return has_case(wishes.images, record.case, len(scan.parts))
    return record.reason not in scan.allowed and (bool(scan.parts) or _says_the_same(scan, record))


def _says_the_same(scan: Scan, record: Record) -> bool:
    """Whether a scan of which there is nothing to read is refused as it was, in the same words."""
    if scan.refused is None or (record.reason, record.source) != (scan.refused.reason, printable(scan.shown)):
        return False
    return record.sentence == printable(without(scan.refused.sentence, scan.secrets))


def _free_name(scan: Scan, ledger: Ledger, numbers: dict[str, int]) -> str:
    """A name that no case has; `numbers` remembers how often each was wanted, thousands may be called alike."""
    wanted = name = case_name(scan.name)
    while ledger.is_used(name):
        numbers[wanted] = numbers.get(wanted, 1) + 1
        name = f"{wanted}-{numbers[wanted]}"
    return name


def _subject(shown: Scan, root: str, ledger: Ledger, wishes: Wishes) -> str:
    return token(shown.subject) if wishes.hide_names else ledger.people.name(root, shown)


def _without_names(scan: Scan, key: str, root: str, ledger: Ledger) -> Scan:
    subject = ledger.pseudonyms.of("subject", ledger.people.who(root, scan), letter="P")
    session = ledger.pseudonyms.of("session", scan.session, letter="S", digits=6) if scan.session else ""
    name = "_".join(filter(None, (subject, session, key[:6])))
    return replace(scan, shown=f"scan {key[:8]}", name=name, subject=subject, session=session)
