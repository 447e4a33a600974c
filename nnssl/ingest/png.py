"""Stacks of PNG slices with a table of voxel sizes: DeepLesion's form, or a table of folders and spacings."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.ingest.names import shown
from nnssl.ingest.scan import Part, Scan, refused
from nnssl.ingest.spool import Spool

_NUMBER = re.compile(r"(.*?)(\d+)$")
_GAPS = 5  # that a message names
_STACK = 3  # fewer numbered pictures in a folder are pictures, no stack
_DEEPLESION_OFFSET = -32768.0  # Yan et al. 2018, DeepLesion's README: HU = PNG value - 32768
_SPACING = ("spacing_mm", "spacing", "spacing_mm_px_")


_Item = tuple[Path, str, int]  # file, what stands before its number, number


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a table says of one stack.

    Attributes:
        spacing_mm: x y z; None where `said` is none.
        said: the table's own words.
        table: where the table lies.
        own: whether it is the table of these folders alone, and not one that is published with thousands.
    """

    spacing_mm: tuple[float, float, float] | None
    said: str = ""
    table: str = ""
    own: bool = True
    subject: str = ""
    session: str = ""
    modality: str = ""
    offset: float = 0.0


def spacing_table(file: Path, name: str) -> dict[str, Row]:
    """{folder: what is said of its stack}; empty for any other table.

    Args:
        file: the table.
        name: how reports call it.
    """
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    found: dict[str, Row] = {}
    for row in rows:
        values = {(key or "").strip().lower(): (value or "").strip() for key, value in row.items() if key}
        spacing, said = _spacing(values)
        if not said:
            continue
        if "file_name" in values and "spacing_mm_px_" in values:
            subject, session = (values.get(key, "") for key in ("patient_index", "study_index"))
            found[values["file_name"].rpartition("_")[0]] = Row(
                spacing_mm=spacing,
                said=said,
                table=name,
                own=False,
                subject=subject,
                session=session,
                modality="CT",
                offset=_DEEPLESION_OFFSET,
            )
        elif folder := values.get("folder", values.get("path", "")):
            found[folder.rstrip("/")] = Row(
                spacing_mm=spacing,
                said=said,
                table=name,
                subject=values.get("subject", ""),
                session=values.get("session", ""),
                modality=values.get("modality", ""),
                offset=_number(values.get("offset", "")) or 0.0,
            )
    return found


class StackFinder:
    """Makes scans of PNG files; the number at the end of a name is the place of a slice, a gap begins another volume.

    Args:
        root: the source.

    Attributes:
        rest: how many files are in no stack; known after `scans`.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.rest = root, 0
        self._tables: dict[str, Row] = {}
        self._used: set[str] = set()
        self._files: Spool[_Item] = Spool(lambda item: [str(item[0]), *item[1:]], _item)

    def add(self, file: Path) -> None:
        """A PNG anywhere below the root."""
        match = _NUMBER.fullmatch(file.stem)
        if match:
            self._files.add(f"{file.parent}\0{match[1]}", (file, match[1], int(match[2])))
        else:
            self.rest += 1

    def add_table(self, file: Path) -> bool:
        """A CSV anywhere below the root; whether it is a table of spacings."""
        rows = spacing_table(file, shown(file, self.root))
        self._tables.update(rows)
        return bool(rows)

    def scans(self) -> Iterator[Scan]:
        """The stacks."""
        for group in self._files.groups():
            if len(group) < _STACK:
                self.rest += len(group)
                continue
            (first, prefix, _), slices = group[0], {number: file for file, _, number in group}
            self.rest += len(group) - len(slices)  # 1.png beside 01.png
            yield from self._stacks(first.parent, prefix, slices)
        for folder, row in self._tables.items():
            if row.own and folder not in self._used:
                sentence = f"{row.table} names it, but no stack of PNG slices lies there"
                yield refused(folder, "missing_file", sentence, where=f"{self.root / row.table} {folder}")

    def _stacks(self, folder: Path, prefix: str, slices: Mapping[int, Path]) -> Iterator[Scan]:
        names = (shown(folder, self.root), folder.name, prefix.rstrip("_"))
        named = next((name for name in names if name in self._tables), None)
        self._used |= {named} if named is not None else set()
        row = self._tables[named] if named is not None else None
        runs = _runs(slices)
        for run in runs:
            files = [slices[number] for number in run]
            stack = f"{folder.name}{'_' + prefix if prefix.strip('_') else ''}"
            yield _scan(files, row, stack, (run[0], run[-1]), runs, folder, self.root)


def _item(plain: Any) -> _Item:
    file, prefix, number = plain
    return Path(file), prefix, number


def _scan(
    files: list[Path],
    row: Row | None,
    stack: str,
    ends: tuple[int, int],
    runs: Sequence[Sequence[int]],
    folder: Path,
    root: Path,
) -> Scan:
    """One run of slices; the runs of a stack are of one subject, whatever lies between them."""
    place = f"{shown(folder, root)} ({files[0].name} to {files[-1].name})"
    name = f"{stack}_{ends[0]}-{ends[1]}" if len(runs) > 1 else stack
    subject, collection = (row and row.subject) or stack, shown(folder.parent, root)
    if row is None or row.spacing_mm is None:
        sentence = "no table beside it gives its voxel size (a CSV with the columns folder and spacing_mm: x, y, z)"
        if row is not None:
            sentence = f"{row.table} gives {row.said!r} as its voxel size; three numbers above 0 are needed: x, y, z"
        return refused(place, "no_spacing", sentence, name=name, where=f"{files[0]}")
    part = Part(files=tuple(files), form="png", modality=row.modality, spacing_mm=row.spacing_mm, offset=row.offset)
    said = ["its orientation is assumed: axial, face up, from head to feet"]
    if len(runs) > 1:
        said.append(f"one of {len(runs)} runs of slices without a gap in their numbers")
    return Scan(
        parts=(part,),
        shown=place,
        name=name,
        subject=subject,
        session=row.session,
        collection="" if row.subject else collection,
        notes=tuple(said),
        odd=(("gap", _gaps(runs)),) if len(runs) > 1 else (),
    )


def _gaps(runs: Sequence[Sequence[int]]) -> str:
    """What is missing between the runs of a stack."""
    ends = [(one[-1] + 1, other[0] - 1) for one, other in itertools.pairwise(runs)]
    missing = [f"{first} to {last}" if first < last else str(first) for first, last in ends]
    more = f" and {len(missing) - _GAPS} more" if len(missing) > _GAPS else ""
    named = ", ".join(missing[:_GAPS])
    return f"slices numbered {named}{more} are not there; each run without a gap is a case of one subject"


def _runs(slices: Mapping[int, Path]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in sorted(slices):
        if not runs or number != runs[-1][-1] + 1:
            runs.append([])
        runs[-1].append(number)
    return runs


def _spacing(values: Mapping[str, str]) -> tuple[tuple[float, float, float] | None, str]:
    """(x y z in mm, or None; the words that say it, empty where the table has no such column)."""
    text = next((values[key] for key in _SPACING if values.get(key)), "")
    words = (
        re.split(r"[,;x\s]+", text.strip("[]() ")) if text else [values.get(f"spacing_{axis}", "") for axis in "xyz"]
    )
    sides = [number for word in words if (number := _number(word)) is not None and 0 < number < 1000]
    sound = len(sides) == len(words) == 3
    return (sides[0], sides[1], sides[2]) if sound else None, text or " ".join(filter(None, words))


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
