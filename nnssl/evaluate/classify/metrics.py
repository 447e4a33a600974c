"""How well classes were told apart, with intervals from drawing subjects with replacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.evaluate.statistics import CONFIDENCE, FEWEST_CASES

RESAMPLES = 1000
METRICS = ("auc", "accuracy", "balanced_accuracy")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What was predicted for some images.

    Attributes:
        probabilities: (n, K), rows sum to 1.
        labels: (n,) index of the class.
        subjects: (n,) whose images.
    """

    probabilities: Floats
    labels: Ints
    subjects: Sequence[str]


def metrics(probabilities: Floats, labels: Ints) -> dict[str, float]:
    """{name of `METRICS`: 0 to 1}.

    The AUC of two classes is that of the second one; of more, the mean over classes of one against the rest. Balanced
    accuracy is the mean over classes of the share found.

    Args:
        probabilities: (n, K).
        labels: (n,), every class among them.
    """
    classes = probabilities.shape[1]
    chosen = probabilities.argmax(axis=1)
    found = [float((chosen[labels == k] == k).mean()) for k in range(classes)]
    one_against_rest = [auc(probabilities[:, k], labels == k) for k in range(classes)]
    return {
        "auc": float(one_against_rest[1] if classes == 2 else np.mean(one_against_rest)),
        "accuracy": float((chosen == labels).mean()),
        "balanced_accuracy": float(np.mean(found)),
    }


def auc(scores: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Share of pairs of a positive and a negative image whose scores are in order; a tie counts a half.

    The rank sum of Mann and Whitney: scikit-learn's function gives the same, some twenty times slower, and intervals
    need thousands.

    Args:
        scores: (n,).
        positive: (n,), some of them true and some false.
    """
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # from 1, ties share their mean rank
    ones, zeros = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def with_intervals(networks: dict[str, Predicted], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Figures of every network with intervals over subjects, and the difference of the first one to the second.

    Subjects are drawn with replacement, each with all its images, the same for all networks. Draws that miss a class
    have no AUC and are left out.

    Args:
        networks: {name: predictions}, of the same images in the same order; the second one is the baseline.
        seed: of the draws.
        resamples: how many.
    """
    first = next(iter(networks.values()))
    rows = [np.flatnonzero(np.array(first.subjects) == name) for name in sorted(set(first.subjects))]
    rng = np.random.default_rng(seed)
    classes = first.probabilities.shape[1]
    drawn: dict[str, list[list[float]]] = {name: [] for name in networks}
    for _ in range(resamples):
        sample = np.concatenate([rows[index] for index in rng.integers(0, len(rows), len(rows))])
        if len(np.unique(first.labels[sample])) == classes:
            for name, one in networks.items():
                drawn[name].append([*metrics(one.probabilities[sample], one.labels[sample]).values()])
    report: dict[str, Any] = {"images": len(first.labels), "subjects": len(rows), "networks": {}}
    for name, one in networks.items():
        values = metrics(one.probabilities, one.labels)
        report["networks"][name] = {
            metric: {"value": values[metric], **_interval([draw[column] for draw in drawn[name]])}
            for column, metric in enumerate(METRICS)
        }
    if len(networks) > 1:
        trained, baseline = list(networks)[:2]
        differences = [a[0] - b[0] for a, b in zip(drawn[trained], drawn[baseline], strict=True)]
        gain = report["networks"][trained]["auc"]["value"] - report["networks"][baseline]["auc"]["value"]
        report["difference"] = {"gain": gain, **_interval(differences)}
        report["difference"]["sentence"] = sentence(report["difference"], len(rows))
    return report


def sentence(difference: dict[str, float], subjects: int) -> str:
    """The difference in words; it claims no more than its interval."""
    low, high = difference["low"], difference["high"]
    text = (
        f"gain {difference['gain']:+.3f} AUC, {100 * CONFIDENCE:.0f} % interval {low:+.3f} to {high:+.3f} over "
        f"{subjects} subjects"
    )
    if subjects < FEWEST_CASES:
        return f"{text}: too few subjects for a claim (at least {FEWEST_CASES} are needed)"
    if not low <= 0 <= high and np.isfinite(low):
        return f"{text}: a {'gain' if low > 0 else 'loss'}"
    return f"{text}: no difference can be claimed"


def _interval(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"low": float("nan"), "high": float("nan")}
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return {"low": float(low), "high": float(high)}
