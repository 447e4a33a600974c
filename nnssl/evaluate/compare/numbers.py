"""The numbers of a comparison's report: means with intervals, paired differences, the share of the label gap closed.

The unit is the subject: several scans of one person are averaged first, since they are no independent evidence.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.evaluate.compare.plan import CONTROLS
from nnssl.evaluate.statistics import (
    CONFIDENCE,
    FEWEST_CASES,
    POWER,
    compare,
    percentiles,
    resampled_means,
    two_way_interval,
)
from nnssl.evaluate.subsets import ALL

MARGIN = 0.005  # Dice; "not worse" with all labels
METRIC_WORDS = {"dice": "Dice points", "nsd": "points of normalised surface distance"}
ALONE = "; all this is about one draw of labels and seed, and not about how much draws vary"
Table = npt.NDArray[np.float64]  # (draws, subjects)
Curves = Mapping[tuple[int, int], Sequence[tuple[int, float]]]  # (draw, fold) -> (iteration, Dice)


def over_subjects(table: Table, subjects: Sequence[str]) -> Table:
    """(draws, cases) -> (draws, subjects), each the mean of its cases, subjects in order of their names.

    Args:
        table: NaN does not count.
        subjects: of the cases.
    """
    names = sorted(set(subjects))
    columns = [[index for index, subject in enumerate(subjects) if subject == name] for name in names]
    return np.stack([mean(table[:, chosen], axis=1) for chosen in columns], axis=1)


def mean(values: Any, axis: int | None = None) -> Any:
    """Mean of what is not NaN; NaN where nothing is, without numpy's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def plain(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def summary(scores: npt.NDArray[np.float64], subjects: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Mean with its interval over subjects and draws, of each class and over classes.

    Args:
        scores: (draws, cases, classes).
        subjects: of the cases.
        classes: names.
    """
    whole = over_subjects(mean(scores, axis=2), subjects)
    return {
        **_interval(whole),
        "draws": [plain(value) for value in mean(whole, axis=1)],
        "classes": {
            name: _interval(over_subjects(scores[:, :, index], subjects)) for index, name in enumerate(classes)
        },
    }


def _interval(table: Table) -> dict[str, float | None]:
    low, high = np.clip(two_way_interval(table), 0, 1)  # two draws tell little, but a score stays a score
    return {"mean": plain(float(mean(table))), "low": plain(low), "high": plain(high)}


def better_control(means: Mapping[str, float]) -> str:
    """The schedule from scratch that did best: pretraining is compared with it."""
    return max((arm for arm in CONTROLS if arm in means), key=lambda arm: means[arm])


def difference(scratch: Table, pretrained: Table, *, metric: str = "dice", all_labels: bool = False) -> dict[str, Any]:
    """The paired comparison of two tables (draws, subjects), with its sentence.

    Args:
        scratch: the baseline.
        pretrained: the same draws and subjects.
        metric: "dice" or "nsd".
        all_labels: also say whether it is no worse by more than half a Dice point.
    """
    differences = mean(pretrained - scratch, axis=0)
    paired = compare([0.0] * len(differences), list(differences))
    low, high = two_way_interval(pretrained - scratch)
    normal = NormalDist()
    z = normal.inv_cdf((1 + CONFIDENCE) / 2)
    least = (z + normal.inv_cdf(POWER)) * (high - low) / (2 * z)  # the interval's half width is z standard errors
    found = replace(paired, low=low, high=high, smallest_gain=least)
    draws = len(scratch)
    units = "subjects" + (f" and {draws} label draws" if draws > 1 else "")
    sentence = found.sentence(what=METRIC_WORDS[metric], units=units)
    made: dict[str, Any] = {
        "gain": found.gain, "low": low, "high": high, "p": found.p_value, "verdict": found.verdict,
        "subjects": found.cases,
    }  # fmt: skip
    if all_labels:
        made["not_worse"] = found.cases >= FEWEST_CASES and low > -MARGIN
        words = "can be claimed" if made["not_worse"] else "cannot be claimed"
        sentence += f"; that it is not worse by {100 * MARGIN:g} {METRIC_WORDS[metric]} {words}"
    if draws == 1:
        sentence += ALONE
    return {**made, "sentence": sentence}


def gap_closed(scratch: Table, pretrained: Table, full: Table) -> dict[str, Any]:
    """(pretrained at k - scratch at k) / (scratch with all - scratch at k), with its interval and sentence.

    Args:
        scratch: (draws, subjects) with k labels.
        pretrained: the same draws and subjects.
        full: scratch with all labels.

    Returns:
        share, low, high (None where there is no gap to speak of), the gap itself, and the sentence.
    """
    base, ours, top = (float(mean(table)) for table in (scratch, pretrained, full))
    drawn = resampled_means([scratch, pretrained, full])
    gaps = drawn[:, 2] - drawn[:, 0]
    gap_low, gap_high = percentiles(gaps)
    words = f"{100 * (top - base):.1f} Dice points (95 % interval {100 * gap_low:.1f} to {100 * gap_high:.1f})"
    made: dict[str, Any] = {"gap": top - base, "gap_low": gap_low, "gap_high": gap_high}
    if not gap_low > 0:
        said = f"the gap to all labels is {words}: no gap can be claimed, so there is no share of it to close"
        return {**made, "share": None, "low": None, "high": None, "sentence": said}
    share = (ours - base) / (top - base)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = percentiles(np.where(gaps > 0, (drawn[:, 1] - drawn[:, 0]) / gaps, np.nan))
    said = f"{share:.0%} of the gap to all labels closed, 95 % interval {low:.0%} to {high:.0%}; the gap is {words}"
    said += ALONE if len(scratch) == 1 else ""
    return {**made, "share": share, "low": low, "high": high, "sentence": said}


def reach(scratch: Curves, pretrained: Curves) -> dict[str, Any]:
    """Iterations after which the pretrained curve first reaches the end of scratch's of the same draw and fold.

    Curves go up and down, so that scratch itself first reaches its end before its end: that is what to compare with.

    Returns:
        runs, how many of them reached it, the median (None: half of them never did), scratch's own median, scratch's
        iterations, a sentence.
    """
    needed = [_first(pretrained[key], curve[-1][1]) for key, curve in scratch.items()]
    middle = float(np.median(needed))
    own = float(np.median([_first(curve, curve[-1][1]) for curve in scratch.values()]))
    total = next(iter(scratch.values()))[-1][0]
    reached = sum(math.isfinite(value) for value in needed)
    said = f"reached scratch's final Dice in {reached} of {len(needed)} runs"
    if math.isfinite(middle):
        said += f", in the median after {middle:g} iterations (scratch itself first after {own:g} of its {total})"
    return {
        "runs": len(needed), "reached": reached, "median": middle if math.isfinite(middle) else None,
        "scratch_median": own if math.isfinite(own) else None, "scratch": total, "sentence": said,
    }  # fmt: skip


def _first(curve: Sequence[tuple[int, float]], goal: float) -> float:
    """The first iteration at which a curve is at least there; infinite where it never is."""
    return next((float(step) for step, value in curve if value >= goal), math.inf)


def mean_curve(curves: Curves) -> list[list[float | None]]:
    """[[iteration, mean, lowest, highest]] over draws and folds."""
    steps = [step for step, _ in next(iter(curves.values()))]
    values = np.array([[value for _, value in curve] for curve in curves.values()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        rows = zip(steps, mean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0), strict=True)
        return [[step, plain(middle), plain(low), plain(high)] for step, middle, low, high in rows]


def mean_ranks(means: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean rank of each arm (1 is best, ties share), over targets and numbers of labels."""
    from scipy.stats import rankdata

    arms = list(means[0])
    ranks = [rankdata([-found[arm] for arm in arms]) for found in means]
    return {arm: float(value) for arm, value in zip(arms, np.mean(ranks, axis=0), strict=True)}


def is_all(labels: str) -> bool:
    """Whether this number of labels is all there are."""
    return labels == ALL
