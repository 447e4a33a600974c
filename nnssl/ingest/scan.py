"""What a finder hands on: one scan that may become a case, with where its voxels are and who it is of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnssl.planning.checks import Finding

TABLE_ROWS, LIST_ENTRIES = "rows of a CSV", "entries of a JSON list"
LISTS = frozenset({TABLE_ROWS, LIST_ENTRIES})  # layouts in which somebody names each scan
Form = Literal["file", "dicom", "png"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where one channel is.

    Attributes:
        files: one file, or the slices of a stack.
        form: how they are read.
        modality: as the source says ("CT", "T1w"); empty where it does not.
        volume: of a file with several volumes, which one.
        spacing_mm: x y z, for slices that do not say.
        offset: added to the values of PNG slices.
    """

    files: tuple[Path, ...]
    form: Form = "file"
    modality: str = ""
    volume: int | None = None
    spacing_mm: tuple[float, float, float] | None = None
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan.

    Attributes:
        parts: one a channel; none if the finder refuses it.
        shown: how reports call it: a path below the source, without what could name a patient where that is known.
        name: what the case should be called; any text.
        subject: who; any text.
        session: when; any text.
        split: "train", "test", ..., as the source says.
        refused: why the finder refuses it.
        notes: what else is worth telling.
        odd: (name, sentence) of what looks wrong and stops nothing.
        secrets: texts that could name the patient, to be taken out of messages; never written.
        names: those of them that are the patient's names in DICOM, to be taken out of the paths of all scans.
        allowed: names of reasons that do not keep it out.
        by: what told the subject, in words ("names of folders in ward_A").
        layout: how the source holds it ("volumes in folders").
        collection: folder below the source in which the subject's name means one person; empty: all of the source.
        everywhere: whether it does so in all sources, as DICOM's number of the patient.
        above: folder below which its paths are shown, where that is not its source.
        claims: files that a list holds out although it gives no scan of them.
        where: what tells it from others where it has no parts: a path, a row; only its hash is kept.
    """

    parts: tuple[Part, ...]
    shown: str
    name: str
    subject: str
    session: str = ""
    split: str = ""
    refused: Finding | None = None
    notes: tuple[str, ...] = ()
    odd: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    by: str = ""
    layout: str = ""
    collection: str = ""
    everywhere: bool = False
    above: str = ""
    claims: tuple[str, ...] = ()
    where: str = ""

    @property
    def is_listed(self) -> bool:
        """Whether a list names it."""
        return self.layout in LISTS

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of all parts."""
        return tuple(file for part in self.parts for file in part.files)


@dataclass
class Found:
    """What one source holds, in numbers.

    Attributes:
        layouts: {layout: number of scans}.
        described: {file or kind of file: how many}, taken for what they say of the scans.
        ignored: {what kind of file or folder: how many}, looked at by nobody.
    """

    layouts: Counter[str] = field(default_factory=Counter)
    described: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, other: Found) -> None:
        """Take in what another source holds."""
        self.layouts += other.layouts
        self.described += other.described
        self.ignored += other.ignored


def refused(shown: str, reason: str, sentence: str, **who: Any) -> Scan:
    """A scan of which a finder can already say that it is not usable; `who` may be any other field."""
    who = {"name": shown, "subject": shown, **who}
    return Scan(parts=(), shown=shown, refused=Finding(reason, sentence), **who)
