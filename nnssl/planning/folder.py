"""A configuration's folder: every case preprocessed once, bad ones quarantined, the index kept along the way."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnssl.data.case import CaseEntry
from nnssl.data.index import Index, differing_keys, index_file, stored_index, write_index
from nnssl.data.tables import table_file, write_table
from nnssl.errors import DataError, NnsslError, PluginError
from nnssl.planning.cases import RawDataset, RawFiles
from nnssl.planning.grid import CasePlan
from nnssl.planning.pool import for_each_case
from nnssl.planning.requirements import Required
from nnssl.planning.suspects import watched
from nnssl.planning.write_case import CaseWriter

# The index is written again after every case, but never for more than this share of the time
_INDEX_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the cases.

    Attributes:
        made: preprocessed now.
        kept: done by an earlier run and still good.
        quarantined: {case: why}.
    """

    made: tuple[str, ...]
    kept: tuple[str, ...]
    quarantined: Mapping[str, str]


def preprocess_folder(
    dataset: RawDataset,
    plan: CasePlan,
    folder: Path,
    required: Required,
    *,
    workers: int,
    part: tuple[int, int] | None = None,
) -> Outcome:
    """Preprocess the cases of `dataset` into `folder`, those left over from earlier runs only.

    Args:
        dataset: the raw data set.
        plan: what decides the voxels.
        folder: nnUNet_preprocessed/DATASET/IDENTIFIER.
        required: raw voxels, sidecars and tables to make as well.
        workers: threads.
        part: (i, n): only every n-th case, beginning with the i-th, with an index file of its own (array jobs).

    Raises:
        DataError: the folder holds data of another plan, or of stock nnU-Net.
    """
    earlier = checked_index(folder, plan)
    folder.mkdir(parents=True, exist_ok=True)
    if part is None:
        for leftover in folder.glob(".*.partial"):  # of runs that were killed; array jobs may still be writing theirs
            leftover.unlink(missing_ok=True)
    writer = CaseWriter(dataset=dataset.name, modality=dataset.modality, plan=plan, folder=folder, required=required)
    chosen = dataset.cases if part is None else dataset.cases[part[0] - 1 :: part[1]]
    previous = {} if earlier is None else earlier.entries
    kept = {case.case_id: good for case in chosen if (good := writer.still_good(case, previous.get(case.case_id)))}
    # A case that lacks only what another trainer needs stays listed while that is made: its files stay true. A case
    # with another source does not: killed in between, it could have the new scan's raw values and the old one's voxels.
    bare = replace(writer, required=Required())
    usable = {case.case_id: good for case in chosen if (good := bare.still_good(case, previous.get(case.case_id)))}
    keeper = _IndexKeeper(
        folder,
        part,
        Index(dataset=dataset.name, made_from=plan.made_from(), entries=usable, quarantined=dataset.malformed),
    )
    left = [case for case in chosen if case.case_id not in kept]
    if left and earlier is not None:
        keeper.write()
    made = []
    try:
        results = for_each_case(
            watched(lambda case: writer.write(case, previous.get(case.case_id)), folder.parent, plan.reader),
            left,
            workers=workers,
            title=f"preprocessing {folder.name}",
        )
        for case, result in results:
            keeper.add(case.case_id, result)
            if not isinstance(result, str):
                made.append(case.case_id)
        for case_id, why in _copies(dataset.cases, keeper.index).items():
            keeper.add(case_id, why)
    finally:
        keeper.write()
    if part is None:
        for file in folder.glob("nnssl_index.part-*-of-*.json"):
            file.unlink()
        _make_tables(folder, keeper.index, required, changed=bool(made))
    bad = keeper.index.quarantined
    return Outcome(
        made=tuple(name for name in sorted(made) if name not in bad),
        kept=tuple(name for name in sorted(kept) if name not in bad),
        quarantined=bad,
    )


def _copies(cases: Sequence[RawFiles], index: Index) -> dict[str, str]:
    """{case: why} of cases that hold, byte by byte, what one with an earlier name holds; of a part, within the part."""
    first: dict[str, str] = {}
    copies = {}
    for case in cases:
        entry = index.entries.get(case.case_id)
        if entry is None or not entry.source_hash:
            continue
        other = first.setdefault(entry.source_hash, case.case_id)
        if other != case.case_id and "duplicate" not in case.accepted:
            copies[case.case_id] = (
                f"Case {case.case_id} was refused as duplicate: its files hold the same as those of {other}. Remove "
                f"it, or take it all the same: --accept duplicate."
            )
    return copies


def checked_index(folder: Path, plan: CasePlan) -> Index | None:
    """The index of an earlier run in `folder`, None for a fresh folder.

    Raises:
        DataError: the folder holds data of another plan, or of stock nnU-Net.
    """
    if not folder.is_dir():
        return None
    index = stored_index(folder)
    if index is None:
        if any(folder.glob("*_seg.b2nd")) or any(folder.glob("*.pkl")):
            raise DataError(
                f"{folder} was preprocessed by nnU-Net itself. Methods without raw or sidecar needs can pretrain on it "
                f"as it is; to make our own beside it, plan under another name (-overwrite_plans_name NAME)."
            )
        return None
    differing = differing_keys(index.made_from, plan.made_from())
    if differing:
        raise DataError(
            f"{folder} holds cases made with another plan: {', '.join(differing)} differ. Use --clean to delete and "
            f"make them anew, or plan under another name (-overwrite_plans_name NAME) to keep both."
        )
    return index


def clean_folder(folder: Path) -> None:
    """Delete the preprocessed data in `folder`.

    Raises:
        DataError: stock nnU-Net made them.
    """
    if not folder.is_dir():
        return
    if not (folder / index_file()).is_file() and any(folder.glob("*_seg.b2nd")):
        raise DataError(
            f"{folder} was preprocessed by nnU-Net itself and is not deleted. Delete it by hand if you mean it."
        )
    shutil.rmtree(folder)


class _IndexKeeper:
    """Keeps the index file close behind the work, at a bounded cost."""

    def __init__(self, folder: Path, part: tuple[int, int] | None, index: Index) -> None:
        self.index = index
        self._folder, self._part = folder, part
        self._next = 0.0

    def add(self, case_id: str, result: CaseEntry | str) -> None:
        """Take in one case: its entry, or why it cannot be used."""
        if isinstance(result, str):
            entries = {name: entry for name, entry in self.index.entries.items() if name != case_id}
            quarantined = {**self.index.quarantined, case_id: result}
            self.index = replace(self.index, entries=entries, quarantined=quarantined)
        else:
            self.index = replace(self.index, entries={**self.index.entries, case_id: result})
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write the index now, and find out when it may be written again."""
        started = time.monotonic()
        write_index(self._folder, self.index, part=self._part)
        ended = time.monotonic()
        self._next = ended + (ended - started) / _INDEX_SHARE


def _make_tables(folder: Path, index: Index, required: Required, *, changed: bool) -> None:
    for table in required.tables:
        if table_file(folder, table).is_file() and not changed:
            continue
        try:
            matches = table.compute(sorted(index.entries), str(folder))
        except NnsslError:
            raise
        except Exception as error:  # a plugin's code may raise anything; the user must learn whose it was
            raise PluginError(
                f"The table {table.__module__}.{table.__name__} failed on {folder}: {error!r}. This is a fault of that "
                f"plugin."
            ) from error
        write_table(folder, table, matches)
