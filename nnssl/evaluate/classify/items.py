"""What is to be classified: images with a label and a subject, from a CSV file or from a folder a class."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnssl.engine.typed import closest
from nnssl.errors import DataError, UsageError
from nnssl.evaluate.images import images_of_folder, is_image

TRAIN, TEST = "train", "test"
_COLUMNS = ("path", "label", "subject")
_EXAMPLE = "path,label,subject,split"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image.

    Attributes:
        files: one a channel.
        label: its class.
        subject: whose image; no subject is both trained and tested on.
        split: "test" for the fixed test subjects, else "train".
    """

    files: tuple[Path, ...]
    label: str
    subject: str
    split: str = TRAIN

    @property
    def name(self) -> str:
        """For messages and tables."""
        return str(self.files[0])


def read_csv(file: Path) -> list[Item]:
    """Rows path, label, subject and, where wanted, split. Paths are relative to the file; channels have ; between.

    Raises:
        DataError: the file, a column, a value or an image is missing, or a split is unknown.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            columns = [name.strip() for name in table.fieldnames or ()]
            rows = [{str(k).strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV ({error}). Its first line must be {_EXAMPLE}.") from error
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise DataError(f"{file} has no column {missing[0]!r}; its first line is {columns}. Write {_EXAMPLE} there.")
    items = []
    for number, row in enumerate(rows, start=2):
        empty = [name for name in _COLUMNS if not row.get(name)]
        if empty:
            raise DataError(f"Line {number} of {file} has no {empty[0]}. Fill it in or take the line out.")
        split = row.get("split") or TRAIN
        if split not in (TRAIN, TEST):
            raise DataError(f"The split in line {number} of {file} is {split!r}; it must be {TRAIN} or {TEST}.")
        files = tuple((file.parent / part.strip()).resolve() for part in row["path"].split(";"))
        absent = [one for one in files if not one.is_file()]
        if absent:
            raise DataError(f"The image in line {number} of {file} is not there: {absent[0]}.")
        items.append(Item(files=files, label=row["label"], subject=row["subject"], split=split))
    return items


def read_folders(folder: Path) -> list[Item]:
    """CLASS/IMAGE or CLASS/SUBJECT/IMAGE, images named as in nnU-Net; a subject each without SUBJECT.

    Where subjects to test on are fixed, these folders lie in folders called test and train.

    Raises:
        DataError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; one with a folder for each class is needed.")
    inside = _folders(folder)
    if {one.name for one in inside} == {TRAIN, TEST}:
        return [replace(item, split=split) for split in (TRAIN, TEST) for item in read_folders(folder / split)]
    if not inside:
        raise DataError(f"{folder} has no folders; it must have one for each class, with images or subjects' folders.")
    items = []
    for one in inside:
        subjects = _folders(one)
        here = images_of_folder(one) if any(map(is_image, one.iterdir())) or not subjects else {}
        items += [Item(files=tuple(files), label=one.name, subject=case) for case, files in here.items()]
        for subject in subjects:
            images = images_of_folder(subject).values()
            items += [Item(files=tuple(files), label=one.name, subject=subject.name) for files in images]
    return items


def settle(
    items: Iterable[Item], *, test: Sequence[str] = (), classes: Sequence[str] = ()
) -> tuple[list[Item], list[str]]:
    """Items with their final split, and the classes in order; everything about them is checked.

    Args:
        items: as read.
        test: subjects to test on, besides those whose split says so.
        classes: in order; empty: as the labels are, sorted. Of two, the second one is the positive class.

    Raises:
        UsageError: an unknown test subject or class.
        DataError: a subject in two splits, an unknown label, an image given twice, fewer than two classes, or a class
            with fewer than two subjects to train on.
    """
    found = list(items)
    subjects = {item.subject for item in found}
    for name in test:
        if name not in subjects:
            raise UsageError(f"--test {name}: there is no such subject.{closest(name, sorted(subjects))}")
    found = [replace(item, split=TEST) if item.subject in test else item for item in found]
    _check_once(found)
    both = {i.subject for i in found if i.split == TRAIN} & {i.subject for i in found if i.split == TEST}
    if both:
        raise DataError(f"Subject {min(both)} is in train and in test. Put all images of a subject into one of them.")
    seen = sorted({item.label for item in found if item.split == TRAIN})
    known = list(classes) or seen
    for item in found:
        if item.label not in known:
            where = "--classes" if classes else "the training labels"
            raise DataError(
                f"{item.name} has the label {item.label!r}, which is not among {where}: {', '.join(known)}."
                f"{closest(item.label, known)}"
            )
    if len(known) < 2:
        raise DataError(f"Two classes are needed; the labels are {', '.join(known) or 'none'}.")
    count = _subjects_of(found)
    for label in known:
        if count[label] < 2:
            raise DataError(
                f"Class {label} has {count[label]} subject(s) to train on; at least 2 are needed, so that one can be "
                f"learnt from while another one is judged. Add some, or leave the class out."
            )
    return found, known


def check_folds(items: Sequence[Item], folds: int) -> None:
    """Refuse more folds than a class has subjects to train on.

    Raises:
        UsageError: with the number that would do.
    """
    count = _subjects_of(items)
    fewest = min(sorted(count), key=lambda label: count[label])
    if not 2 <= folds <= count[fewest]:
        raise UsageError(
            f"--folds {folds}: every fold needs a subject of every class, and {fewest} has {count[fewest]}. Use "
            f"a number from 2 to {count[fewest]}."
        )


def _subjects_of(items: Sequence[Item]) -> Counter[str]:
    """{label: subjects to train on}."""
    return Counter(label for label, _ in {(item.label, item.subject) for item in items if item.split == TRAIN})


def _check_once(items: Sequence[Item]) -> None:
    count = Counter(file for item in items for file in item.files)
    twice = [str(file) for file, times in count.items() if times > 1]
    if twice:
        raise DataError(f"{min(twice)} was given twice. An image must have one line, with one label and one subject.")


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
