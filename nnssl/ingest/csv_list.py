"""A table: path, and if it likes subject, session, modality, split and case; one row a scan."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest.dicom import series_scans
from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.listed import RootOf, listed_file, root_of_paths
from nnssl.ingest.names import shown, stem
from nnssl.ingest.scan import Part, Scan, refused
from nnssl.ingest.splits import is_split_name, split_finding, split_of
from nnssl.planning.checks import Finding

_LONGEST_LINE = 1 << 20
_COLUMNS = {
    "path": ("path", "image", "image_path", "file", "filename", "filepath", "file_path"),
    "subject": ("subject", "subject_id", "patient", "patient_id", "participant_id"),
    "session": ("session", "session_id", "visit", "timepoint"),
    "modality": ("modality", "sequence"),
    "case": ("case", "case_id", "name"),
}


def csv_scans(file: Path, pseudonyms: Pseudonyms) -> Iterator[Scan]:
    """The rows of a table with commas, semicolons or tabs.

    Raises:
        DataError: it is no such table.
    """
    root_of = root_of_paths((values["path"] for _, values in _rows(file)), file.parent)
    for line, values in _rows(file):
        yield from _row(values, f"row {line}", file, root_of, pseudonyms)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line of the file, {what it is: value}) of each row; line 1 has the names of the columns."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = _delimiter(stream.readline(_LONGEST_LINE))
            stream.seek(0)
            rows = csv.DictReader(stream, delimiter=delimiter)
            columns = _columns(file, [name or "" for name in rows.fieldnames or []])
            for row in rows:
                values = {key: (row.get(name) or "").strip() for key, name in columns.items()}
                yield rows.line_num, {**values, "split": split_of(row).strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not a text table ({error}). Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a table of one row a scan ({error}). Correct it.") from error


def columns_unread(file: Path) -> list[str]:
    """Names of a table's columns that say nothing that is understood; of a table of which `csv_scans` made scans."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        delimiter = _delimiter(stream.readline(_LONGEST_LINE))
        stream.seek(0)
        names = csv.DictReader(stream, delimiter=delimiter).fieldnames or []
    read = {*_columns(file, list(names)).values()}
    return [name.strip() for name in names if name not in read and name.strip() and not is_split_name(name)]


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _columns(file: Path, names: list[str]) -> dict[str, str]:
    """{what it is: the column's name}."""
    lower = {name.strip().lower(): name for name in names}
    found = {key: lower[name] for key, known in _COLUMNS.items() for name in reversed(known) if name in lower}
    if "path" not in found:
        raise DataError(
            f"{file} needs a column called path, and may have subject, session, modality, split and case; found "
            f"{', '.join(map(repr, names)) or 'nothing'}."
        )
    return found


def _row(values: dict[str, str], row: str, file: Path, root_of: RootOf, pseudonyms: Pseudonyms) -> list[Scan]:
    split = values.get("split", "")
    found = listed_file(values["path"], file.parent, root_of, row=row, split=split, folders_too=True)
    if isinstance(found, Scan):
        return [found]
    root, held_out = root_of(found), split_finding(split)
    modality = values.get("modality", "")
    if found.is_dir():
        files = sorted(each for each in found.rglob("*") if each.is_file())
        series = list(series_scans(files, root, pseudonyms))
        if not series:
            sentence = f"{row} names it, a folder without DICOM files"
            return [refused(shown(found, root), "unreadable", sentence, where=str(found))]
        return [_named(replace(scan, above=str(root)), values, held_out, modality) for scan in series]
    name = values.get("case") or "_".join(filter(None, (values.get("subject"), values.get("session"), stem(found))))
    return [
        Scan(
            parts=(Part(files=(found,), modality=modality),),
            shown=shown(found, root),
            above=str(root),
            name=name,
            subject=values.get("subject") or name,
            session=values.get("session", ""),
            split=split,
            refused=held_out,
        )
    ]


def _named(scan: Scan, values: dict[str, str], held_out: Finding | None, modality: str) -> Scan:
    """A DICOM series with what its row says of it."""
    return replace(
        scan,
        name=values.get("case") or scan.name,
        subject=values.get("subject") or scan.subject,
        everywhere=scan.everywhere and not values.get("subject"),
        session=values.get("session") or scan.session,
        split=values.get("split", ""),
        refused=scan.refused or held_out,
        parts=tuple(replace(part, modality=modality or part.modality) for part in scan.parts),
    )
