"""What lies in a source: folders are walked, layouts recognised where they begin, everything else counted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnssl.errors import UsageError
from nnssl.ingest.bids import DESCRIPTION, OUTSIDE, bids_scans, is_bids
from nnssl.ingest.csv_list import columns_unread, csv_scans
from nnssl.ingest.dicom import SeriesFinder, is_dicom
from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.json_lists import list_scans, no_list
from nnssl.ingest.names import ending, is_image_folder, is_label_folder, shown
from nnssl.ingest.nnunet_task import is_task, task_scans
from nnssl.ingest.people import not_followed, patients_among
from nnssl.ingest.plain import images_of_task, volumes
from nnssl.ingest.png import StackFinder
from nnssl.ingest.record import printable
from nnssl.ingest.scan import LIST_ENTRIES, TABLE_ROWS, Found, Scan, refused

FORMATS = ("auto", "folders", "dicom", "png", "bids", "nnunet", "list")
_LIST = re.compile(r"(pretrain_data|datalist|data_list|dataset)\w*\.json", re.IGNORECASE)
_VOXELS = {".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",), ".gz": (".nhdr",)}  # and the headers that name them
_COLUMNS_TOLD = 20
_ENDING = re.compile(r"\.[a-z][a-z0-9]{0,7}")
_BY = {  # what tells whose a scan is, where the layout tells it
    "DICOM series": "patient numbers in DICOM",
    "volumes in BIDS trees": "sub- names in BIDS",
    "volumes in image folders": "names of cases in image folders",
    "cases of task folders": "names of cases in task folders",
    TABLE_ROWS: "rows in a CSV",
    LIST_ENTRIES: "entries in a JSON list",
    "PNG stacks": "tables in folders of PNG stacks",
}
Take = Callable[[Scan], None]


def find(source: Path, *, form: str, pseudonyms: Pseudonyms, take: Take) -> Found:
    """Hand on all scans of one source, as they are found; in no order.

    Args:
        source: a folder, a table, a JSON list or one file.
        form: one of `FORMATS`; other than "auto", only that layout is looked for.
        pseudonyms: for DICOM.
        take: called with every scan.

    Raises:
        UsageError: nothing is there, or not what `form` says.
        DataError: a list that cannot be understood.
    """
    if not source.exists():
        raise UsageError(f"The source {source} is not there.")
    search = _Search(root=source, form=form, pseudonyms=pseudonyms, take=take)
    if source.is_dir():
        search.folder(source)
    else:
        search.one_file(source)
    search.finish()
    return search.found


@dataclass
class _Inside:
    """Names in a folder, sorted; hidden ones left out."""

    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)  # links to folders
    hidden: int = 0
    special: int = 0  # links that lead nowhere, pipes, devices: opening one may wait for ever

    def add(self, entry: os.DirEntry[str]) -> None:
        """Take in one entry of the folder."""
        if entry.name.startswith("."):
            self.hidden += 1
            return
        with suppress(OSError):  # a link to itself
            if entry.is_dir():
                (self.linked if entry.is_symlink() else self.folders).append(entry.name)
                return
            if entry.is_file():
                self.files.append(entry.name)
                return
        self.special += 1


@dataclass
class _Search:
    root: Path
    form: str
    pseudonyms: Pseudonyms
    take: Take
    found: Found = field(default_factory=Found)
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.dicom = SeriesFinder(self.root, self.pseudonyms)
        self.stacks = StackFinder(self.root)

    def wants(self, form: str) -> bool:
        """Whether this layout is looked for."""
        return self.form in ("auto", form)

    def hand_on(self, layout: str, scans: Iterable[Scan], tree: Path | None = None) -> int:
        """Take in the scans of one layout; of those in a `tree` of their own: how many of their files lie in it."""
        collection = tree.relative_to(self.root).as_posix() if tree is not None else ""
        files = 0
        for scan in scans:
            files += sum(_is_below(file, tree) for file in scan.files) if tree is not None else 0
            by, where = scan.by or _BY.get(layout, layout), collection or scan.collection
            self.take(replace(scan, by=by, layout=layout, collection=where))
            self.found.layouts[layout] += 1
        return files

    def one_file(self, file: Path) -> None:
        """A source that is a file: a list, or one volume."""
        self.root = self.dicom.root = self.stacks.root = file.parent
        if not file.is_file():
            raise UsageError(f"The source {file} is neither a folder nor a file.")
        if file.suffix.lower() in (".csv", ".tsv", ".txt"):
            self.hand_on(TABLE_ROWS, csv_scans(file, self.pseudonyms))
            self.found.described["CSV list"] += 1
            for name in columns_unread(file)[:_COLUMNS_TOLD]:
                self.found.ignored[printable(f"columns {name[:40]!r} of CSV lists")] += 1
        elif file.suffix.lower() == ".json":
            scans = list_scans(file)
            if scans is None:
                raise no_list(file)
            self.hand_on(LIST_ENTRIES, scans)
            self.found.described["JSON list"] += 1
        elif not self._file(file.parent, file.name):
            self.hand_on("volumes in folders", volumes(file.parent, [file.name], self.root))

    def folder(self, folder: Path, who: int | None = None) -> None:
        """Take in a folder: as the layout that begins here, or file by file.

        Args:
            folder: below the source, or the source.
            who: how many folders below the source that of a patient lies, if one does.
        """
        inside = self._inside(folder)
        if inside is None or self._as_layout(folder, inside):
            return
        loose = [name for name in inside.files if not self._file(folder, name)]
        self.hand_on("volumes in folders", volumes(folder, loose, self.root, who=who))
        depth = len(folder.relative_to(self.root).parts) + 1
        is_patient = patients_among(folder, inside.folders, self.root)
        images = any(map(is_image_folder, inside.folders))
        for name in inside.folders:
            if images and is_label_folder(name):
                self.found.ignored["files of label folders"] += _count(folder / name)
            elif is_image_folder(name) and self.wants("nnunet"):
                self._images(folder / name)
            else:
                self.folder(folder / name, who or (depth if is_patient(name) else None))

    def finish(self) -> None:
        """Group what lay about in many folders."""
        self.hand_on("DICOM series", self.dicom.scans())
        for file in self.dicom.rest:
            self._ignore(file)
        self.hand_on("PNG stacks", self.stacks.scans())
        if self.stacks.rest:
            self.found.ignored["pictures that are no stack of slices"] += self.stacks.rest
        self.found.layouts = +self.found.layouts

    def _inside(self, folder: Path) -> _Inside | None:
        """What a folder holds; None for one that was seen, as links may lead to one, or may not be opened."""
        inside = _Inside()
        try:
            stat = folder.stat()
            if (here := hash((stat.st_dev, stat.st_ino))) in self.seen:
                self.found.ignored["links to folders that were looked at before"] += 1
                return None
            self.seen.add(here)
            with os.scandir(folder) as entries:
                for entry in entries:
                    inside.add(entry)
        except OSError as error:
            self._closed(error)
            return None
        for name in inside.linked:
            if why := not_followed(folder, name, self.root):
                self.found.ignored[why] += 1
            else:
                inside.folders.append(name)
        if inside.special:
            self.found.ignored["links that lead nowhere, pipes and devices"] += inside.special
        if inside.hidden:
            self.found.ignored["hidden files and folders"] += inside.hidden
        inside.folders.sort()
        inside.files.sort()
        return inside

    def _as_layout(self, folder: Path, inside: _Inside) -> bool:
        if self.wants("nnunet") and is_task(folder) and (scans := task_scans(folder, self.root)) is not None:
            self._all_of(folder, "dataset.json", "cases of task folders", scans)
            return True
        if self.wants("bids") and is_bids(folder):
            self._bids(folder, inside)
            return True
        for name in inside.files if self.wants("list") else []:
            if _LIST.fullmatch(name) and (listed := list_scans(folder / name)) is not None:
                self._all_of(folder, "JSON list", LIST_ENTRIES, listed)
                return True
        return False

    def _all_of(self, folder: Path, kind: str, layout: str, scans: Iterable[Scan]) -> None:
        """A folder of which one file says what is in it; what it does not name is told."""
        used = self.hand_on(layout, scans, folder)
        self.found.described[kind] += 1
        if (rest := _count(folder) - used - 1) > 0:
            self.found.ignored[f"files that a {kind} does not name as scans"] += rest

    def _images(self, folder: Path) -> None:
        """A folder of images: what lies in it directly are cases, each of a subject of its own."""
        inside = self._inside(folder)
        if inside is None:
            return
        names = [name for name in inside.files if ending(Path(name)) or not self._file(folder, name)]
        scans = images_of_task(folder, names, self.root)
        self.hand_on("volumes in image folders", scans, folder.parent if folder != self.root else None)
        for name in inside.folders:
            self.folder(folder / name)

    def _bids(self, folder: Path, inside: _Inside) -> None:
        for name in inside.folders:
            if name.startswith("sub-"):
                files = self._volumes_below(folder / name)
                self.hand_on("volumes in BIDS trees", bids_scans(files, self.root), folder)
                others, what = _count(folder / name) - len(files), "other files of BIDS subjects"
            else:
                others = _count(folder / name)
                what = f"files of BIDS {name}" if name in OUTSIDE else "files of other folders in BIDS trees"
            if others:
                self.found.ignored[what] += others
        for name in inside.files:
            if name == DESCRIPTION:
                self.found.described[name] += 1
            else:
                self.found.ignored["files beside BIDS subjects"] += 1

    def _file(self, folder: Path, name: str) -> bool:
        """Put a file where it belongs; False for a volume that is still to be taken in."""
        file = folder / name
        kind = file.suffix.lower()
        if ending(file) and self.wants("folders"):
            return False
        if file.name.upper() == "DICOMDIR":  # a table of contents: the files that it names are found without it
            self.found.ignored["files DICOMDIR"] += 1
        elif kind in _VOXELS and any(file.with_suffix(head).is_file() for head in _VOXELS[kind]):
            self.found.described["voxels of headers beside them"] += 1
        elif kind == ".png" and self.wants("png"):
            self.stacks.add(file)
        elif kind == ".csv" and self.wants("png") and self.stacks.add_table(file):
            self.found.described["table of PNG slices"] += 1
        elif self.wants("dicom") and is_dicom(file):
            self.dicom.add(file)
        elif not (self.wants("dicom") and self.dicom.add_stray(file)):
            self._ignore(file)
        return True

    def _ignore(self, file: Path) -> None:
        """Count a file by its ending."""
        kind = file.suffix.lower()
        known = kind if _ENDING.fullmatch(kind) else "of other endings" if kind else "without an ending"
        self.found.ignored[printable(f"files {known}")] += 1

    def _volumes_below(self, folder: Path) -> list[Path]:
        """Every volume below a folder of one subject; links to folders are not followed there."""
        found = []
        for above, folders, files in os.walk(folder, onerror=self._closed):
            if links := sum((Path(above) / name).is_symlink() for name in folders):
                self.found.ignored["links to folders in BIDS subjects"] += links
            names = (name for name in files if not name.startswith(".") and ending(Path(name)))
            found += [file for name in names if (file := Path(above) / name).is_file()]
        return found

    def _closed(self, error: OSError) -> None:
        """A folder that may not be opened is told: what it holds is not in the data set."""
        place = shown(Path(os.fsdecode(error.filename or self.root)), self.root)
        why = f"the folder cannot be opened ({error.strerror}); what it holds is not known"
        self.hand_on("folders that cannot be opened", [refused(place, "unreadable", why)])


def _is_below(file: Path, folder: Path) -> bool:
    return Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder))


def _count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))
