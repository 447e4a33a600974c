"""What became of one scan, as the ledger keeps it and the report shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(kw_only=True)
class Record:
    """What became of one scan.

    Attributes:
        source: how the finder shows it.
        root: which source it came from, hashed.
        origin: what that source is called.
        stamp: sizes and times of its files, hashed.
        status: "pending", "taken" or "refused".
        case: its name in the data set.
        subject: who, as written.
        session: when, as written.
        split: as the source says.
        modality: one a channel, as the source says, or else the user.
        told: whether the user says it and not the source.
        looks_like: "ct" or "other", by its values.
        reason: why it was refused; empty for others.
        sentence: the reason in words.
        notes: what was done to it, or is worth telling.
        suspicions: {name: sentence}, which stop nothing.
        accepted: reasons that spoke against it and were accepted.
        allowed: reasons that would not keep it out, by the last request that found it.
        linked: whether its files are links.
        channels: from `describe`, one a channel.
        content: hashes of its channels' voxels, with commas between.
        picture: name of its picture in the ingest folder.
    """

    source: str
    root: str
    stamp: str
    origin: str = ""
    status: str = "pending"
    case: str = ""
    subject: str = ""
    session: str = ""
    split: str = ""
    modality: list[str] = field(default_factory=list)
    told: bool = False
    looks_like: str = ""
    reason: str = ""
    sentence: str = ""
    notes: list[str] = field(default_factory=list)
    suspicions: dict[str, str] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    linked: bool = False
    channels: list[dict[str, Any]] = field(default_factory=list)
    content: str = ""
    picture: str = ""

    def accepts(self, reason: str) -> bool:
        """Whether somebody said that a reason does not keep it out, now or when it was taken."""
        return reason in self.allowed or reason in self.accepted


_KNOWN = frozenset(each.name for each in fields(Record))


def to_text(record: Record) -> str:
    """The record in JSON."""
    return json.dumps(vars(record), separators=(",", ":"))


def from_text(text: str) -> Record:
    """The record of `to_text`; fields of another version are left out.

    Raises:
        ValueError, TypeError, AttributeError: the text is none of ours.
    """
    return Record(**{name: value for name, value in json.loads(text).items() if name in _KNOWN})


def printable(text: str) -> str:
    """Text that can be written anywhere: names of files need not be UTF-8, nor free of line breaks.

    Example:
        >>> printable("a\\udcffb\\nc")
        'a\\\\udcffb\\\\nc'
    """
    whole = text.encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in whole)
