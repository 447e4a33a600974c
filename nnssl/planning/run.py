"""Planning and preprocessing of one data set, step by step: what the command does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.paths import Folders
from nnssl.paths import dataset as dataset_name
from nnssl.planning.cases import RawDataset
from nnssl.planning.fingerprint import CaseStatistics, case_statistics, fingerprint, samples_per_case
from nnssl.planning.planner import Plans, load_plans, planned, plans_path, taken_over
from nnssl.planning.pool import for_each_case
from nnssl.planning.reading import source_stamp
from nnssl.planning.suspects import watched
from nnssl.planning.wish import PlanWish, wished

FINGERPRINT_FILE = "dataset_fingerprint.json"
_SOURCES = "nnssl_sources"  # our one key beside nnU-Net's: a digest of the files the fingerprint was made from
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """How to plan.

    Attributes:
        planner: nnU-Net's planner class.
        plans_name: the plans file to write, without ".json".
        spacing_mm: z y x in place of the median spacing; None: the planner's choice.
        target: id or name of the data set whose plans to take over; None: plan from the fingerprint.
        target_plans: which of its plans.
        wish: what the chosen preset needs of the plan; not of a target's.
    """

    planner: str = "ExperimentPlanner"
    plans_name: str
    spacing_mm: Sequence[float] | None = None
    target: str | None = None
    target_plans: str = "nnUNetPlans"
    wish: PlanWish | None = None


def make_plan(dataset: RawDataset, request: PlanRequest, where: Folders, *, say: Say) -> Plans:
    """The plans that `request` asks for. The fingerprint must be written; writes nothing.

    Raises:
        PlanError, UsageError: the plan cannot be made or does not fit.
    """
    wish = request.wish
    if request.target is None:
        spacing_mm = request.spacing_mm if wish is None else wish.spacing
        plans = planned(dataset, planner=request.planner, plans_name=request.plans_name, spacing_mm=spacing_mm)
        if wish is None:
            return plans
        say(
            f"The preset brings its own plan: {wish.spacing_words} voxels, patch {list(wish.patch_size)} and "
            f"{len(wish.strides)} stages with the strides {[list(stride) for stride in wish.strides]}; everything else "
            f"is {request.planner}'s. Pretrain with -p {request.plans_name}."
        )
        return wished(plans, wish)
    if wish is not None:
        say(f"Warning: the preset would bring its own plan ({wish.name}); -target takes that of {request.target}.")
    target = dataset_name(request.target, where=where)
    theirs = load_plans(plans_path(where.preprocessed, target, request.target_plans))
    plans, warnings = taken_over(dataset, theirs, plans_name=request.plans_name)
    for warning in warnings:
        say(f"Warning: {warning}")
    return plans


def write_fingerprint(
    dataset: RawDataset, reader: str, where: Folders, *, workers: int, anew: bool, say: Say
) -> dict[str, str]:
    """Write dataset_fingerprint.json and dataset.json into the preprocessed folder.

    A fingerprint of the same files is used again, and so is one that stock nnU-Net made from labels.

    Args:
        dataset: the raw data set.
        reader: nnU-Net's reader class name.
        where: nnU-Net's folders.
        workers: threads.
        anew: make it again even if there is one of the same files.
        say: takes sentences for the user.

    Returns:
        {case: why it was left out}.

    Raises:
        DataError: no usable case.
    """
    folder = where.preprocessed / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "dataset.json", dataset.description)
    file = folder / FINGERPRINT_FILE
    sources = _sources(dataset, reader)
    present = _present(file)
    if present and _SOURCES not in present:
        say(f"Using the fingerprint that nnU-Net made: {file}")
        return {}
    if present.get(_SOURCES) == sources and not anew:
        say(f"Using the fingerprint of the same files: {file}")
        return {}
    samples = samples_per_case(len(dataset.cases))
    statistics: list[CaseStatistics] = []
    bad = dict(dataset.malformed)
    results = for_each_case(
        watched(lambda case: case_statistics(case, dataset.modality, reader, samples), folder, reader),
        dataset.cases,
        workers=workers,
        title=f"fingerprint of {dataset.name}",
    )
    for case, result in results:
        if isinstance(result, str):
            bad[case.case_id] = result
        else:
            statistics.append(result)
    if not statistics:
        raise DataError(f"No case of {dataset.name} can be used:\n{listing(bad)}")
    _write_json(file, {**fingerprint(statistics), _SOURCES: sources})
    return bad


def listing(bad: Mapping[str, str]) -> str:
    """One line a case: its name and the reason."""
    return "\n".join(f"  {case}: {bad[case]}" for case in sorted(bad))


def _sources(dataset: RawDataset, reader: str) -> str:
    stamps = [
        [case.case_id, source_stamp(case.files), *sorted(case.accepted)]
        for case in dataset.cases
        if all(file.is_file() for file in case.files)
    ]
    described = json.dumps([reader, dataset.modality, stamps])
    return hashlib.sha256(described.encode()).hexdigest()


def _present(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file} is not readable JSON ({error}). Delete it, it will be made again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no fingerprint but {str(content)[:40]}. Delete it, it will be made again.")
    return content


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(content, indent=4, sort_keys=False))
