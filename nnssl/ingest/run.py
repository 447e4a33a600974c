"""One ingest from sources to data set, ledger and report."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest import cohort
from nnssl.ingest.dataset import description, write_description, write_table
from nnssl.ingest.elsewhere import note_leakage
from nnssl.ingest.find import find
from nnssl.ingest.ledger import FOLDER, Ledger, Record, open_ledger, stamp
from nnssl.ingest.names import case_name, token
from nnssl.ingest.report import write_report
from nnssl.ingest.scan import Scan
from nnssl.ingest.take import Taker, Task
from nnssl.ingest.write import has_case, remove_case
from nnssl.planning.pool import for_each_case

IMAGES = "imagesTr"
PICTURES = "pictures"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to take in.

    Attributes:
        sources: folders, tables, lists or files.
        folder: nnUNet_raw/DatasetXXX_Name.
        form: the layout to look for; "auto" for all.
        channels: names of the channels, where the user says them.
        accepted: names of reasons that do not keep a scan out.
        copy: never link.
        dry_run: write nothing but a report that was asked for.
        hide_names: no name of a file or folder is written anywhere.
        report: folder of the report; None: in the data set, or nowhere in a dry run.
        workers: threads.
    """

    sources: Sequence[Path]
    folder: Path
    form: str = "auto"
    channels: Sequence[str] = ()
    accepted: frozenset[str] = frozenset()
    copy: bool = False
    dry_run: bool = False
    hide_names: bool = False
    report: Path | None = None
    workers: int = 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the scans.

    Attributes:
        records: all of the data set, in order of names and then of sources.
        new: how many were read now.
        kept: how many were known.
        layouts: {layout: scans found now}.
        ignored: {kind of file: how many}.
        channels: dataset.json's channel_names.
        report: where report.html lies; None if none was written.
    """

    records: tuple[Record, ...]
    new: int
    kept: int
    layouts: Counter[str]
    ignored: Counter[str]
    channels: dict[str, str]
    report: Path | None

    @property
    def taken(self) -> list[Record]:
        """The cases of the data set."""
        return [record for record in self.records if record.status == "taken"]

    @property
    def refused(self) -> list[Record]:
        """What was left out."""
        return [record for record in self.records if record.status == "refused"]


def ingest(request: Request, say: Say) -> Outcome:
    """Find, read, judge and write.

    Raises:
        UsageError, DataError: a source or the data set cannot be used at all.
    """
    ledger = open_ledger(request.folder)
    roots, layouts, ignored = _found(request, ledger)
    say(f"Found {sum(map(len, roots.values()))} scans: {_counts(layouts) or 'none'}.")
    tasks, kept = _tasks(request, ledger, roots)
    with tempfile.TemporaryDirectory() as passing:
        if request.dry_run:
            pictures, images = Path(passing), None
        else:
            pictures, images = request.folder / FOLDER / PICTURES, request.folder / IMAGES
            images.mkdir(parents=True, exist_ok=True)
            ledger.save()  # names are promised before files take them, so that a killed run is continued
        pictures.mkdir(parents=True, exist_ok=True)
        taker = Taker(images=images, pictures=pictures, accepted=request.accepted, copy=_copies(request))
        before = [key for key in ledger.records if key not in {task.key for task in tasks}]
        for task, result in for_each_case(taker.take, tasks, workers=request.workers, title="reading"):
            ledger.records[task.key] = _result(task, result)
            if not request.dry_run:
                ledger.save_sometimes()
        channels = _judge(request, ledger, [*before, *(task.key for task in tasks)], {task.key for task in tasks})
        records = tuple(
            sorted(ledger.records.values(), key=lambda each: (each.status != "taken", each.case, each.source))
        )
        outcome = Outcome(
            records=records,
            new=len(tasks),
            kept=kept,
            layouts=layouts,
            ignored=ignored,
            channels=channels,
            report=request.report or (None if request.dry_run else request.folder / FOLDER),
        )
        if not request.dry_run:
            write_description(request.folder, outcome.taken, channels)
            write_table(request.folder, outcome.taken)
            ledger.save()
        if outcome.report is not None:
            write_report(outcome.report, request.folder.name, outcome, pictures)
    return outcome


def _found(request: Request, ledger: Ledger) -> tuple[dict[str, list[Scan]], Counter[str], Counter[str]]:
    """{source, hashed: scans}, counts of layouts, counts of what was not looked at."""
    roots: dict[str, list[Scan]] = {}
    layouts: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    for source in request.sources:
        found = find(source, form=request.form, pseudonyms=ledger.pseudonyms)
        roots[ledger.pseudonyms.digest("root", str(source.resolve()))[:12]] = found.scans
        layouts += found.layouts
        ignored += found.ignored
    return roots, layouts, ignored


def _tasks(request: Request, ledger: Ledger, roots: Mapping[str, Sequence[Scan]]) -> tuple[list[Task], int]:
    """What must be read, with its record; and how many scans are known well enough.

    What a source once had and was refused is forgotten with it; cases that were taken stay.
    """
    found: dict[str, tuple[str, Scan]] = {}
    for root, scans in roots.items():
        for scan in scans:
            found.setdefault(ledger.key_of(scan), (root, scan))  # sources may overlap
    for key, record in list(ledger.records.items()):
        if key not in found and record.root in roots and record.status != "taken":
            del ledger.records[key]
    tasks: list[Task] = []
    names = Counter(record.case for record in ledger.records.values() if record.status == "taken")
    for key, (root, scan) in found.items():
        old = ledger.records.get(key)
        if old is not None and _still_good(request, scan, old):
            continue
        shown = _without_names(scan, key, ledger) if request.hide_names else scan
        again = old is not None and (old.status == "taken" or not names[old.case])
        case = old.case if old is not None and again else _free_name(shown, names)
        names[case] += 1
        record = Record(
            source=shown.shown,
            root=root,
            stamp=stamp(scan),
            case=case,
            subject=token(shown.subject) or case,
            session=token(shown.session),
            split=token(shown.split),
            modality=_modality(request, scan),
        )
        ledger.records[key] = record
        tasks.append(Task(key=key, scan=scan, record=record))
    return tasks, len(found) - len(tasks)


def _modality(request: Request, scan: Scan) -> list[str]:
    said = [token(part.modality) for part in scan.parts]
    if len(request.channels) == len(said):
        return [name or token(given) for name, given in zip(said, request.channels, strict=True)]
    return said


def _still_good(request: Request, scan: Scan, record: Record) -> bool:
    if record.stamp != stamp(scan) or record.status == "pending":
        return False
    if record.status == "taken":
        return has_case(request.folder / IMAGES, record.case, len(scan.parts))
    return record.reason not in request.accepted and bool(scan.parts)


def _free_name(scan: Scan, names: Counter[str]) -> str:
    wanted = case_name(scan.name)
    name, number = wanted, 2
    while names[name]:
        name, number = f"{wanted}-{number}", number + 1
    return name


def _without_names(scan: Scan, key: str, ledger: Ledger) -> Scan:
    subject = ledger.pseudonyms.of("subject", scan.subject, letter="P")
    session = ledger.pseudonyms.of("session", scan.session, letter="S", digits=6) if scan.session else ""
    name = "_".join(filter(None, (subject, session, key[:6])))
    return replace(scan, shown=f"scan {key[:8]}", name=name, subject=subject, session=session)


def _copies(request: Request) -> bool:
    """A link shows where it leads."""
    return request.copy or request.hide_names


def _result(task: Task, result: Record | str) -> Record:
    if isinstance(result, Record):
        return result
    return replace(task.record, status="refused", reason="unreadable", sentence=result)


def _judge(request: Request, ledger: Ledger, order: Sequence[str], new: set[str]) -> dict[str, str]:
    """What only the whole cohort tells; returns the channel names."""
    images = None if request.dry_run else request.folder / IMAGES

    def refuse(record: Record, reason: str, sentence: str) -> None:
        """Take a case out again."""
        record.status, record.reason, record.sentence = "refused", reason, sentence
        if images is not None:
            remove_case(images, record.case)

    old = description(request.folder).get("channel_names")
    begun = any(record.status == "taken" for key, record in ledger.records.items() if key not in new)
    names = request.channels or (list(old.values()) if begun and isinstance(old, dict) else ())
    fixed = "" if not names else "ct" if {str(name).lower() for name in names} == {"ct"} else "other"
    cohort.refuse_minority(_taken(ledger, order), fixed, request.accepted, refuse)
    cohort.refuse_duplicates(_taken(ledger, order), request.accepted, refuse)
    note_leakage(
        request.folder.parent,
        request.folder.name,
        [ledger.records[key] for key in sorted(new) if ledger.records[key].status == "taken"],
    )
    cohort.suspect(_taken(ledger, order))
    return cohort.channel_names(_taken(ledger, order), [str(name) for name in names])


def _taken(ledger: Ledger, order: Sequence[str]) -> list[Record]:
    return [ledger.records[key] for key in order if ledger.records[key].status == "taken"]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def check_sources(sources: Sequence[Path], folder: Path) -> None:
    """Refuse a source that holds the data set it would be written to, or lies in it.

    Raises:
        DataError: with both paths.
    """
    for source in sources:
        inside, outside = source.resolve(), folder.resolve()
        if inside == outside or inside.is_relative_to(outside) or outside.is_relative_to(inside):
            raise DataError(
                f"The source {source} and the data set {folder} lie within each other; the data set would be read as "
                f"its own source. Choose another source, id or nnUNet_raw."
            )
