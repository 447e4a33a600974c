"""Which of the folders of a tree is a patient's: by how it is called, what lies in it, and what lies beside it.

From the source downwards, each folder is a patient's or a collection of such; below a patient's folder all is his or
hers. Only names are looked at, and of a folder's neighbours only the first few.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from nnssl.ingest.names import are_channels, ending, is_image_folder, is_label_folder, stem

_NEIGHBOURS = 8  # of a folder that are looked at
_LEVELS = 4  # of folders that are looked into
_ENTRIES = 2000  # of a folder that are looked at
_PATIENTS, _UNSURE = 2, 4  # subfolders that are called like no session: with neighbours that have others; without
_FEW = 8  # files of one patient in one folder, where nothing else tells
_MANY = 40  # more are never of one

# folders that say nothing of who it is
_NOBODY = re.compile(
    r"data|dataset|raw|images|image|img|scans|nifti|nii|volumes|patients|subjects|anat|train|training|val|"
    r"validation|test|testing|ct|mr|mri|pet|t1|t1w|t2|flair",
    re.IGNORECASE,
)
# what a patient's own folders and files are called after: times, devices, sequences, parts of the body
_WITHIN = re.compile(
    r"ses|session|sessions|visit|baseline|bl|followup|follow|fu|pre|post|preop|postop|day|week|month|year|exam|"
    r"study|series|scan|acq|run|planning|ct|cta|cect|ncct|cbct|mr|mri|mra|pet|pt|suv|us|t1|t1w|t1c|t1ce|t1gd|"
    r"t2|t2w|t2s|flair|dwi|adc|dti|swi|asl|bold|anat|func|perf|fmap|ce|native|arterial|venous|portal|thorax|"
    r"chest|lung|abdomen|pelvis|head|brain|neck|spine|knee|heart|cardiac|liver|ax|axial|cor|coronal|sag|"
    r"sagittal",
    re.IGNORECASE,
)
_TIMES = re.compile(r"(ses|session|visit|v|tp|timepoint|time|day|d|week|w|month|m|year|y|fu|exam|study)\d+")
_PARTS = re.compile(r"(series|se|s|scan|img|image|im|acq|run|rec|slice|vol|volume|stack|dcm|dicom)\d+")
_DATE = re.compile(r"(19|20)\d\d([-_. ]?(0[1-9]|1[0-2])([-_. ]?[0-3]\d)?)?(?!\d)|[0-3]?\d[-_.][01]?\d[-_.](19|20)\d\d")
_PERSON = re.compile(
    r"(patient|pat|pt|p|subject|subj|sub|sbj|case|proband|participant|person|id|anon)[\s_.-]*\d+\w*", re.IGNORECASE
)
_NUMBER = re.compile(r"\d{4,}|[a-z]([a-z]|[-_ ](?=[a-z]))*[-_ ]?\d{3,}([-_ ].*)?", re.IGNORECASE)


def is_time(name: str) -> bool:
    """Whether a folder is called like a time: a date, a session, a visit."""
    words = re.findall(r"[^\W_]+", name.casefold())
    dated = _DATE.fullmatch(name) is not None or _DATE.match(" ".join(words)) is not None
    return (dated and not _PERSON.fullmatch(name)) or _TIMES.fullmatch("".join(words)) is not None


def is_within(name: str) -> bool:
    """Whether a folder or file is called like a part of what there is of one patient."""
    words = re.findall(r"[^\W_]+", name.casefold())
    counted = _PARTS.fullmatch("".join(words)) or re.fullmatch(r"\d{1,3}", name)
    return is_time(name) or counted is not None or any(map(_WITHIN.fullmatch, words))


def is_person(name: str) -> bool:
    """Whether a folder or file is called like a patient: "patient 04", "sub-01", "LIDC-IDRI-0314"."""
    if _PERSON.fullmatch(name):
        return True
    return not is_within(name) and _NUMBER.fullmatch(name) is not None


def is_nobody(name: str) -> bool:
    """Whether a folder is called like no patient, and like nothing a patient is scanned by: "data", "CT"."""
    return _NOBODY.fullmatch(name) is not None


class _Names(NamedTuple):
    folders: list[str]
    files: list[str]


def patients_among(parent: Path, names: Sequence[str], root: Path) -> Callable[[str], bool]:
    """Tells of each folder in a collection whether it is a patient's; else it is a collection, too.

    Args:
        parent: the collection.
        names: of the folders in it, in order.
        root: the source.
    """

    @cache
    def usual() -> frozenset[str]:
        """Names of folders and files that several of the first folders have: those of times or sequences."""
        counts: Counter[str] = Counter()
        for name in names[:_NEIGHBOURS]:
            inside = _names(parent / name, root)
            counts.update({*inside.folders, *map(_stem, inside.files)})
        return frozenset(name for name, count in counts.items() if count > 1)

    def is_patient(name: str) -> bool:
        if is_nobody(name):
            return False
        if is_person(name):
            return True
        inside = _names(parent / name, root)
        if inside.folders:
            return not _holds_patients(parent / name, inside.folders, root, usual() if len(names) > 1 else None)
        return not _holds_strangers(inside.files, usual())

    return is_patient


def _holds_patients(folder: Path, inside: Sequence[str], root: Path, usual: frozenset[str] | None) -> bool:
    """Whether the folders in one are those of patients; `usual` is None where it has no neighbours."""
    if _leads_to_patients(folder, inside, root, _LEVELS):
        return True
    strangers = [name for name in _others(inside) if usual is None or name not in usual]
    return len(strangers) >= (_UNSURE if usual is None else _PATIENTS)


def _leads_to_patients(folder: Path, inside: Sequence[str], root: Path, levels: int) -> bool:
    """Whether folders below are called like patients, or hold folders that are called like times."""
    if any(map(is_person, inside)):
        return True
    for name in _others(inside)[:_NEIGHBOURS] if levels else ():
        below = _names(folder / name, root).folders
        if any(map(is_time, below)) or _leads_to_patients(folder / name, below, root, levels - 1):
            return True
    return False


def _others(names: Sequence[str]) -> list[str]:
    """Those that are not called like a part of what there is of one patient."""
    return [name for name in names if not is_within(name) and not is_nobody(name)]


def _holds_strangers(files: Sequence[str], usual: frozenset[str]) -> bool:
    """Whether files that lie flat in one folder are of a patient each."""
    names = [_stem(name) for name in files]
    if len(names) < _PATIENTS or are_channels(files):
        return False
    if len(names) > _MANY:
        return True
    related = sum(is_within(name) or name in usual for name in names)
    if 2 * related > len(names):
        return False
    return len(names) > _FEW or all(map(is_person, names))


def _names(folder: Path, root: Path) -> _Names:
    """Folders and volumes in a folder, as far as they are looked at; what cannot be opened is empty here.

    Links to folders that are not followed, and those that lead nowhere, say nothing of who is whom.
    """
    found = _Names([], [])
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, _ENTRIES):
            if entry.name.startswith(".") or is_label_folder(entry.name) or is_image_folder(entry.name):
                continue
            with suppress(OSError):
                if entry.is_dir():
                    if not (entry.is_symlink() and not_followed(folder, entry.name, root)):
                        found.folders.append(entry.name)
                elif ending(Path(entry.name)) and entry.is_file():
                    found.files.append(entry.name)
    found.folders.sort()
    found.files.sort()
    return found


def _stem(name: str) -> str:
    return stem(Path(name))


def not_followed(folder: Path, name: str, root: Path) -> str:
    """Why a link to a folder is not followed: it leads upwards, or to what is walked anyway; empty if it is.

    Args:
        folder: that holds the link.
        name: of the link.
        root: the source.
    """
    target, source = (folder / name).resolve(), root.resolve()
    if any(each.is_relative_to(target) for each in (folder.resolve(), source)):
        return "links to folders above them, which are not followed"
    if target.is_relative_to(source) and not any(part.startswith(".") for part in target.relative_to(source).parts):
        return "links to folders of the same source, which are looked at there"
    return ""
