"""What a request and the whole cohort decide of scans that were read: anew in every run, from the ledger alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnssl.errors import UsageError
from nnssl.ingest import cohort
from nnssl.ingest.before import IMAGES, Before, Emptied
from nnssl.ingest.dataset import description
from nnssl.ingest.elsewhere import note_leakage
from nnssl.ingest.ledger import Ledger
from nnssl.ingest.record import Record
from nnssl.ingest.write import has_case

_NEUTRAL = re.compile(r"image\d*")  # what channels are called of which no source and no user says what they are
_REASONS_TOLD = 6
Kind = tuple[int, str]


def check_channels(folder: Path, ledger: Ledger, asked: Sequence[str]) -> Kind | None:
    """Refuse channels that would make another data set of one that has cases.

    Args:
        folder: nnUNet_raw/DatasetXXX_Name.
        ledger: of it, before anything is written.
        asked: names of channels, from the user; may be none.

    Returns:
        What it is: number of channels, and "ct" or "other"; None without cases.

    Raises:
        UsageError: with what is there and what was asked.
    """
    there = _names(folder)
    most = _kind(ledger)
    if not asked or most is None or [name.casefold() for name in there] == [name.casefold() for name in asked]:
        return most
    neutral = all(map(_NEUTRAL.fullmatch, there))  # true without a dataset.json, too
    if neutral and most == (len(asked), cohort.kind_of(asked)):
        return most
    found = ", ".join(there) or "unknown"
    kind = "" if not neutral else ", which are CTs by their values" if most[1] == "ct" else ", which are no CTs"
    raise UsageError(
        f"{folder.name} has {ledger.count_had()} cases with the channels {found}{kind}, and --channels asks for "
        f"{', '.join(asked)}. Nothing was changed. Leave --channels out to add scans of the same kind; give others "
        f"another -d and -n; or, to start this data set over, delete {folder} and run the command again."
    )


def judge(
    folder: Path,
    ledger: Ledger,
    roots: Sequence[str],
    asked: Sequence[str],
    was: Kind | None,
    before: Before,
    *,
    hidden: bool = False,
) -> dict[str, str]:
    """Refuse what does not go with the others or with the request, note what is odd; returns the channel names.

    Args:
        folder: nnUNet_raw/DatasetXXX_Name.
        ledger: of it, with all that was read.
        roots: of the sources of this run.
        asked: names of channels, from the user; may be none.
        was: from `check_channels`.
        before: takes files away.
        hidden: no names of other data sets' cases are written.

    Raises:
        Emptied: nothing would be left of a data set that had cases.
    """

    def refuse(key: str, record: Record, reason: str, sentence: str) -> None:
        """Take a case out again."""
        record.status, record.reason, record.sentence = "refused", reason, sentence
        ledger.put(key, record)
        if not ledger.is_aside(key):
            before.take_away(record.case, had=ledger.was_there(key) and not ledger.is_new(key))

    for key, record in ledger.absent(roots):
        if not has_case(folder / IMAGES, record.case, len(record.channels)):
            refuse(key, record, "vanished", "its file is no longer in its source, and the case was a link to it")
    most = was or cohort.majority(ledger.taken)
    if most is not None:
        wanted = (most[0], cohort.kind_of(asked) if asked else most[1])
        cohort.refuse_unlike_ct(ledger.taken, ledger.put, refuse)
        cohort.refuse_others(ledger.taken, ledger.put, wanted, refuse)
    ledger.voxels.note(ledger.taken())
    cohort.refuse_copies(ledger.voxels.kept_out(), lambda content: _cases(ledger, content), ledger.put, refuse)
    cohort.refuse_duplicates(ledger.copies(), ledger.put, refuse)
    if ledger.count_had() and next(iter(ledger.taken()), None) is None:
        raise _emptied(folder, ledger)
    note_leakage(folder.parent, folder.name, ledger, hidden=hidden)
    cohort.suspect(ledger.taken, ledger.put)
    for key, record in ledger.absent(roots):
        what = "its link leads to the file where it is now" if record.linked else "its copy stays in the data set"
        record.suspicions["vanished"] = f"its source has no {record.source} any more; {what}"
        ledger.put(key, record)
    mixed = any("other_modality" in record.accepted for _, record in ledger.taken())
    given = asked or (_names(folder) if ledger.count_had() else ())
    if mixed and (not asked or cohort.kind_of(asked) == "ct"):
        given = ()  # scans of both kinds are normalised image by image, whatever else was asked for or was there before
    return cohort.channel_names(ledger.taken, given)


def _cases(ledger: Ledger, content: str) -> Iterator[tuple[str, Record]]:
    """Cases that have a channel of some voxels."""
    for key in ledger.voxels.keys(content):
        record = ledger.get(key)
        if record is not None and record.status == "taken":
            yield key, record


def _kind(ledger: Ledger) -> Kind | None:
    """What a data set is: runs that were stopped do not decide it."""
    if not ledger.count_had():
        return None
    return ledger.kind() or cohort.majority(ledger.taken)


def _names(folder: Path) -> list[str]:
    """The channels of dataset.json."""
    names = description(folder).get("channel_names")
    return [str(name) for name in names.values()] if isinstance(names, dict) else []


def _emptied(folder: Path, ledger: Ledger) -> Emptied:
    reasons = ledger.reasons()
    told = "; ".join(f"{reason} ({count}), as {source}" for reason, count, source in reasons[:_REASONS_TOLD])
    return Emptied(
        f"Nothing would be left of {folder.name}, which has {ledger.count_had()} cases: {told}. It was left as it was. "
        f"Look at it with --dry_run --report DIR and another -d, correct the command or the sources; to start the data "
        f"set over, delete {folder} and run the command again."
    )
