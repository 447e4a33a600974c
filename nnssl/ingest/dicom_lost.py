"""Slices that a DICOM series may have lost: files beside it that are cut off, damaged or closed to us.

A series without its end slices looks whole: places stay even. So a fragment speaks against every series in its folder,
but for those that its own header, as far as it goes, tells it from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnssl.ingest.identity import without
from nnssl.ingest.names import shown
from nnssl.ingest.scan import Scan, refused
from nnssl.planning.checks import Finding

INCOMPLETE = "incomplete_series"  # the reason's name
ENDINGS = (".dcm", ".ima", ".dicom")
HEAD = 132  # bytes before the first tag of a DICOM file
# tags by which a fragment shows that it is of another series; the last one read may itself be cut
_TELLING = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_NAMED = 3  # files of a message


@dataclass(frozen=True, eq=False)
class Fragment:
    """A file that was a slice, or may have been.

    Attributes:
        file: where it is.
        reason: "truncated", "unreadable" or "damaged".
        what: the same in words.
        texts: {tag: text} of what its header says before it ends.
        sure: whether it is DICOM, by its content or its ending; else only its name can say so.
    """

    file: Path
    reason: str
    what: str
    texts: Mapping[str, str] = field(default_factory=dict)
    sure: bool = True


def stray(file: Path) -> Fragment | None:
    """A file of which nothing says what it is, but that it may be what is left of a slice."""
    sure = file.name.lower().endswith(ENDINGS)
    try:
        with file.open("rb") as stream:
            start = stream.read(HEAD)
    except OSError as error:
        return Fragment(file, "unreadable", f"cannot be opened ({error.strerror})", sure=sure)
    if not start:
        return Fragment(file, "truncated", "is empty", sure=sure)
    if len(start) < HEAD:
        return Fragment(file, "truncated", f"ends after {len(start)} bytes", sure=sure)
    return None


class Lost:
    """Fragments by folder, and what they mean for the series that lie there.

    Attributes:
        rest: strays that are called like no slice beside them; known after `scans`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_folder: dict[Path, list[Fragment]] = {}
        self._by_series: dict[str, list[Fragment]] = {}
        self._told: set[Path] = set()
        self._secrets: dict[Path, tuple[str, ...]] = {}
        self.rest: list[Path] = []

    def add(self, fragment: Fragment) -> None:
        """Put one aside."""
        self._by_folder.setdefault(fragment.file.parent, []).append(fragment)
        if series := fragment.texts.get("SeriesInstanceUID"):
            self._by_series.setdefault(series, []).append(fragment)

    def judged(self, scan: Scan, slices: Sequence[Mapping[str, str]]) -> Scan:
        """A volume of a series; refused where a fragment beside it may be one of its slices.

        Args:
            scan: with its files.
            slices: {tag: text} of each slice of the series.
        """
        lost = self._of(scan, slices) if self._by_folder else []
        if not lost:
            return scan
        self._told.update(each.file for each in lost)
        self._secrets.update((each.file, scan.secrets) for each in lost)
        named = "; ".join(f"{without(each.file.name, scan.secrets)} {each.what}" for each in lost[:_NAMED])
        more = f"; and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        sentence = f"it may lack slices: beside it {named}{more}. Copy it again, or accept the slices that are there"
        if scan.refused is not None:
            return scan
        return Scan(**{**vars(scan), "refused": Finding(INCOMPLETE, sentence)})

    def scans(self) -> Iterator[Scan]:
        """The fragments themselves, refused; known after all series were judged."""
        for folder, fragments in self._by_folder.items():
            closed = [each for each in fragments if each.reason == "unreadable" and each.sure]
            if len(closed) > _NAMED:  # a whole folder, as a rule
                sentence = f"{len(closed)} of its DICOM files cannot be opened"
                yield refused(shown(folder, self._root), "unreadable", sentence, where=str(folder))
                fragments = [each for each in fragments if each not in closed]
            for each in fragments:
                if each.file in self._told or (each.sure and each.what != "is empty"):
                    place = without(shown(each.file, self._root), self._secrets.get(each.file, ()))
                    yield refused(place, each.reason, f"it {each.what}. Copy it again", where=str(each.file))
                else:
                    self.rest.append(each.file)

    def _of(self, scan: Scan, slices: Sequence[Mapping[str, str]]) -> list[Fragment]:
        """Fragments that may be slices of a series and are no copies of those that are there."""
        whole = {each.get("SOPInstanceUID", "") for each in slices} - {""}
        near = [*self._beside(scan.files), *self._by_series.get(slices[0].get("SeriesInstanceUID", ""), ())]
        return [
            each
            for each in dict.fromkeys(near)
            if _may_be_of(each, slices[0]) and each.texts.get("SOPInstanceUID") not in whole
        ]

    def _beside(self, files: Iterable[Path]) -> Iterator[Fragment]:
        """Fragments in the folders of these files; one that is not surely DICOM must be called like one of them."""
        called: dict[Path, set[str]] = {}
        for file in files:
            called.setdefault(file.parent, set()).add(_form(file))
        for folder, forms in called.items():
            for each in self._by_folder.get(folder, ()):
                if each.sure or _form(each.file) in forms:
                    yield each


def _form(file: Path) -> str:
    """A name without its numbers: "I0033" is called like "I0032"."""
    return re.sub(r"\d+", "#", file.name.casefold())


def _may_be_of(fragment: Fragment, texts: Mapping[str, str]) -> bool:
    """Whether nothing that a fragment says tells it from a series; what it says last may be cut."""
    return all(texts.get(tag, "").startswith(fragment.texts.get(tag, "")) for tag in _TELLING)
