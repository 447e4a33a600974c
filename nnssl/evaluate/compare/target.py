"""Checks one target of a comparison: its plan, its folds, its classes, and that nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.errors import DataError, UsageError
from nnssl.evaluate.compare.plan import Contender, Request, Target
from nnssl.evaluate.compare.start import check_start
from nnssl.evaluate.finetune.run import Request as Finetuning
from nnssl.evaluate.finetune.run import fitting_plans, prepare_target
from nnssl.evaluate.leakage import leaks, scan_hashes
from nnssl.evaluate.subsets import Fold, nested, read_folds
from nnssl.evaluate.volumes import read_labels
from nnssl.export.adaptation import resolved_configuration
from nnssl.paths import Folders
from nnssl.planning.cases import read_raw_dataset

_FEWEST_SUBJECTS = 2  # to be measured at all; a claim needs more
_ENDINGS = (".b2nd", ".npz", ".npy")


def settle_target(given: str, request: Request, arms: Mapping[str, Contender], where: Folders) -> Target:
    """Check a target, its plan, its folds, its weights, and that no test case was pretrained on.

    Raises:
        NnsslError: whatever would fail later.
    """
    asked = Finetuning(
        target=given, configuration=request.configuration, fold="0", weights=request.weights[0],
        plans_name=request.plans_name,
    )  # fmt: skip
    plans_name = fitting_plans(where, asked)
    dataset, plans = prepare_target(where, asked, plans_name, None)
    home = where.preprocessed / dataset
    about = json.loads((home / "dataset.json").read_text())
    chosen = resolved_configuration(plans, request.configuration)
    subject_of = _labelled_subjects(dataset, home, about, where)
    target = Target(
        dataset=dataset, plans_name=plans_name, plans=plans, chosen=chosen, about=about,
        folds=_folds(home, request, dataset, subject_of), subject_of=subject_of, warnings=[],
    )  # fmt: skip
    _check_cases(home / str(chosen["data_identifier"]), target)
    warnings = [sentence for arm in arms.values() for sentence in check_start(arm, target)]
    hashes = scan_hashes(
        dataset,
        target.test_cases,
        str(plans["image_reader_writer"]),
        where,
        memory=request.out / f"{dataset}_scans.json",
    )
    found = [sentence for arm in arms.values() if arm.weights for sentence in leaks(arm.weights, hashes)]
    if found and request.strict:
        raise DataError(f"--strict: {found[0]}")
    warnings += [*found, *absent_classes(target, request, home), *_small_tolerance(target, request)]
    return Target(**{**vars(target), "warnings": warnings})


def _labelled_subjects(dataset: str, home: Path, about: Mapping[str, Any], where: Folders) -> dict[str, str]:
    raw = read_raw_dataset(dataset, where)
    labelled = {path.name.removesuffix(about["file_ending"]) for path in (home / "gt_segmentations").glob("*")}
    subject_of = {case.case_id: case.subject for case in raw.cases if case.case_id in labelled}
    if not subject_of:
        raise DataError(
            f"{dataset} has no labelled case in {home / 'gt_segmentations'}. Put label maps into labelsTr and run "
            f"nnUNetv2_preprocess."
        )
    return subject_of


def _folds(home: Path, request: Request, dataset: str, subject_of: Mapping[str, str]) -> dict[int, Fold]:
    found = read_folds(home / "splits_final.json", sorted(subject_of), subject_of)
    if max(request.folds) >= len(found):
        raise UsageError(f"--folds {max(request.folds)}: {dataset} has the folds 0 to {len(found) - 1}.")
    return {number: found[number] for number in request.folds}


def _small_tolerance(target: Target, request: Request) -> list[str]:
    finest = min(target.plans.get("original_median_spacing_after_transp", [0.0]))
    if finest <= request.tolerance_mm:
        return []
    return [
        f"{target.dataset}: a tolerance of {request.tolerance_mm:g} mm is below the voxel size ({finest:g} mm): "
        f"surfaces agree only on the very voxel. Choose another with --tolerance_mm."
    ]


def _check_cases(folder: Path, target: Target) -> None:
    if not target.classes:
        raise DataError(
            f"{target.dataset} has no class besides the background (dataset.json), so nothing can be compared."
        )
    if len(target.test_subjects) < _FEWEST_SUBJECTS:
        raise DataError(
            f"{target.dataset} has {len(target.test_subjects)} test subject in fold(s) "
            f"{', '.join(map(str, target.folds))}; a paired comparison needs at least {_FEWEST_SUBJECTS}. Give more "
            f"--folds, or another splits_final.json."
        )
    cases = {case for fold in target.folds.values() for case in (*fold.train, *fold.test)}
    absent = sorted(case for case in cases if not any((folder / f"{case}{end}").is_file() for end in _ENDINGS))
    if absent:
        raise DataError(
            f"{len(absent)} case(s) of {target.dataset} were not preprocessed with {target.plans_name}, first "
            f"{absent[0]} ({folder}). Run nnUNetv2_preprocess again."
        )


def absent_classes(target: Target, request: Request, home: Path) -> list[str]:
    """A sentence for each label draw in which a class has no voxel; label maps are read only as far as needed."""
    reader, ending = str(target.plans["image_reader_writer"]), str(target.about["file_ending"])
    known: dict[str, frozenset[int]] = {}

    def values(case: str) -> frozenset[int]:
        """Labels that occur in a case; its map is read once."""
        if case not in known:
            found, _ = read_labels(home / "gt_segmentations" / f"{case}{ending}", reader)
            known[case] = frozenset(int(value) for value in set(found.ravel().tolist()))
        return known[case]

    said = []
    for number, fold in target.folds.items():
        for replicate in range(request.replicates):
            draws = nested(fold, target.subject_of, request.labels, seed=(0, number, replicate))
            for labels, cases in draws.items():
                lacking = _lacking(target.classes, cases, values)
                if lacking:
                    said.append(
                        f"{target.dataset}: with {labels} label(s), draw {replicate} of fold {number} holds no voxel "
                        f"of {', '.join(lacking)}; no arm can learn it there."
                    )
    return said


def _lacking(
    classes: Mapping[str, Sequence[int]], cases: Sequence[str], values: Callable[[str], frozenset[int]]
) -> list[str]:
    wanted = dict(classes)
    for case in cases:
        if not wanted:
            break
        there = values(case)
        wanted = {name: numbers for name, numbers in wanted.items() if there.isdisjoint(numbers)}
    return list(wanted)
