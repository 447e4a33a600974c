"""The report of a comparison: numbers, and sentences that say what the intervals allow and nothing more."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.atomic import whole_file
from nnssl.evaluate.compare_plan import LONGER, SCRATCH, Target
from nnssl.evaluate.compare_run import Comparison
from nnssl.evaluate.runs import Arm, read_arm
from nnssl.evaluate.statistics import FEWEST_CASES, compare, two_way_interval
from nnssl.evaluate.subsets import ALL

REPORT = "report.json"
MARGIN = 0.005  # Dice; "not worse" with all labels
Table = npt.NDArray[np.float64]
CAVEATS = (
    "Plan and fingerprint (spacing, patch, network, normalisation) saw all labelled cases of the target in every arm, "
    "also with few labels.",
    "Intervals (95 %) are bootstrap intervals over test cases and label draws together. Few draws make them coarse: "
    "about 8 are needed with 1 label.",
    "p-values are of Wilcoxon's signed-rank test over cases, on the mean of the draws; they are not corrected for the "
    "number of comparisons.",
    "All arms ran one schedule. A schedule that suits scratch badly makes any pretraining look good.",
)


def make_report(comparison: Comparison) -> dict[str, Any]:
    """Read what the trainings left, write `report.json`, return its content."""
    targets = {target.dataset: _target_report(comparison, target) for target in comparison.targets}
    report = {
        "arms": {name: None if arm.path is None else str(arm.path) for name, arm in comparison.arms.items()},
        "labels": list(comparison.request.labels),
        "targets": targets,
        "mean_rank": mean_ranks(targets),
        "caveats": list(CAVEATS),
        "before_the_first_training": comparison.notes.said[0]["sentences"],
    }
    with whole_file(comparison.request.out / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _target_report(comparison: Comparison, target: Target) -> dict[str, Any]:
    found: dict[tuple[str, str], dict[tuple[int, int], Arm]] = {}
    for training in comparison.trainings[target.dataset]:
        arm = read_arm(comparison.fold_folder(target, training))
        found.setdefault((training.labels, training.arm), {})[training.replicate, training.fold] = arm
    tables = {key: table_of(arms, target.test_cases) for key, arms in found.items()}
    classes = [name for name, value in sorted(target.about["labels"].items(), key=_order) if value not in (0, [0])]
    counts: dict[str, Any] = {}
    for labels in comparison.request.labels:
        arms = {arm: tables[labels, arm] for arm in comparison.arms}
        counts[labels] = {
            "arms": {
                arm: {**_summary(table, target.test_cases), **_details(found[labels, arm], classes)}
                for arm, table in arms.items()
            },
            "differences": _differences(arms, labels),
        }
    return {
        "test_cases": len(target.test_cases),
        "warnings": list(target.warnings),
        "labels": counts,
        "gap_closed": gap_closed(counts),
    }


def _order(item: tuple[str, Any]) -> int:
    value = item[1]
    return int(value) if isinstance(value, int) else int(max(value))


def table_of(arms: Mapping[tuple[int, int], Arm], cases: list[str]) -> Table:
    """(draws, cases) mean Dice; NaN where a draw did not test a case or it has no class.

    Args:
        arms: {(draw, fold): what was measured}.
        cases: names of the columns.
    """
    draws = sorted({draw for draw, _ in arms})
    table = np.full((len(draws), len(cases)), np.nan)
    for (draw, _), arm in arms.items():
        for case, dice in arm.final.items():
            table[draws.index(draw), cases.index(case)] = dice
    return table


def _summary(table: Table, cases: list[str]) -> dict[str, Any]:
    low, high = two_way_interval(table)
    means = np.nanmean(table, axis=0)
    return {
        "mean": float(np.nanmean(table)),
        "low": low,
        "high": high,
        "draws": [float(value) for value in np.nanmean(table, axis=1)],
        "cases": {case: _plain(value) for case, value in zip(cases, means, strict=True)},
    }


def _details(arms: Mapping[tuple[int, int], Arm], classes: list[str]) -> dict[str, Any]:
    """Means over draws and folds: Dice per class, and the curve."""
    per_class = np.nanmean(np.array([arm.organs for arm in arms.values()]), axis=0)
    curves = np.array([[dice for _, dice in arm.curve] for arm in arms.values()])
    iterations = [iteration for iteration, _ in next(iter(arms.values())).curve]
    return {
        "classes": {name: _plain(value) for name, value in zip(classes, per_class, strict=True)},
        "curve": [[x, _plain(y)] for x, y in zip(iterations, np.nanmean(curves, axis=0), strict=True)],
    }


def _differences(arms: Mapping[str, Table], labels: str) -> dict[str, Any]:
    """Each pretrained arm against the better of the schedules from scratch."""
    controls = [arm for arm in (SCRATCH, LONGER) if arm in arms]
    against = max(controls, key=lambda arm: float(np.nanmean(arms[arm])))
    made = {}
    for arm, table in arms.items():
        if arm not in controls:
            made[arm] = {"against": against, **difference(arms[against], table, all_labels=labels == ALL)}
    return made


def difference(scratch: Table, pretrained: Table, *, all_labels: bool) -> dict[str, Any]:
    """The paired comparison of two tables (draws, cases), with its sentence.

    Args:
        scratch: the baseline.
        pretrained: the same draws and cases.
        all_labels: also say whether it is no worse by more than half a Dice point.
    """
    paired = compare(list(np.nanmean(scratch, axis=0)), list(np.nanmean(pretrained, axis=0)))
    low, high = two_way_interval(pretrained - scratch)
    found = replace(paired, low=low, high=high)
    sentence = f"{found.sentence()} (interval also over {len(scratch)} label draw(s))"
    if len(scratch) == 1:
        sentence += "; one draw does not show how much draws vary"
    made = {
        "gain": found.gain, "low": low, "high": high, "p": found.p_value, "verdict": found.verdict,
        "sentence": sentence,
    }  # fmt: skip
    if all_labels:
        enough = found.cases >= FEWEST_CASES and low > -MARGIN
        words = "can be claimed" if enough else "cannot be claimed"
        made["not_worse"] = enough
        made["sentence"] = f"{sentence}; that it is not worse by {100 * MARGIN:g} Dice points {words}"
    return made


def gap_closed(counts: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """(pretrained at k - scratch at k) / (scratch with all - scratch at k), a point estimate; None without a gap."""
    if ALL not in counts:
        return {}
    full = counts[ALL]["arms"][SCRATCH]["mean"]
    shares: dict[str, dict[str, float | None]] = {}
    for labels, found in counts.items():
        if labels != ALL:
            base = found["arms"][SCRATCH]["mean"]
            shares[labels] = {
                arm: (value["mean"] - base) / (full - base) if full > base else None
                for arm, value in found["arms"].items()
                if arm not in (SCRATCH, LONGER)
            }
    return shares


def mean_ranks(targets: Mapping[str, Any]) -> dict[str, float]:
    """Mean rank of each arm (1 is best) by mean Dice, over targets and numbers of labels."""
    ranks: dict[str, list[int]] = {}
    for target in targets.values():
        for found in target["labels"].values():
            ordered = sorted(found["arms"], key=lambda arm: -found["arms"][arm]["mean"])
            for rank, arm in enumerate(ordered, start=1):
                ranks.setdefault(arm, []).append(rank)
    return {arm: float(np.mean(values)) for arm, values in ranks.items()}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
