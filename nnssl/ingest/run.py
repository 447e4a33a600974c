"""One ingest from sources to data set, ledger and report; memory does not grow with the number of scans."""

from __future__ import annotations

import functools
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest import cohort
from nnssl.ingest.apart import Apart
from nnssl.ingest.channels import put_together
from nnssl.ingest.dataset import description, write_description, write_table
from nnssl.ingest.elsewhere import note_leakage
from nnssl.ingest.find import find
from nnssl.ingest.ledger import FOLDER, Ledger, open_ledger
from nnssl.ingest.record import Record
from nnssl.ingest.records import Records
from nnssl.ingest.report import write_report
from nnssl.ingest.take import Taker, Task
from nnssl.ingest.tasks import Wishes, promise
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
        channels: names of the channels, where the user says them; several put single scans of a session together.
        accepted: names of reasons that do not keep a scan out.
        copy: never link.
        dry_run: write nothing but a report that was asked for.
        hide_names: no name of a file or folder is written anywhere.
        report: folder of the report; None: in the data set, or nowhere in a dry run.
        workers: scans read at a time, each in a process of its own.
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
        ledger: the file; `records`, `taken` and `refused` read it one by one.
        new: how many were read now.
        kept: how many were known.
        layouts: {layout: scans found now}.
        ignored: {kind of file: how many}.
        channels: dataset.json's channel_names.
        report: where report.html lies; None if none was written.
        keep: what the ledger needs to stay there.
    """

    ledger: Path
    new: int
    kept: int
    layouts: Counter[str]
    ignored: Counter[str]
    channels: dict[str, str]
    report: Path | None
    keep: object = None

    @property
    def records(self) -> Records:
        """All of the data set, cases first."""
        return Records(self.ledger, keep=self.keep)

    @property
    def taken(self) -> Records:
        """The cases of the data set."""
        return Records(self.ledger, status="taken", keep=self.keep)

    @property
    def refused(self) -> Records:
        """What was left out."""
        return Records(self.ledger, status="refused", keep=self.keep)


class _Passing:
    """A folder that is gone when nobody needs it any more."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def ingest(request: Request, say: Say) -> Outcome:
    """Find, read, judge and write.

    Raises:
        UsageError, DataError: a source or the data set cannot be used at all.
    """
    passing = _Passing() if request.dry_run else None
    pictures = passing.folder / PICTURES if passing else request.folder / FOLDER / PICTURES
    images = None if passing else request.folder / IMAGES
    with open_ledger(request.folder, aside=passing.folder if passing else None) as ledger:
        layouts, ignored = _found(request, ledger)
        say(f"Found {ledger.count_found()} scans: {_counts(layouts) or 'none'}.")
        wishes = Wishes(
            images=request.folder / IMAGES,
            channels=request.channels,
            accepted=request.accepted,
            hide_names=request.hide_names,
        )
        tasks = promise(ledger, wishes)
        ledger.commit()  # names are promised before files take them, so that a killed run is continued
        pictures.mkdir(parents=True, exist_ok=True)
        taker = Taker(images=images, pictures=pictures, accepted=request.accepted, copy=_copies(request))
        with Apart(taker) as apart:
            for task, result in for_each_case(apart.take, tasks, workers=request.workers, title="reading"):
                record = _result(task, result)
                if images is not None and record.status == "refused" and has_case(images, record.case, 1):
                    remove_case(images, record.case)  # of a scan that was taken before it changed, or begun
                ledger.put(task.key, record)
                ledger.commit_sometimes()
        channels = _judge(request, ledger, images)
        outcome = Outcome(
            ledger=ledger.file,
            new=len(tasks),
            kept=ledger.count_found() - len(tasks),
            layouts=layouts,
            ignored=ignored,
            channels=channels,
            report=request.report or (None if request.dry_run else request.folder / FOLDER),
            keep=passing,
        )
    if not request.dry_run:
        write_description(request.folder, outcome.taken, channels)
        write_table(request.folder, outcome.taken)
    if outcome.report is not None:
        write_report(outcome.report, request.folder.name, outcome, pictures)
    return outcome


def _found(request: Request, ledger: Ledger) -> tuple[Counter[str], Counter[str]]:
    """Scans into the ledger; counts of layouts, counts of what was not looked at."""
    layouts: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    roots = []
    for source in request.sources:
        root = ledger.pseudonyms.digest("root", str(source.resolve()))[:12]
        found = find(
            source, form=request.form, pseudonyms=ledger.pseudonyms, take=functools.partial(ledger.add_found, root)
        )
        roots.append(root)
        layouts += found.layouts
        ignored += found.ignored
    if len(request.channels) > 1 and (none := put_together(ledger, request.channels, request.accepted)):
        ignored[f"scans that are none of {', '.join(request.channels)}"] += none
    ledger.forget_absent(roots)
    return layouts, ignored


def _copies(request: Request) -> bool:
    """A link shows where it leads."""
    return request.copy or request.hide_names


def _result(task: Task, result: Record | str) -> Record:
    if isinstance(result, Record):
        return result
    return replace(task.record, status="refused", reason="unreadable", sentence=result)


def _judge(request: Request, ledger: Ledger, images: Path | None) -> dict[str, str]:
    """What only the whole cohort tells; returns the channel names."""

    def refuse(key: str, record: Record, reason: str, sentence: str) -> None:
        """Take a case out again."""
        record.status, record.reason, record.sentence = "refused", reason, sentence
        ledger.put(key, record)
        if images is not None:
            remove_case(images, record.case)

    old = description(request.folder).get("channel_names")
    begun = any(True for _ in ledger.taken(now=False))
    names = [str(name) for name in request.channels or (old.values() if begun and isinstance(old, dict) else ())]
    fixed = "" if not names else "ct" if {name.lower() for name in names} == {"ct"} else "other"
    cohort.refuse_minority(ledger.taken, ledger.put, fixed, request.accepted, refuse)
    cohort.refuse_duplicates(ledger.copies(), ledger.put, request.accepted, refuse)
    note_leakage(request.folder.parent, request.folder.name, ledger)
    cohort.suspect(ledger.taken, ledger.put)
    return cohort.channel_names(ledger.taken, names)


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
