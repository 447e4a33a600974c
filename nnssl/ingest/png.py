"""Stacks of PNG slices with a table of voxel sizes: DeepLesion's form, or a table of folders and spacings."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.ingest.names import shown
from nnssl.ingest.scan import Part, Scan, refused
from nnssl.ingest.spool import Spool

_NUMBER = re.compile(r"(.*?)(\d+)$")
_STACK = 3  # fewer numbered pictures in a folder are pictures, no stack
_DEEPLESION_OFFSET = -32768.0  # Yan et al. 2018, DeepLesion's README: HU = PNG value - 32768
_SPACING = ("spacing_mm", "spacing", "spacing_mm_px_")


_Item = tuple[Path, str, int]  # file, what stands before its number, number


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a table says of one stack."""

    spacing_mm: tuple[float, float, float]
    subject: str = ""
    session: str = ""
    modality: str = ""
    offset: float = 0.0


def spacing_table(file: Path) -> dict[str, Row]:
    """{folder: what is said of its stack}; empty for any other table."""
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    found: dict[str, Row] = {}
    for row in rows:
        values = {(key or "").strip().lower(): (value or "").strip() for key, value in row.items() if key}
        spacing = _spacing(values)
        if spacing is None:
            continue
        if "file_name" in values and "spacing_mm_px_" in values:
            subject, session = (values.get(key, "") for key in ("patient_index", "study_index"))
            found[values["file_name"].rpartition("_")[0]] = Row(
                spacing_mm=spacing, subject=subject, session=session, modality="CT", offset=_DEEPLESION_OFFSET
            )
        elif folder := values.get("folder", values.get("path", "")):
            found[folder.rstrip("/")] = Row(
                spacing_mm=spacing,
                **{key: values.get(key, "") for key in ("subject", "session", "modality")},
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
        rows = spacing_table(file)
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

    def _stacks(self, folder: Path, prefix: str, slices: Mapping[int, Path]) -> Iterator[Scan]:
        tables = self._tables
        row = tables.get(shown(folder, self.root)) or tables.get(folder.name) or tables.get(prefix.rstrip("_"))
        runs = _runs(slices)
        for run in runs:
            name = f"{folder.name}{'_' + prefix if prefix.strip('_') else ''}"
            if len(runs) > 1:
                name += f"_{run[0]}-{run[-1]}"
            files = [slices[number] for number in run]
            yield _scan(files, row, name, shown(folder, self.root), len(runs), shown(folder.parent, self.root))


def _item(plain: Any) -> _Item:
    file, prefix, number = plain
    return Path(file), prefix, number


def _scan(files: list[Path], row: Row | None, name: str, place: str, runs: int, collection: str) -> Scan:
    place = f"{place} ({files[0].name} to {files[-1].name})"
    if row is None:
        sentence = "no table beside it gives its voxel size (a CSV with the columns folder and spacing_mm: x, y, z)"
        return refused(place, "no_spacing", sentence, name=name)
    part = Part(files=tuple(files), form="png", modality=row.modality, spacing_mm=row.spacing_mm, offset=row.offset)
    said = ["its orientation is assumed: axial, face up, from head to feet"]
    if runs > 1:
        said.append(f"one of {runs} runs of slices without a gap in their numbers")
    return Scan(
        parts=(part,),
        shown=place,
        name=name,
        subject=row.subject or name,
        session=row.session,
        collection="" if row.subject else collection,
        notes=tuple(said),
    )


def _runs(slices: Mapping[int, Path]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in sorted(slices):
        if not runs or number != runs[-1][-1] + 1:
            runs.append([])
        runs[-1].append(number)
    return runs


def _spacing(values: Mapping[str, str]) -> tuple[float, float, float] | None:
    text = next((values[key] for key in _SPACING if values.get(key)), "")
    words = (
        re.split(r"[,;x\s]+", text.strip("[]() ")) if text else [values.get(f"spacing_{axis}", "") for axis in "xyz"]
    )
    sides = [number for word in words if (number := _number(word)) is not None and 0 < number < 1000]
    return (sides[0], sides[1], sides[2]) if len(sides) == len(words) == 3 else None


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
