"""Scans of one subject and session in separate files, put together as channels of one case where the user says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nnssl.ingest.ledger import Ledger
from nnssl.ingest.names import stem
from nnssl.ingest.scan import Scan
from nnssl.ingest.scan_text import scan_from_plain, scan_to_plain
from nnssl.ingest.splits import REASONS as KEPT_OUT
from nnssl.ingest.spool import Spool
from nnssl.planning.checks import Finding

_Item = tuple[str, str, int, Scan]  # key, root, channel, scan


def put_together(ledger: Ledger, names: Sequence[str], *, hidden: bool = False) -> int:
    """Make cases of several channels out of the single scans that were found.

    A scan is the channel that its source names as modality (BIDS suffix, DICOM modality, a list's column), or that a
    word of its file's name names; capitals do not matter. Scans belong together by source, collection, subject and
    session, and files that lie in one folder without subjects by the rest of their names. Sizes and places are compared
    when they are read. Scans that have several channels already, or that were refused, stay as they are; where a list
    keeps a channel out, the others of its case say so.

    Args:
        ledger: with what was found.
        names: of the channels, in order.
        hidden: files are not named.

    Returns:
        How many scans are none of the channels; they are left out.
    """
    wanted = {name.casefold(): channel for channel, name in enumerate(names)}
    groups: Spool[_Item] = Spool(lambda item: [*item[:3], scan_to_plain(item[3])], _item)
    none = []
    for key, root, scan in ledger.found():
        if len(scan.parts) != 1 or (scan.refused is not None and scan.refused.reason not in KEPT_OUT):
            continue
        channel = _channel(scan, wanted)
        if channel is None:
            none += [] if scan.refused else [key]
        else:
            groups.add(_belongs(root, scan, names[channel]), (key, root, channel, scan))
    for key in none:
        ledger.drop_found(key)
    for group in groups.groups():
        held = {channel: scan for _, _, channel, scan in group if _is_kept_out(scan)}
        members = [each for each in group if not _is_kept_out(each[3])]
        for key, *_ in members:
            ledger.drop_found(key)
        if members:
            ledger.add_found(members[0][1], _case([each[2:] for each in members], held, names, hidden=hidden))
    return len(none)


def _item(plain: Any) -> _Item:
    key, root, channel, scan = plain
    return key, root, channel, scan_from_plain(scan)


def _is_kept_out(scan: Scan) -> bool:
    return scan.refused is not None and scan.refused.reason not in scan.allowed


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _channel(scan: Scan, wanted: dict[str, int]) -> int | None:
    """Which channel a scan is; the last word counts most, as in "t1_to_flair"."""
    said = scan.parts[0].modality.casefold()
    if said in wanted:
        return wanted[said]
    words = _words(stem(scan.files[0])) if scan.parts[0].form == "file" else []
    return next((wanted[word] for word in reversed(words) if word in wanted), None)


def _belongs(root: str, scan: Scan, name: str) -> str:
    """The same for scans of one case."""
    alone = scan.subject == scan.name  # nothing above the file says whose it is
    return "\0".join((root, scan.collection, _without(scan.name, name) if alone else scan.subject, scan.session))


def _without(text: str, name: str) -> str:
    """A case's name without the word that names a channel; one that is nothing else stays."""
    words = re.split(r"[_\s]+", text)
    left = [word for word in words if word.casefold() != name.casefold()]
    if len(left) == len(words):
        left = [re.sub(rf"(^|[^A-Za-z0-9]){re.escape(name)}($|[^A-Za-z0-9])", r"\1\2", text, flags=re.IGNORECASE)]
    return "_".join(filter(None, left)).strip("-_. ") or text


def _case(group: Sequence[tuple[int, Scan]], held: dict[int, Scan], names: Sequence[str], *, hidden: bool) -> Scan:
    """One case out of the scans of a subject and session, or what it lacks."""
    ordered = sorted(group, key=lambda each: (each[0], each[1].name, each[1].shown))
    first, several = dict[int, Scan](), []
    for channel, scan in ordered:
        if first.setdefault(channel, scan) is not scan:
            several.append(f"{names[channel]} ({'one more' if hidden else scan.shown})")
    channel, example = ordered[0]
    example = replace(
        example,
        name=_without(example.name, names[channel]),
        subject=_without(example.subject, names[channel]) if example.subject == example.name else example.subject,
        shown=", ".join(scan.shown for scan in first.values()),
        notes=tuple(dict.fromkeys(note for scan in first.values() for note in scan.notes)),
        allowed=tuple(sorted({reason for scan in first.values() for reason in scan.allowed})),
        secrets=tuple({secret for scan in first.values() for secret in scan.secrets}),
        refused=next((scan.refused for scan in first.values() if scan.refused), None),  # of those, accepted ones only
    )
    if len(first) < len(names):
        there = ", ".join(names[number] for number in first)
        more = f", and more than one scan fits {', '.join(several)}" if several else ""
        sentence = f"{_missing(first, held, names)}; found {there}{more}"
        return replace(example, parts=(), refused=Finding("missing_channel", sentence))
    parts = tuple(replace(first[number].parts[0], modality=name) for number, name in enumerate(names))
    if several and "ambiguous_channel" not in example.allowed:
        sentence = f"more than one scan fits {', '.join(several)}"
        return replace(example, parts=parts, refused=Finding("ambiguous_channel", sentence))
    if several:
        example = replace(example, notes=(*example.notes, f"the first by name was taken, not {', '.join(several)}"))
    return replace(example, parts=parts)


def _missing(first: dict[int, Scan], held: dict[int, Scan], names: Sequence[str]) -> str:
    """Which channels a case lacks, and which of them are only kept out, and why."""
    out = [number for number in range(len(names)) if number not in first and number in held]
    lost = [name for number, name in enumerate(names) if number not in first and number not in held]
    said = [f"{', '.join(lost)} is not there"] if lost else []
    findings = ((names[number], held[number].refused) for number in out)
    said += [f"{name} is {finding.reason} ({finding.sentence})" for name, finding in findings if finding]
    return "; ".join(said)
