"""What lies in a source: folders are walked, layouts recognised where they begin, everything else counted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from nnssl.errors import UsageError
from nnssl.ingest.bids import OUTSIDE, bids_scans, is_bids
from nnssl.ingest.csv_list import csv_scans
from nnssl.ingest.dicom import is_dicom, series_scans
from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.json_lists import list_kind, list_scans
from nnssl.ingest.names import ending, is_image_folder, is_label_folder
from nnssl.ingest.nnunet_task import is_task, task_scans
from nnssl.ingest.plain import images_of_task, volumes
from nnssl.ingest.png import Row, spacing_table, stack_scans
from nnssl.ingest.scan import Found

FORMATS = ("auto", "folders", "dicom", "png", "bids", "nnunet", "list")
_LIST = re.compile(r"(pretrain_data|datalist|data_list|dataset)\w*\.json", re.IGNORECASE)


def find(source: Path, *, form: str, pseudonyms: Pseudonyms) -> Found:
    """All scans of one source.

    Args:
        source: a folder, a table, a JSON list or one file.
        form: one of `FORMATS`; other than "auto", only that layout is looked for.
        pseudonyms: for DICOM.

    Raises:
        UsageError: nothing is there, or not what `form` says.
        DataError: a list that cannot be understood.
    """
    if not source.exists():
        raise UsageError(f"The source {source} is not there.")
    search = _Search(root=source, form=form, pseudonyms=pseudonyms)
    if source.is_file():
        search.one_file(source)
    else:
        search.folder(source)
    search.finish()
    return search.found


@dataclass
class _Search:
    root: Path
    form: str
    pseudonyms: Pseudonyms
    found: Found = field(default_factory=Found)
    loose: list[Path] = field(default_factory=list)
    dicom: list[Path] = field(default_factory=list)
    pngs: list[Path] = field(default_factory=list)
    tables: dict[str, Row] = field(default_factory=dict)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def wants(self, form: str) -> bool:
        """Whether this layout is looked for."""
        return self.form in ("auto", form)

    def one_file(self, file: Path) -> None:
        """A source that is a file: a list, or one volume."""
        self.root = file.parent
        if file.suffix.lower() in (".csv", ".tsv", ".txt"):
            self.found.add("CSV", csv_scans(file, self.pseudonyms))
        elif file.suffix.lower() == ".json":
            self.found.add("JSON list", list_scans(file))
        else:
            self._file(file)

    def folder(self, folder: Path) -> None:
        """Take in a folder: as the layout that begins here, or file by file."""
        if self._been_at(folder):
            return
        inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
        if self._as_layout(folder, inside):
            return
        images = any(each.is_dir() and is_image_folder(each.name) for each in inside)
        for each in inside:
            if not each.is_dir():
                self._file(each)
            elif images and is_label_folder(each.name):
                self.found.ignored["files of label folders"] += sum(file.is_file() for file in each.rglob("*"))
            elif is_image_folder(each.name) and self.wants("nnunet") and not self._been_at(each):
                self._images(each)
            else:
                self.folder(each)

    def finish(self) -> None:
        """Group what lay about loose."""
        if self.loose:
            self.found.add("volumes in folders", volumes(self.loose, self.root))
        if self.dicom:
            self.found.add("DICOM series", series_scans(self.dicom, self.root, self.pseudonyms))
        if self.pngs:
            scans, rest = stack_scans(self.pngs, self.tables, self.root)
            self.found.add("PNG stacks", scans)
            if rest:
                self.found.ignored["pictures that are no stack of slices"] += rest
        self.found.layouts = +self.found.layouts
        self.found.scans.sort(key=lambda scan: (scan.name, scan.shown))

    def _as_layout(self, folder: Path, inside: list[Path]) -> bool:
        if self.wants("nnunet") and is_task(folder) and (scans := task_scans(folder, self.root)) is not None:
            self.found.add("task folders", scans)
            return True
        if self.wants("bids") and is_bids(folder):
            self._bids(inside)
            return True
        for file in inside if self.wants("list") else []:
            if _LIST.fullmatch(file.name) and file.is_file() and list_kind(file):
                self.found.add("JSON list", list_scans(file))
                return True
        return False

    def _images(self, folder: Path) -> None:
        """A folder of images: what lies in it directly are cases, each of a subject of its own."""
        inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
        files = [each for each in inside if ending(each) and each.is_file()]
        if files:
            self.found.add("image folders", images_of_task(folder, files, self.root))
        for each in inside:
            if each.is_dir():
                self.folder(each)
            elif not ending(each):
                self._file(each)

    def _bids(self, inside: list[Path]) -> None:
        subjects = [each for each in inside if each.is_dir() and each.name.startswith("sub-")]
        files = [file for subject in subjects for file in _all(subject)]
        self.found.add("BIDS", bids_scans(files, self.root))
        others = sum(file.is_file() for subject in subjects for file in subject.rglob("*")) - len(files)
        if others:
            self.found.ignored["other files of BIDS subjects"] += others
        for each in inside:
            if each.is_dir() and each.name in OUTSIDE:
                self.found.ignored[f"files of BIDS {each.name}"] += sum(file.is_file() for file in each.rglob("*"))

    def _file(self, file: Path) -> None:
        kind = file.suffix.lower()
        if ending(file) and self.wants("folders"):
            self.loose.append(file)
        elif kind == ".png" and self.wants("png"):
            self.pngs.append(file)
        elif kind == ".csv" and self.wants("png") and (rows := spacing_table(file)):
            self.tables.update(rows)
        elif self.wants("dicom") and is_dicom(file):
            self.dicom.append(file)
        else:
            self.found.ignored[f"files {kind or 'without an ending'}"] += 1

    def _been_at(self, folder: Path) -> bool:
        """Links may lead in circles, or to one folder twice."""
        stat = folder.stat()
        known = (stat.st_dev, stat.st_ino) in self.seen
        self.seen.add((stat.st_dev, stat.st_ino))
        return known


def _all(folder: Path) -> list[Path]:
    """Every volume below a folder."""
    return [file for file in sorted(folder.rglob("*")) if ending(file) and not file.name.startswith(".")]
