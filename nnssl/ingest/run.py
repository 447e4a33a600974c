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

from nnssl.errors import DataError, NnsslError
from nnssl.ingest import cohort
from nnssl.ingest.apart import Apart
from nnssl.ingest.before import IMAGES, Before, Emptied
from nnssl.ingest.channels import put_together
from nnssl.ingest.dataset import write_description, write_table
from nnssl.ingest.find import find
from nnssl.ingest.judge import check_channels, judge
from nnssl.ingest.known_names import KnownNames, hide_known
from nnssl.ingest.ledger import FOLDER, Ledger, open_ledger
from nnssl.ingest.patterns import Patterns
from nnssl.ingest.record import Record
from nnssl.ingest.records import Records
from nnssl.ingest.report import write_report
from nnssl.ingest.scan import Found, Scan
from nnssl.ingest.subjects import leave_to_lists
from nnssl.ingest.take import Taker, Task
from nnssl.ingest.tasks import Tasks, Wishes, promise, promise_again
from nnssl.ingest.unlink import unlink
from nnssl.planning.pool import for_each_case

PICTURES = "pictures"
NAMED_TWICE = 100
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to take in.

    Attributes:
        sources: folders, tables, lists or files.
        folder: nnUNet_raw/DatasetXXX_Name.
        form: the layout to look for; "auto" for all.
        channels: names of the channels, where the user says them; several put single scans of a session together.
        accepted: names of reasons that do not keep a scan out; "REASON=PATTERN" for those whose path fits.
        excluded: patterns of paths of scans that are left out.
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
    excluded: Sequence[str] = ()
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
        lost: how many were cases before this run and are no longer.
        subjects: (what told who they are, number of subjects) of the cases; each subject is counted once.
        layouts: {layout: scans found now}.
        described: {file or kind of file: how many}, taken for what they say of scans.
        ignored: {kind of file: how many}.
        twice: how many scans were found that are others of those found: links to them, rows that repeat.
        named_twice: the first of these, in words; none where names are hidden.
        channels: dataset.json's channel_names.
        pictures: folder of the scans' pictures.
        report: where report.html lies; None if none was written.
        keep: what the ledger needs to stay there.
    """

    ledger: Path
    new: int
    kept: int
    lost: int
    subjects: list[tuple[str, int]]
    layouts: Counter[str]
    described: Counter[str]
    ignored: Counter[str]
    twice: int
    named_twice: list[str]
    channels: dict[str, str]
    pictures: Path
    report: Path | None = None
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
        UsageError, DataError: a source or the data set cannot be used at all, or nothing would be left of it.
    """
    passing = _Passing()
    before = Before(request.folder, dry=request.dry_run)
    try:
        outcome = _ingest(request, say, before, passing)
    except NnsslError as error:
        before.end(emptied=isinstance(error, Emptied))
        if before.made:  # what a run that was stopped has read is kept: a word may be wrong in this command
            before.remove_made()
        raise
    before.end(emptied=False)
    if request.dry_run:
        outcome = replace(outcome, report=request.report)
    elif (before.made or before.unfinished) and not outcome.taken:  # no folder stays of which nothing came
        ledger = Path(shutil.copyfile(outcome.ledger, passing.folder / outcome.ledger.name))
        pictures = Path(shutil.copytree(outcome.pictures, passing.folder / PICTURES))
        outcome = replace(outcome, ledger=ledger, pictures=pictures, report=request.report)
        before.remove_made()
    else:
        write_description(request.folder, outcome.taken, outcome.channels)
        write_table(request.folder, outcome.taken)
        with open_ledger(request.folder) as known:  # a run that is stopped before this line decides nothing
            known.finish(cohort.majority(known.taken))
        outcome = replace(outcome, report=request.report or request.folder / FOLDER)
    if outcome.report is not None:
        write_report(outcome.report, request.folder.name, outcome, outcome.pictures)
    return outcome


def _ingest(request: Request, say: Say, before: Before, passing: _Passing) -> Outcome:
    """All but the data set's own files and the report."""
    dry = request.dry_run
    with open_ledger(request.folder, aside=passing.folder if dry else None) as ledger:
        was = check_channels(request.folder, ledger, request.channels)
        before.begin(ledger)
        names = KnownNames()
        found, roots = _found(request, ledger, say, names)
        say(f"Found {ledger.count_found()} scans: {_counts(found.layouts) or 'none'}.")
        judged = functools.partial(
            judge, request.folder, ledger, roots, request.channels, was, before, hidden=request.hide_names
        )
        wishes = Wishes(images=request.folder / IMAGES, channels=request.channels, hide_names=request.hide_names)
        pictures = (passing.folder if dry else request.folder / FOLDER) / PICTURES
        tasks = promise(ledger, wishes, before)
        ledger.commit()  # names are promised before files take them, so that a killed run is continued
        new = len(tasks)
        _read(request, ledger, tasks, pictures, before)
        channels = judged()
        if again := promise_again(ledger, wishes):
            ledger.commit()
            new += len(again)
            _read(request, ledger, again, pictures, before)
            channels = judged()
        if request.channels and list(channels.values()) != list(request.channels):
            say(
                f"Scans of other kinds were accepted (other_modality): all are normalised image by image, and the "
                f"channel is called {', '.join(channels.values())}, not {', '.join(request.channels)}."
            )
        if _copies(request) and not dry:
            unlink(request.folder, ledger, workers=request.workers)
        twice, named = ledger.found_twice(0 if request.hide_names else NAMED_TWICE)
        outcome = Outcome(
            ledger=ledger.file,
            new=new,
            kept=ledger.count_found() - new,
            lost=ledger.count_lost(),
            subjects=ledger.subjects(hidden=request.hide_names),
            layouts=found.layouts,
            described=found.described,
            ignored=found.ignored,
            twice=twice,
            named_twice=[names.hidden(line) for line in named],
            channels=channels,
            pictures=pictures,
            keep=passing,
        )
        return outcome


def _read(request: Request, ledger: Ledger, tasks: Tasks, pictures: Path, before: Before) -> None:
    """Read the scans of the tasks, each in a process of its own."""
    pictures.mkdir(parents=True, exist_ok=True)
    images = None if request.dry_run else request.folder / IMAGES
    with Apart(Taker(images=images, pictures=pictures, copy=_copies(request))) as apart:
        for task, result in for_each_case(apart.take, tasks, workers=request.workers, title="reading"):
            record = _result(task, result)
            if record.status == "refused":
                before.take_away(record.case, had=False)  # what was begun of it
            ledger.put(task.key, record)
            ledger.commit_sometimes()


def _found(request: Request, ledger: Ledger, say: Say, names: KnownNames) -> tuple[Found, list[str]]:
    """Scans into the ledger; what was found, in numbers, and what the ledger calls the sources.

    Takes up the names of patients in DICOM, and takes them out of all that is said of the scans.
    """
    total = Found()
    roots = []
    patterns = Patterns(request.accepted, request.excluded, hide_names=request.hide_names)
    for source in request.sources:
        root = ledger.pseudonyms.digest("root", str(source.resolve()))[:12]
        folder = source if source.is_dir() else source.parent
        take = functools.partial(_add, ledger, patterns, names, root, folder)
        ledger.people.note_origin(root, source, hidden=request.hide_names)
        total.add(find(source, form=request.form, pseudonyms=ledger.pseudonyms, take=take))
        roots.append(root)
    leave_to_lists(ledger)
    total.layouts = ledger.people.layouts()
    for pattern in patterns.unused():
        say(f"The pattern {pattern} fits no scan that was found.")
    if len(request.channels) > 1 and (none := put_together(ledger, request.channels, hidden=request.hide_names)):
        total.ignored[f"scans that are none of {', '.join(request.channels)}"] += none
    hide_known(ledger, names)
    ledger.forget_absent(roots)
    return total, roots


def _add(ledger: Ledger, patterns: Patterns, names: KnownNames, root: str, folder: Path, scan: Scan) -> None:
    names.add(scan.names)
    ledger.add_found(root, patterns.applied(scan, folder))


def _copies(request: Request) -> bool:
    """A link shows where it leads."""
    return request.copy or request.hide_names


def _result(task: Task, result: Record | str) -> Record:
    if isinstance(result, Record):
        return result
    return replace(task.record, status="refused", reason="unreadable", sentence=result)


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
