"""The doctor's rows about the image: channels, spacing, normalisation, intensity statistics and axes.

Nothing else checks these: weights load without a word, and train worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnssl.export.fitted import TargetPlan
from nnssl.export.read import Weights
from nnssl.export.rows import Commands, Row, Verdict

SPACING_NOTE, SPACING_NO = 1.1, 2.0  # ratio of voxel sizes: worth a word; structures look like others
OFFSET_NO, SCALE_NO = 0.25, 1.5  # CT statistics apart by a quarter of a standard deviation, or by half the scale
_END_OF = {letter: axis for axis, ends in enumerate(("RL", "AP", "IS")) for letter in ends}
_CT = "CTNormalization"
_INTENSITIES = "foreground_intensity_properties_per_channel"


def input_rows(weights: Weights, target: TargetPlan, commands: Commands) -> list[Row]:
    """One row a property, normalisation channel by channel."""
    return [
        _channels(weights, target, commands),
        _spacing(weights, target, commands),
        *_normalisation(weights, target, commands),
        _axes(weights, target),
    ]


def _channels(weights: Weights, target: TargetPlan, commands: Commands) -> Row:
    names = weights.provenance.get("channel_names", {})
    known = [str(name) for name in (names.values() if isinstance(names, Mapping) else names)]
    equal = weights.channels == target.channels
    renamed = bool(known and target.channel_names) and [n.lower() for n in known] != [
        n.lower() for n in target.channel_names
    ]
    consequence = "" if equal else "nnU-Net refuses the stem; the export repeats or chooses channels"
    if equal and renamed:
        consequence = "the channels show something else, or come in another order"
    return Row(
        what="input channels",
        weights=f"{weights.channels}{_named(known)}",
        target=f"{target.channels}{_named(target.channel_names)}",
        verdict="no" if not equal else "note" if renamed else "fits",
        consequence=consequence,
        fix=f"{commands.export} --channels repeat" if not equal else "",
    )


def _spacing(weights: Weights, target: TargetPlan, commands: Commands) -> Row:
    learned, chosen = weights.configuration.get("spacing"), target.chosen["spacing"]
    if not isinstance(learned, list | tuple) or len(learned) != 3:
        return Row(what="spacing mm", weights="not said", target=_mm(chosen), verdict="unknown")
    far = max(max(a / b, b / a) for a, b in zip(learned, chosen, strict=True))
    verdict: Verdict = "no" if far > SPACING_NO else "note" if far > SPACING_NOTE else "fits"
    return Row(
        what="spacing mm",
        weights=_mm(learned),
        target=_mm(chosen),
        verdict=verdict,
        consequence=f"structures look up to {far:.2g} times larger or smaller than learned"
        if verdict != "fits"
        else "",
        fix=commands.plan_like if verdict == "no" else "",
    )


def _normalisation(weights: Weights, target: TargetPlan, commands: Commands) -> list[Row]:
    learned = weights.configuration.get("normalization_schemes")
    chosen = target.chosen["normalization_schemes"]
    if not isinstance(learned, list | tuple) or not learned:
        text = ", ".join(chosen)
        return [Row(what="normalisation", weights="not said", target=text, verdict="unknown")]
    rows = []
    for channel, scheme in enumerate(chosen):
        before = learned[channel % len(learned)]
        same = before == scheme
        rows.append(
            Row(
                what=f"normalisation {channel}",
                weights=_scheme(before),
                target=_scheme(scheme),
                verdict="fits" if same else "no",
                consequence="" if same else "the network meets values on another scale, or of another modality",
                fix="" if same else _normalisation_fix(before, scheme, commands),
            )
        )
        if same and scheme == _CT:
            rows.append(_intensities(weights, target, channel, channel % len(learned), commands))
    return rows


def _normalisation_fix(before: str, scheme: str, commands: Commands) -> str:
    if _CT in (before, scheme):
        return "pretrain on scans of the target's modality (CT statistics mean nothing for others)"
    return commands.plan_like


def _intensities(weights: Weights, target: TargetPlan, channel: int, origin: int, commands: Commands) -> Row:
    left, right = (
        plans.get(_INTENSITIES, {}).get(str(index))
        for plans, index in ((weights.plans, origin), (target.plans, channel))
    )
    what = f"CT statistics {channel}"
    if not left or not right:
        return Row(what=what, weights="not said", target=_statistics(right), verdict="unknown")
    offset = abs(left["mean"] - right["mean"]) / max(float(left["std"]), 1e-8)
    scale = math.exp(abs(math.log(max(float(left["std"]), 1e-8) / max(float(right["std"]), 1e-8))))
    far = offset > OFFSET_NO or scale > SCALE_NO
    return Row(
        what=what,
        weights=_statistics(left),
        target=_statistics(right),
        verdict="no" if far else "fits" if left == right else "note",
        consequence=f"the same tissue is shifted by {offset:.2g} SD and scaled by {scale:.2g}" if left != right else "",
        fix=commands.plan_like if far else "",
    )


def _axes(weights: Weights, target: TargetPlan) -> Row:
    """How scans lie, where both sides say it; otherwise the order of axes, which is all that plans know."""
    data = weights.provenance.get("data")
    lay = data.get("orientation") if isinstance(data, Mapping) else None
    if target.orientation and isinstance(lay, str) and len(lay) == 3 and {_END_OF.get(end) for end in lay} == {0, 1, 2}:
        return _orientation(lay, target.orientation)
    learned, chosen = weights.plans.get("transpose_forward"), target.plans.get("transpose_forward")
    if learned is None:
        return Row(what="axis order", weights="not said", target=_list(chosen), verdict="unknown")
    same = list(learned) == list(chosen or [])
    return Row(
        what="axis order",
        weights=_list(learned),
        target=_list(chosen),
        verdict="fits" if same else "no",
        consequence="" if same else "the body lies along other axes than learned (transpose_forward)",
        fix="" if same else "plan with -overwrite_target_spacing so that the same axis is the coarsest",
    )


def _orientation(learned: str, chosen: str) -> Row:
    turned = [_END_OF[letter] for letter in learned] != [_END_OF[letter] for letter in chosen]
    mirrored = learned != chosen and not turned
    consequence, fix = "", ""
    if turned:
        consequence = "the body lies along other axes than learned"
        fix = "turn the data set's scans to the weights' orientation, or pretrain on scans that lie alike"
    elif mirrored:
        sides = " and ".join("DHW"[axis] for axis in range(3) if learned[axis] != chosen[axis])
        consequence = f"along {sides} the body is mirrored against what was learned"
    return Row(
        what="orientation",
        weights=learned,
        target=chosen,
        verdict="no" if turned else "note" if mirrored else "fits",
        consequence=consequence,
        fix=fix,
    )


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _scheme(name: str) -> str:
    return name.removesuffix("Normalization")


def _statistics(found: Mapping[str, float] | None) -> str:
    if not found:
        return "not said"
    low, high = found["percentile_00_5"], found["percentile_99_5"]
    return f"{low:.0f}..{high:.0f}, mean {found['mean']:.0f}, SD {found['std']:.0f}"


def _mm(values: Sequence[float]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def _list(values: Sequence[Any] | None) -> str:
    return "not said" if values is None else " ".join(str(value) for value in values)
