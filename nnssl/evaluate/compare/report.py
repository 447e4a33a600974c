"""`report.json`: what a comparison's saved predictions say, and sentences that claim what the intervals allow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.atomic import whole_file
from nnssl.evaluate.compare.job import TIMING
from nnssl.evaluate.compare.longer import pretraining_seconds
from nnssl.evaluate.compare.numbers import (
    better_control,
    difference,
    gap_closed,
    is_all,
    mean,
    mean_curve,
    mean_ranks,
    over_subjects,
    plain,
    reach,
    summary,
)
from nnssl.evaluate.compare.plan import CONTROLS, Contender, Target, Training
from nnssl.evaluate.compare.run import Comparison
from nnssl.evaluate.compare.scores import METRICS, TABLE, Scores, score_fold, stack, write_table
from nnssl.evaluate.runs import read_arm

REPORT = "report.json"
CAVEATS = (
    "Plan and fingerprint (spacing, patch, network, normalisation) saw all labelled cases of the target in every arm, "
    "also with few labels.",
    "Dice and surface distance are those of whole test cases at the last iteration, recomputed from the saved "
    "predictions; nothing was chosen by them. Means are over classes, then cases, then subjects, then label draws.",
    "Normalised surface distance is the share of both surfaces (by area of voxel faces) that lies within "
    "{tolerance:g} mm of the other. A class that neither prediction nor labels have counts nowhere, in Dice and in "
    "distance; one that only one of them has counts as 0.",
    "Intervals (95 %) are bootstrap intervals over test subjects and label draws together, widened where either are "
    "few. About 8 draws are needed with 1 label. Scans of one subject are averaged first.",
    "p-values are of Wilcoxon's signed-rank test over subjects, on the mean of the draws; they ignore how draws vary "
    "and are not corrected for the number of comparisons. Claims are made by the intervals alone.",
    "Pretrained arms are compared with the better schedule from scratch. All arms of one length ran one schedule: one "
    "that suits scratch badly makes any pretraining look good. Tune it on a validation split, never on these cases.",
    "Dice over epochs is of a few test cases on the preprocessed grid; lines are means over draws, bands their range. "
    "Curves go up and down, so that scratch itself first reaches its final Dice before its end: compare with that.",
    "Ranks order point estimates, whether or not their intervals part.",
)


@dataclass(frozen=True)
class Measured:
    """What one training left.

    Attributes:
        scores: of its saved predictions.
        curve: (iteration, Dice) in order.
        seconds: of training.
    """

    scores: Scores
    curve: Sequence[tuple[int, float]]
    seconds: float


Runs = Mapping[tuple[int, int], Measured]  # (draw, fold) -> what was measured


def measure(comparison: Comparison) -> dict[Training, Measured]:
    """Read what all trainings left.

    Raises:
        DataError: a prediction is missing or cannot be read.
    """
    found: dict[Training, Measured] = {}
    total = sum(len(made) for made in comparison.trainings.values())
    for target in comparison.targets:
        truth = comparison.where.preprocessed / target.dataset / "gt_segmentations"
        for training in comparison.trainings[target.dataset]:
            comparison.screen.status(f"measuring predictions, training {len(found) + 1} of {total}")
            fold = comparison.fold_folder(target, training)
            scores = score_fold(fold, training, target, truth, tolerance_mm=comparison.request.tolerance_mm)
            seconds = float(json.loads((fold / TIMING).read_text())["seconds"])
            found[training] = Measured(scores, read_arm(fold).curve, seconds)
    comparison.screen.status("")
    return found


def make_report(comparison: Comparison, measured: Mapping[Training, Measured]) -> dict[str, Any]:
    """Write `report.json` and `scores.csv`, return the report."""
    targets = {target.dataset: _target_report(comparison, target, measured) for target in comparison.targets}
    means = [
        {arm: value["dice"]["mean"] or 0.0 for arm, value in counted["arms"].items()}
        for found in targets.values()
        for counted in found["labels"].values()
    ]
    report = {
        "arms": {name: _about_arm(arm) for name, arm in comparison.arms.items()},
        "labels": list(comparison.request.labels),
        "replicates": comparison.request.replicates,
        "folds": list(comparison.request.folds),
        "tolerance_mm": comparison.request.tolerance_mm,
        "targets": targets,
        "mean_rank": mean_ranks(means),
        "caveats": [text.format(tolerance=comparison.request.tolerance_mm) for text in CAVEATS],
        "said": comparison.notes.said,
    }
    with whole_file(comparison.request.out / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_table(comparison.request.out / TABLE, {training: one.scores for training, one in measured.items()})
    return report


def _about_arm(arm: Contender) -> dict[str, Any]:
    seconds = None if arm.weights is None else pretraining_seconds(arm.weights)
    return {
        "weights": None if arm.path is None else str(arm.path),
        "sha256": arm.digest or None,
        "pretraining_hours": None if seconds is None else seconds / 3600,
    }


def _target_report(comparison: Comparison, target: Target, measured: Mapping[Training, Measured]) -> dict[str, Any]:
    found: dict[tuple[str, str], dict[tuple[int, int], Measured]] = {}
    for one, what in measured.items():
        if one.dataset == target.dataset:
            found.setdefault((one.labels, one.arm), {})[one.replicate, one.fold] = what
    longer = comparison.notes.longer.get(target.dataset)
    return {
        "plans": target.plans_name,
        "classes": list(target.classes),
        "test_cases": len(target.test_cases),
        "test_subjects": len(target.test_subjects),
        "warnings": list(target.warnings),
        "longer": None if longer is None else longer.sentence,
        "labels": {
            labels: _counted({arm: found[labels, arm] for arm in comparison.arms}, target, labels=labels)
            for labels in comparison.request.labels
        },
        "gap_closed": _gaps(found, comparison, target),
    }


def _tables(found: Runs, target: Target) -> dict[str, npt.NDArray[np.float64]]:
    """{metric: (draws, cases, classes)}."""
    return {
        metric: stack({key: one.scores for key, one in found.items()}, target.test_cases, list(target.classes), metric)
        for metric in METRICS
    }


def _whole(table: npt.NDArray[np.float64], target: Target) -> npt.NDArray[np.float64]:
    """(draws, subjects): means over classes and cases."""
    return over_subjects(mean(table, axis=2), [target.subject_of[case] for case in target.test_cases])


def _counted(arms: Mapping[str, Runs], target: Target, *, labels: str) -> dict[str, Any]:
    """All about one number of labels."""
    subjects = [target.subject_of[case] for case in target.test_cases]
    tables = {arm: _tables(found, target) for arm, found in arms.items()}
    curves = {arm: {key: one.curve for key, one in found.items()} for arm, found in arms.items()}
    described: dict[str, dict[str, Any]] = {
        arm: {
            **{metric: summary(table[metric], subjects, list(target.classes)) for metric in METRICS},
            "curve": mean_curve(curves[arm]),
            "hours": math.fsum(one.seconds for one in arms[arm].values()) / 3600,
            "cases": _cases(table, target),
        }
        for arm, table in tables.items()
    }
    against = better_control({arm: value["dice"]["mean"] or 0.0 for arm, value in described.items()})
    differences = {}
    for arm, table in tables.items():
        if arm in CONTROLS:
            continue
        compared = {
            metric: difference(
                _whole(tables[against][metric], target), _whole(table[metric], target), metric=metric,
                all_labels=is_all(labels) and metric == "dice",
            )
            for metric in METRICS
        }  # fmt: skip
        differences[arm] = {"against": against, **compared, "reach": reach(curves[against], curves[arm])}
    return {"arms": described, "differences": differences}


def _cases(tables: Mapping[str, npt.NDArray[np.float64]], target: Target) -> dict[str, Any]:
    """{case: {metric: {class: mean over draws}}}."""
    over_draws = {metric: mean(table, axis=0) for metric, table in tables.items()}
    return {
        case: {
            metric: {name: plain(float(table[row, column])) for column, name in enumerate(target.classes)}
            for metric, table in over_draws.items()
        }
        for row, case in enumerate(target.test_cases)
    }


def _gaps(found: Mapping[tuple[str, str], Runs], comparison: Comparison, target: Target) -> dict[str, Any]:
    """{labels: {arm: share of the gap closed}}, against the better schedule from scratch at both ends."""
    everything = [labels for labels in comparison.request.labels if is_all(labels)]
    if not everything:
        return {}
    dice = {key: _whole(_tables(one, target)["dice"], target) for key, one in found.items()}

    def best(labels: str) -> npt.NDArray[np.float64]:
        """Dice of the better control with so many labels, as `dice` has it."""
        means = {arm: float(mean(dice[labels, arm])) for arm in comparison.arms}
        return dice[labels, better_control(means)]

    return {
        labels: {
            arm: gap_closed(best(labels), dice[labels, arm], best(everything[0]))
            for arm in comparison.arms
            if arm not in CONTROLS
        }
        for labels in comparison.request.labels
        if not is_all(labels)
    }
