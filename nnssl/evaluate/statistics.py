"""Does it help? Dice, paired intervals over cases, and sentences that claim no more than the interval allows.

Intervals are over the test cases of one pair of runs. They do not count how much a run varies with its seed and its few
labelled cases; where several runs were made, give their mean per case, or treat runs as the units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from nnssl.errors import DataError

FEWEST_CASES = 6  # with 5 pairs no two-sided signed-rank test can reach p < 0.05 (the least is 2 / 2^5 = 0.0625)
RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.8

Labels = npt.NDArray[np.integer]
Numbers = npt.NDArray[np.float64]


def dice_per_class(prediction: Labels, truth: Labels, classes: Sequence[int]) -> dict[int, float]:
    """Dice = 2 |P and T| / (|P| + |T|) of every class, 0 to 1.

    A class that neither map has is NaN and counts nowhere, as in nnU-Net; one that only one of them has is 0.

    Args:
        prediction: label map, any shape.
        truth: label map of the same shape; negative labels are unknown and left out.
        classes: the labels to compare, usually without the background.

    Raises:
        DataError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise DataError(f"Label maps must have one shape to be compared; found {prediction.shape} and {truth.shape}.")
    known = truth >= 0
    scores = {}
    for label in classes:
        predicted, true = (prediction == label) & known, truth == label
        size = int(predicted.sum()) + int(true.sum())
        scores[label] = 2 * int((predicted & true).sum()) / size if size else math.nan
    return scores


def mean_dice(scores: Mapping[int, float]) -> float:
    """Mean over the classes of a case that count; NaN if none does."""
    counted = [score for score in scores.values() if not math.isnan(score)]
    return math.fsum(counted) / len(counted) if counted else math.nan


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What pairs of cases say about b against a; all numbers in the unit of the scores.

    Attributes:
        gain: mean of b - a.
        low: lower end of the bootstrap interval of that mean.
        high: upper end.
        p_value: two-sided Wilcoxon signed-rank test; 1 where nothing differs.
        smallest_gain: the least true gain that this many cases would have shown with a chance of 80 %.
        cases: pairs that counted.
        left_out: pairs without a score on one side.
    """

    gain: float
    low: float
    high: float
    p_value: float
    smallest_gain: float
    cases: int
    left_out: int = 0

    @property
    def verdict(self) -> str:
        """ "gain", "loss", or "none" where no difference can be claimed."""
        if self.cases < FEWEST_CASES or self.low <= 0 <= self.high:
            return "none"
        return "gain" if self.low > 0 else "loss"

    def sentence(self, *, what: str = "Dice points", factor: float = 100.0, units: str = "cases") -> str:
        """The comparison in words, e.g. "gain +1.2 Dice points, 95 % interval -0.3 to +2.7 over 20 cases: ...".

        Args:
            what: name of the unit.
            factor: from scores to that unit.
            units: what the pairs are.
        """
        gain, low, high, least = (factor * x for x in (self.gain, self.low, self.high, self.smallest_gain))
        interval = f"{CONFIDENCE:.0%} interval".replace("%", " %")
        start = f"gain {gain:+.1f} {what}, {interval} {low:+.1f} to {high:+.1f} over {self.cases} {units}"
        start += f" ({self.left_out} more without a score on one side)" if self.left_out else ""
        if self.cases < FEWEST_CASES:
            return f"{start}: too few {units} for a claim (at least {FEWEST_CASES} are needed)"
        claim = {
            "gain": "a gain",
            "loss": "a loss",
            "none": f"no difference can be claimed (this many {units} would show one of {least:.1f} or more)",
        }[self.verdict]
        return f"{start}: {claim}"


def compare(
    a: Sequence[float], b: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Comparison:
    """Compare the scores of the same cases, in the same order, under a (the baseline) and b.

    Raises:
        DataError: different numbers of scores, or fewer than two pairs without NaN.
    """
    if len(a) != len(b):
        raise DataError(f"A paired comparison needs the same cases on both sides; found {len(a)} and {len(b)} scores.")
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    counted = differences[np.isfinite(differences)]
    if len(counted) < 2:
        raise DataError(f"A paired comparison needs at least 2 cases with scores on both sides; found {len(counted)}.")
    low, high = bootstrap_interval(counted, seed=seed, resamples=resamples, confidence=confidence)
    return Comparison(
        gain=float(counted.mean()),
        low=low,
        high=high,
        p_value=wilcoxon_p(counted),
        smallest_gain=smallest_gain(counted, confidence=confidence),
        cases=len(counted),
        left_out=len(differences) - len(counted),
    )


def bootstrap_interval(
    differences: Numbers, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over cases (Efron and Tibshirani 1993, chapter 13), see `widened`.

    Args:
        differences: (n,) paired differences.
        seed: of the resampling.
        resamples: how many times n cases are drawn with replacement.
        confidence: 0 to 1.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(differences), size=(resamples, len(differences)))
    (values,) = widened(differences[None], confidence=confidence)
    return percentiles(values[drawn].mean(axis=1), confidence=confidence)


def two_way_interval(
    differences: Numbers, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean where runs and cases both vary: both are drawn with replacement.

    With one run it is the interval over cases. Few runs and few cases are made to differ more first, see `widened`.

    Args:
        differences: (R, n) paired differences of R runs on n cases; NaN does not count.
        seed: of the resampling.
        resamples: how often.
        confidence: 0 to 1.

    Returns:
        (low, high); both NaN where nothing counts.
    """
    means = resampled_means([differences], seed=seed, resamples=resamples, confidence=confidence)[:, 0]
    return percentiles(means, confidence=confidence)


def percentiles(values: Numbers, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The ends of the middle `confidence` of `values`; NaN values do not count."""
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def resampled_means(
    tables: Sequence[Numbers], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Numbers:
    """(resamples, len(tables)) means of tables whose runs and cases are drawn with replacement, alike in all of them.

    The pigeonhole bootstrap (Owen 2007, "The pigeonhole bootstrap"), for what is made of several means.

    Args:
        tables: (R, n) each; NaN does not count.
        seed: of the resampling.
        resamples: how often.
        confidence: that of the interval the means will be used for, 0 to 1.
    """
    runs, cases = tables[0].shape
    row_counts, column_counts = _counts(runs, cases, resamples, seed)
    means = np.empty((resamples, len(tables)))
    for index, table in enumerate(tables):
        counted = np.isfinite(table).astype(np.float64)
        values = np.nan_to_num(widened(table, confidence=confidence))
        total = ((row_counts @ (values * counted)) * column_counts).sum(axis=1)
        weight = ((row_counts @ counted) * column_counts).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[:, index] = total / weight
    return means


@lru_cache(maxsize=4)
def _counts(runs: int, cases: int, resamples: int, seed: int) -> tuple[Numbers, Numbers]:
    """How often each run (resamples, R) and each case (resamples, n) is drawn; reports ask for the same ones often."""
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(runs, np.full(runs, 1 / runs), resamples).astype(np.float64)
    return rows, rng.multinomial(cases, np.full(cases, 1 / cases), resamples).astype(np.float64)


def widened(table: Numbers, *, confidence: float = CONFIDENCE) -> Numbers:
    """The table with runs (rows) and cases (columns) farther from their mean, so that few give a wide enough interval.

    A bootstrap over n of them sees sqrt((n-1)/n) of their spread, and takes it for known. The factor
    sqrt(n/(n-1)) t_{n-1} / z mends both: with three it is 2.7, with six 1.4, with twenty 1.1 (Hesterberg 2015,
    arXiv:1411.5279, section 4, where the quantiles are moved instead). The mean stays; one alone cannot be moved.
    """
    moved = table.astype(np.float64)
    counted = np.isfinite(table)
    values, cells = np.where(counted, table, 0.0), counted.sum()
    for axis, number in enumerate(table.shape):
        if number > 1 and cells:
            level = (1 + confidence) / 2
            factor = t_quantile(level, number - 1) / NormalDist().inv_cdf(level) * math.sqrt(number / (number - 1))
            held = counted.sum(axis=1 - axis, keepdims=True)
            means = values.sum(axis=1 - axis, keepdims=True) / np.maximum(held, 1)
            moved += (factor - 1) * (means - values.sum() / cells)
    return moved


def wilcoxon_p(differences: Numbers) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; zero differences are left out, as Wilcoxon did."""
    from scipy.stats import wilcoxon

    if not np.any(differences):
        return 1.0
    return float(wilcoxon(differences, zero_method="wilcox").pvalue)


def smallest_gain(differences: Numbers, *, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """The least true mean difference that a two-sided test on so many such cases finds with the given power.

    (z_{1-alpha/2} + z_{power}) s / sqrt(n), normal approximation; s is the standard deviation of the differences.
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return float(z * differences.std(ddof=1) / math.sqrt(len(differences)))


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    return float(stdtrit(freedom, probability))
