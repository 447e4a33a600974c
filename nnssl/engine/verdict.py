"""A traffic light on collapse, with the cause and the cure in words.

Each threshold stands with its source or its reason. Nothing is red
before the network has been trained: an untrained nnU-Net encoder looks collapsed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

UNIFORM_ENTROPY = 0.98  # H / ln K: a DeSD run stuck at uniform measured 6.88 / 6.93 = 0.993
UNIFORM_KL = 0.02  # KL / ln K. A uniform student is (1 - H / ln K) away from its teacher: less than this above 0.98
POINT_ENTROPY = 0.05  # H / ln K: an average of 1.5 prototypes a sample at K = 4096
CONSTANT_STD = 0.01  # feature std: all cosines above 0.9999; an untrained encoder, pooled, has 0.03 to 0.08
LOW_RANK = 1.5  # RankMe: a constant with a little noise has 1.2
RANK_LOSS = 0.5  # share of the untrained RankMe below which the loss of dimensions is told
DENSE_DECAY = 1.25  # times the untrained error: dense features decay while the loss still falls (DINOv3)
LOSS_SHARE = 0.5  # a measure that should stay is told when it fell to this share of the untrained one

Values = Mapping[str, float]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: `light` is "yellow" (look at it) or "red" (collapsed)."""

    light: str
    sentence: str


def findings(values: Values, *, baseline: Values, previous: Values) -> list[Finding]:
    """What is wrong with a trained network, the worst first.

    Args:
        values: as `HealthProbe.measure` names them; what was not measured may be absent or NaN.
        baseline: the same of the network at step 0.
        previous: the same at the measurement before this one.
    """
    checks: Sequence[Callable[[Values, Values, Values], Finding | None]] = (_teacher, _features, _rank, _dense)
    found = [finding for check in checks if (finding := check(values, baseline, previous)) is not None]
    return sorted(found, key=lambda finding: finding.light != "red")


def _teacher(values: Values, baseline: Values, previous: Values) -> Finding | None:
    entropy, kl = values.get("teacher_entropy"), values.get("teacher_kl_share")
    if entropy is None:
        return None
    if entropy < POINT_ENTROPY:
        return _sharp(entropy, values.get("prototypes_used", 1.0))
    if entropy <= UNIFORM_ENTROPY:
        return None
    if kl is not None and kl < UNIFORM_KL:
        return Finding(
            "red",
            f"The loss equals ln K (teacher entropy {entropy:.1%} of it, KL {values['teacher_kl']:.2g} nats): uniform "
            f"collapse, no sample differs from another. Lower the teacher temperature, raise the teacher momentum, "
            f"normalise what goes into the head (batch norm), or lower the learning rate if this came of training.",
        )
    return Finding(
        "yellow",
        f"The teacher's entropy is {entropy:.1%} of ln K, close to uniform. If it stays there, lower the teacher "
        f"temperature.",
    )


def _sharp(entropy: float, used: float) -> Finding:
    if used < 2:
        return Finding(
            "red",
            f"The teacher's entropy is {entropy:.1%} of ln K and {used:.1f} prototypes are in use: point collapse, "
            f"every sample falls on the same one. Raise the teacher temperature, or check that centring is on.",
        )
    return Finding(
        "yellow",
        f"The teacher's entropy is {entropy:.1%} of ln K: it puts nearly all on one prototype a sample ({used:.0f} in "
        f"use). Raise the teacher temperature if the loss nears 0.",
    )


def _features(values: Values, baseline: Values, previous: Values) -> Finding | None:
    std = values.get("feature_std")
    if std is None or not std < CONSTANT_STD:
        return None
    before = baseline.get("feature_std", float("inf"))
    if std < LOSS_SHARE * before:
        return Finding(
            "red",
            f"The features hardly depend on the image (std {std:.2g} of isotropic, {before:.2g} at the start): "
            f"constant collapse. Lower the learning rate, or strengthen what keeps samples apart (negatives, centre).",
        )
    return Finding(
        "yellow", f"The features hardly depend on the image (std {std:.2g} of isotropic), as little as at the start."
    )


def _rank(values: Values, baseline: Values, previous: Values) -> Finding | None:
    rank, before = values.get("rankme"), baseline.get("rankme")
    if rank is None or before is None or not rank < RANK_LOSS * before or not rank <= previous.get("rankme", rank):
        return None
    light = "red" if rank < LOW_RANK else "yellow"
    return Finding(
        light,
        f"The features use {rank:.1f} dimensions (RankMe), {before:.1f} at the start, and are losing more: dimensional "
        f"collapse. Lower the learning rate or the weight decay, or widen the views' differences.",
    )


def _dense(values: Values, baseline: Values, previous: Values) -> Finding | None:
    error, before = values.get("dense_mm"), baseline.get("dense_mm")
    if error is None or before is None or not error > DENSE_DECAY * before:
        return None
    return Finding(
        "yellow",
        f"Dense correspondence errs by {error:.1f} mm, more than at the start ({before:.1f} mm): the dense "
        f"features decay. An earlier state may segment better than the last one.",
    )
