"""DICOM files found in folders, grouped into volumes: by series, then by geometry, then by what repeats in place."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.ingest.dicom_lost import ENDINGS, Fragment, Lost, stray
from nnssl.ingest.identity import Pseudonyms, without
from nnssl.ingest.names import shown
from nnssl.ingest.scan import Part, Scan
from nnssl.ingest.spool import Spool
from nnssl.planning.checks import Finding

_SECRET = (
    "PatientID", "PatientName", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientBirthDate",
    "PatientAddress", "PatientTelephoneNumbers", "PatientMotherBirthName", "AccessionNumber",
)  # fmt: skip
_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "Rows",
    "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "NumberOfFrames",
    "TemporalPositionIdentifier",
    "AcquisitionNumber", "EchoNumbers", "AcquisitionTime", "DiffusionBValue", "SamplesPerPixel",
    *_SECRET,
]  # fmt: skip
_LISTS = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
_NO_IMAGE = frozenset(
    [
        "SR",
        "SEG",
        "RTSTRUCT",
        "RTDOSE",
        "RTPLAN",
        "RTRECORD",
        "PR",
        "KO",
        "REG",
        "DOC",
        "FID",
        "AU",
        "ECG",
        "HD",
        "PLAN",
        "SMR",
        "RWV",
        "M3D",
    ]
)
_SHORT = 2048  # bytes; junk that is called like DICOM is longer, or has no end in its first element
_ALIKE = 5e-3  # direction cosines and mm; headers round to 4 digits and more
_APART_MM = 0.01  # slices closer than this lie in one place
# what may tell volumes of one series apart, in this order
_REPEATS = ("TemporalPositionIdentifier", "AcquisitionNumber", "EchoNumbers", "DiffusionBValue", "AcquisitionTime")


@dataclass(frozen=True)
class Slice:
    """The header of one file, as far as grouping needs it.

    Attributes:
        file: where it is.
        texts: {tag: its value as text}, of those that have one.
        lists: {tag: numbers}, of `_LISTS` where they have as many as they should.
    """

    file: Path
    texts: dict[str, str]
    lists: dict[str, tuple[float, ...]]

    def text(self, name: str) -> str:
        """A tag as text; empty where there is none."""
        return self.texts.get(name, "")

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """A tag of several numbers; None where there are others."""
        return self.lists.get(name)

    @property
    def place_mm(self) -> float:
        """Where the slice lies along its normal."""
        x, y = self._axes()
        normal = (x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
        position = self.numbers("ImagePositionPatient") or (0.0, 0.0, 0.0)
        return sum(a * b for a, b in zip(normal, position, strict=True))

    def _axes(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        axes = self.numbers("ImageOrientationPatient") or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        return axes[:3], axes[3:]


def _slice(file: Path, header: Any) -> Slice:
    texts, lists = {}, {}
    for name in _TAGS:
        value = header.get(name)
        if value is not None and (text := str(value)):
            texts[name] = text
        if name in _LISTS and (numbers := _numbers(value)) and len(numbers) == _LISTS[name]:
            lists[name] = numbers
    return Slice(file, texts, lists)


def _slice_to_plain(own: Slice) -> list[Any]:
    return [str(own.file), own.texts, own.lists]


def _slice_from_plain(plain: Any) -> Slice:
    file, texts, lists = plain
    return Slice(Path(file), texts, {name: tuple(numbers) for name, numbers in lists.items()})


def _numbers(value: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(each) for each in value) if value is not None else ()
    except (TypeError, ValueError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM: by its magic bytes, or by its ending."""
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or (len(start) > 8 and file.name.lower().endswith(ENDINGS))


class SeriesFinder:
    """Makes one scan of every volume in DICOM files; those that are none are refused with their reason.

    Names of patients and their numbers become pseudonyms, also in what is shown of paths. Headers are put aside on
    disk: only one series at a time is in memory.

    Args:
        root: the source.
        pseudonyms: keyed, so that later runs give the same ones.
    """

    def __init__(self, root: Path, pseudonyms: Pseudonyms) -> None:
        self.root, self._pseudonyms = root, pseudonyms
        self._slices = Spool(_slice_to_plain, _slice_from_plain)
        self._lost = Lost(root)

    def add(self, file: Path) -> None:
        """A DICOM file of any patient, study and series."""
        found = _header(file)
        if isinstance(found, Slice):
            self._slices.add(repr(_series(found)), found)
        elif found is not None:
            self._lost.add(found)

    def add_stray(self, file: Path) -> bool:
        """A file that is none by its content; whether it is put aside, as it may be what is left of a slice."""
        fragment = stray(file)
        if fragment is not None:
            self._lost.add(fragment)
        return fragment is not None

    @property
    def rest(self) -> list[Path]:
        """Strays that are no slices; known after `scans`."""
        return self._lost.rest

    def scans(self) -> Iterator[Scan]:
        """The volumes of all files, and what cannot be read at all, as refused."""
        for series in self._slices.groups():
            alike: list[list[Slice]] = []
            for each in series:
                own = next((group for group in alike if _alike(group[0], each)), None)
                if own is None:
                    alike.append([each])
                else:
                    own.append(each)
            for group in alike:
                for scan in _volumes(group, self.root, self._pseudonyms):
                    yield self._lost.judged(scan, [each.texts for each in group])
        yield from self._lost.scans()


def series_scans(files: Iterable[Path], root: Path, pseudonyms: Pseudonyms) -> Iterator[Scan]:
    """The same for files that are known beforehand; those that are no DICOM are left out."""
    finder = SeriesFinder(root, pseudonyms)
    for file in files:
        if is_dicom(file):
            finder.add(file)
        else:
            finder.add_stray(file)
    yield from finder.scans()


def _header(file: Path) -> Slice | Fragment | None:
    """What a file says of itself; None for a directory of DICOM files, which is no image and no fault."""
    import pydicom

    if file.name.upper() == "DICOMDIR":
        return None
    try:
        with warnings.catch_warnings(), file.open("rb") as stream:
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
            found, place = _slice(file, header), stream.tell()
            ended = place >= stream.seek(0, os.SEEK_END) and not _is_deflated(header)
    except OSError as error:
        return Fragment(file, "unreadable", f"cannot be opened ({error.strerror})")
    except Exception as error:  # a damaged header raises whatever its values meet in the library
        return Fragment(file, "damaged", f"has a DICOM header that cannot be read ({type(error).__name__})")
    if ended and _should_have_pixels(found, place):
        return Fragment(file, "truncated", f"ends after {place} bytes, before its pixels", found.texts)
    if not found.text("SOPClassUID"):
        return Fragment(file, "damaged", "has no DICOM header that says what it is", found.texts)
    return found


def _is_deflated(header: Any) -> bool:
    """Whether a file was unpacked as a whole, so that its stream is at its end whatever it holds."""
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    return bool(syntax is not None and syntax.is_deflated)


def _should_have_pixels(found: Slice, place: int) -> bool:
    """Whether a file that ends in its header is an image, or ends so early that it does not even say what it is."""
    from pydicom.uid import UID

    kind = found.text("SOPClassUID")
    return UID(kind).name.endswith("Image Storage") if kind else place < _SHORT


def _alike(one: Slice, other: Slice) -> bool:
    """Whether two slices have the same directions and pixel sizes, but for rounding."""
    for tag in ("ImageOrientationPatient", "PixelSpacing"):
        a, b = one.numbers(tag), other.numbers(tag)
        if (a is None) != (b is None) or any(abs(x - y) > _ALIKE for x, y in zip(a or (), b or (), strict=True)):
            return False
    return True


def _series(found: Slice) -> tuple[Any, ...]:
    return (
        found.text("PatientID"),
        found.text("StudyInstanceUID"),
        found.text("SeriesInstanceUID"),
        found.text("Rows"),
        found.text("Columns"),
        found.text("NumberOfFrames") not in ("", "0", "1") and found.text("SOPInstanceUID"),
        "LOCALIZER" in found.text("ImageType").upper(),
    )


def _volumes(slices: list[Slice], root: Path, pseudonyms: Pseudonyms) -> list[Scan]:
    name = _namer(slices[0], root, pseudonyms)
    finding = _no_volume(slices[0])
    if finding is not None:
        return [name(slices, finding)]
    slices = sorted(slices, key=lambda each: (each.place_mm, each.text("SOPInstanceUID"), each.file.name))
    once = _without_copies(slices)
    copies = len(slices) - len(once)
    notes = (f"{copies} slices were there twice, as the same DICOM object; one of each was taken",) if copies else ()
    if not _repeated(once):
        return [name(once, None, notes)]
    for tag in _REPEATS:
        groups: dict[str, list[Slice]] = {}
        for each in once:
            groups.setdefault(each.text(tag), []).append(each)
        if len(groups) > 1 and all(len(group) > 1 and not _repeated(group) for group in groups.values()):
            said = (*notes, f"one of {len(groups)} volumes of its series, told apart by {tag}")
            return [name(group, None, said) for _, group in sorted(groups.items())]
    sentence = f"{_repeated(once)} of its {len(once)} slices lie where another one lies, and no tag tells them apart"
    return [name(once, Finding("duplicate_slices", sentence), notes)]


def _without_copies(ordered: Sequence[Slice]) -> list[Slice]:
    """One of each DICOM object. A number alone proves nothing: some anonymisers give all slices the same."""
    kept: list[Slice] = []
    first: dict[tuple[str, float], Slice] = {}
    for each in ordered:
        own = each.text("SOPInstanceUID") or str(each.file), round(each.place_mm, 2)
        other = first.setdefault(own, each)
        if other is each or not _same_pixels(other.file, each.file):
            kept.append(each)
    return kept


def _same_pixels(one: Path, other: Path) -> bool:
    import pydicom

    try:
        first, second = (pydicom.dcmread(file, specific_tags=["PixelData"], force=True) for file in (one, other))
        return bool(first.get("PixelData") == second.get("PixelData"))
    except Exception:  # a damaged file raises whatever its values meet in the library; its reader will tell
        return False


def _repeated(ordered: Sequence[Slice]) -> int:
    return sum(b.place_mm - a.place_mm < _APART_MM for a, b in itertools.pairwise(ordered))


def _no_volume(first: Slice) -> Finding | None:
    modality = first.text("Modality").upper()
    if modality in _NO_IMAGE or not first.text("Rows"):
        return Finding("not_an_image", f"a DICOM object of kind {modality[:16] or 'unknown'} holds no scan")
    if "LOCALIZER" in first.text("ImageType").upper() or "SCOUT" in first.text("ImageType").upper():
        return Finding("localizer", "its image type says so")
    if first.text("NumberOfFrames") not in ("", "0", "1"):
        return Finding("multi_frame", f"one file holds {first.text('NumberOfFrames')[:8]} frames")
    if first.text("SamplesPerPixel") not in ("", "1"):
        return Finding("colour", f"it has {first.text('SamplesPerPixel')[:8]} numbers a pixel")
    for tag in _LISTS:
        if first.numbers(tag) is None:
            return Finding("no_spacing", f"its slices do not say where they lie ({tag} is missing)")
    return None


def _namer(first: Slice, root: Path, pseudonyms: Pseudonyms) -> Callable[..., Scan]:
    """Makes scans of the series of this slice, named by pseudonyms."""
    subject = pseudonyms.of("patient", first.text("PatientID") or first.text("PatientName"), letter="P")
    session = pseudonyms.of("study", first.text("StudyInstanceUID"), letter="S", digits=6)
    modality = "".join(sign for sign in first.text("Modality").upper() if sign.isalnum())[:8]
    secrets = [first.text(tag) for tag in _SECRET]

    def make(slices: list[Slice], finding: Finding | None, notes: tuple[str, ...] = ()) -> Scan:
        """One volume of the series."""
        turned = [round(each, 2) for each in slices[0].numbers("ImageOrientationPatient") or ()]
        geometry = [str(each) for each in (*_series(slices[0]), turned)]
        repeats = [slices[0].text(tag) for tag in _REPEATS] if any("told apart" in note for note in notes) else []
        series = pseudonyms.of(*geometry, *repeats, letter="", digits=6)
        count = f" ({len(slices)} files)" if len(slices) > 1 else ""
        place = slices[0].file.parent if len(slices) > 1 else slices[0].file
        usable = finding is None or finding.reason not in ("not_an_image", "colour", "no_spacing")
        part = Part(files=tuple(each.file for each in slices), form="dicom", modality=modality)
        return Scan(
            parts=(part,) if usable else (),
            shown=without(shown(place, root), secrets) + count,
            name=f"{subject}_{session}_{modality or 'XX'}-{series}",
            subject=subject,
            everywhere=True,
            session=session,
            refused=finding,
            notes=notes,
            secrets=tuple(secrets),
            names=tuple(filter(None, map(first.text, _NAMES))),
        )

    return make
