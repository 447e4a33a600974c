"""Links of a data set become files of its own, where a request wants no links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest.before import IMAGES
from nnssl.ingest.ledger import Ledger
from nnssl.ingest.read import read_part
from nnssl.ingest.record import Record
from nnssl.ingest.scan import Part
from nnssl.ingest.write import case_files, has_case, write_nifti
from nnssl.planning.pool import for_each_case


@dataclass(frozen=True)
class _Link:
    """A case of which files are links."""

    key: str
    record: Record
    files: tuple[Path, ...]

    @property
    def case_id(self) -> str:
        """Its name in the data set."""
        return self.record.case


class _Links:
    """Cases that are links, one by one from the ledger; links that lead nowhere are not among them."""

    def __init__(self, ledger: Ledger, images: Path) -> None:
        self._ledger, self._images = ledger, images
        self._count = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Link]:
        for key, record in self._ledger.taken():
            files = tuple(case_files(self._images, record.case))  # some of a case's may be links, and others not
            if any(map(Path.is_symlink, files)) and has_case(self._images, record.case, len(record.channels)):
                yield _Link(key, record, files)


def unlink(folder: Path, ledger: Ledger, *, workers: int) -> int:
    """Write the cases that are links anew, with nothing in them but voxels and place; how many there were.

    Each file takes the place of its link when it is whole, so that a case is there at any time.

    Args:
        folder: nnUNet_raw/DatasetXXX_Name.
        ledger: of it.
        workers: files at a time.

    Raises:
        DataError: a link leads to a file that cannot be read any more.
    """
    links = _Links(ledger, folder / IMAGES)
    for link, error in for_each_case(_written, links, workers=workers, title="copying"):
        if error is not None:
            raise DataError(
                f"{link.case_id} is a link and cannot be made a file: {error} Run the command without --copy or "
                f"--hide_names, which reads it anew where it has changed."
            )
        link.record.linked = False
        ledger.put(link.key, link.record)
        ledger.commit_sometimes()
    return len(links)


def _written(link: _Link) -> None:
    for file in link.files:
        if file.is_symlink():
            write_nifti(file, read_part(Part(files=(file,)), link.record.accepted))
