"""nnU-Net's three folders and the data sets in them. Imports nothing heavy.

Folders come from nnU-Net's own variables (`nnUNet_raw`, `nnUNet_preprocessed`, `nnUNet_results`) or from one workspace
folder that holds all three. nnU-Net reads the variables when it is used, so `folders` sets them for it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nnssl.errors import UsageError

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_DATASET = re.compile(r"Dataset(\d{3,})_(.+)")


@dataclass(frozen=True)
class Folders:
    """nnU-Net's three folders."""

    raw: Path
    preprocessed: Path
    results: Path


def use_workspace(workspace: str | os.PathLike[str], *, make: bool = True) -> Folders:
    """Point nnU-Net's three variables at folders of the same names under `workspace`.

    Args:
        workspace: the folder.
        make: make folders that are absent; False for what must write nothing.
    """
    root = Path(workspace).expanduser().resolve()
    for variable in VARIABLES:
        if make:
            (root / variable).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(root / variable)
    return folders()


def folders(workspace: str | os.PathLike[str] | None = None) -> Folders:
    """nnU-Net's three folders, from `workspace` or from the environment.

    Raises:
        UsageError: no workspace was given and a variable is not set.
    """
    if workspace is not None:
        return use_workspace(workspace)
    missing = [variable for variable in VARIABLES if not os.environ.get(variable)]
    if missing:
        raise UsageError(
            f"nnU-Net's folders are needed, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set. Set all of {', '.join(VARIABLES)} "
            f"(export {missing[0]}=/path/to/{missing[0]}), or pass --workspace DIR to keep all three under DIR."
        )
    raw, preprocessed, results = (Path(os.environ[variable]) for variable in VARIABLES)
    return Folders(raw, preprocessed, results)


def dataset(id_or_name: int | str, *, where: Folders | None = None) -> str:
    """The full name of a data set: 745, "745" or "Dataset745_Thorax" -> "Dataset745_Thorax".

    Looks into the raw, the preprocessed and the results folder, as nnU-Net does.

    Raises:
        UsageError: no such data set, or an id that two names share.
    """
    where = where or folders()
    known = dataset_names(where)
    text = str(id_or_name)
    if text in known:
        return text
    if not text.isdigit():
        raise UsageError(_unknown(f"data set {text!r}", known, where))
    matching = [name for name in known if dataset_id(name) == int(text)]
    if len(matching) > 1:
        raise UsageError(
            f"Data set id {int(text)} must belong to one name, but {' and '.join(matching)} share it in {where.raw}, "
            f"{where.preprocessed} or {where.results}. Rename or remove all but one."
        )
    if not matching:
        raise UsageError(_unknown(f"data set with id {int(text)}", known, where))
    return matching[0]


def dataset_names(where: Folders) -> list[str]:
    """All data sets ("Dataset745_Thorax") that have a folder in any of nnU-Net's three, sorted."""
    names = {
        entry.name
        for root in (where.raw, where.preprocessed, where.results)
        if root.is_dir()
        for entry in root.iterdir()
        if entry.is_dir() and _DATASET.fullmatch(entry.name)
    }
    return sorted(names)


def dataset_id(name: str) -> int:
    """The number in "Dataset745_Thorax".

    Raises:
        UsageError: the name has another form.
    """
    match = _DATASET.fullmatch(name)
    if match is None:
        raise UsageError(f"A data set is called DatasetXXX_Name (Dataset745_Thorax), not {name!r}.")
    return int(match.group(1))


def _unknown(what: str, known: list[str], where: Folders) -> str:
    listing = ", ".join(known) if known else "none"
    return (
        f"There is no {what}. Looked in {where.raw}, {where.preprocessed} and {where.results}; data sets there: "
        f"{listing}. A data set is a folder DatasetXXX_Name with imagesTr and dataset.json in nnUNet_raw."
    )
