"""What a data set was before a run, until it is known that something is left of it: nothing is thrown away sooner."""

from __future__ import annotations

import shutil
from pathlib import Path

from nnssl.errors import DataError
from nnssl.ingest.ledger import FILE, FOLDER, Ledger
from nnssl.ingest.write import case_files

IMAGES = "imagesTr"
_ASIDE = "before"  # in the ingest folder; what a killed run leaves there the next one throws away


class Emptied(DataError):
    """A run that would leave nothing of a data set that had cases."""


class Before:
    """Files of cases that a run takes out of a data set, and its ledger as it was.

    Args:
        dataset: nnUNet_raw/DatasetXXX_Name.
        dry: nothing of it is touched.

    Attributes:
        made: whether this run makes the data set's folder.
        unfinished: whether a run that was stopped made it, and none has come to its end.
    """

    def __init__(self, dataset: Path, *, dry: bool) -> None:
        self._dataset, self._dry = dataset, dry
        self._aside = dataset / FOLDER / _ASIDE
        self.made = not dataset.exists() and not dry
        self.unfinished = not dry and (dataset / FOLDER / FILE).is_file() and not (dataset / "dataset.json").is_file()

    def begin(self, ledger: Ledger) -> None:
        """Keep the ledger of a data set that has cases; throw away what a killed run was writing."""
        if self._dry:
            return
        for leftover in (self._dataset / IMAGES).glob(".*.partial"):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(self._aside, ignore_errors=True)
        if ledger.count_had():
            self._aside.mkdir(parents=True)
            ledger.copy_to(self._aside / FILE)

    def take_away(self, case: str, *, had: bool) -> None:
        """Take a case's files out of the data set; the sources of links are not touched.

        Args:
            case: its name.
            had: whether they were there before this run; they are put aside until it ends.
        """
        for file in () if self._dry else case_files(self._dataset / IMAGES, case):
            if had:
                file.replace(self._aside / file.name)
            else:
                file.unlink()

    def end(self, *, emptied: bool) -> None:
        """Throw away what was put aside; or put it back, after a run that would have emptied the data set.

        The ledger must be closed.
        """
        if self._dry:
            return
        if emptied and (self._aside / FILE).is_file():
            (self._aside / FILE).replace(self._dataset / FOLDER / FILE)
            for file in self._aside.iterdir():
                file.replace(self._dataset / IMAGES / file.name)
        shutil.rmtree(self._aside, ignore_errors=True)

    def remove_made(self) -> None:
        """Take away the folder of a data set that this run, or one that was stopped, made and put no case into."""
        if self.made or self.unfinished:
            shutil.rmtree(self._dataset, ignore_errors=True)
