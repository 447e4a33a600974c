"""A plan for a labelled data set that given pretrained weights fit.

The architecture is the weights'. Spacing, normalisation and patch can come from either side: by default from the
pretraining, since features learned at one voxel size and intensity scale mean less at another. Every choice is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nnssl.errors import PlanError
from nnssl.views.spec import Size

CONFIGURATION = "3d_fullres"
WEIGHTS, DATA_SET = "the weights", "the data set"
_MIN_CELLS = 8  # bottleneck cells: instance norm needs more than one
_MAX_SHARE = 0.05  # of the data set's voxels in one batch, nnU-Net's bound against overfitting
_MUCH_SMALLER = 4.0  # times fewer voxels in the patch than the target's own planner would take
_FAR = 2.0  # ratio of voxel sizes from which structures look like others


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One line of the account: `what` got `value` from `side`, and `why`, or what else there was."""

    what: str
    value: str
    side: str
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class LikePlan:
    """A plans file and how it came about."""

    plans: dict[str, Any]
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What the target keeps of its own plan."""

    spacing: bool = False
    normalization: bool = False
    patch: bool = False


def default_name(pretrain: Mapping[str, Any], keep: Keep) -> str:
    """Name of the plan, the same for all weights of one pretraining plan, so that they share preprocessed cases.

    Example:
        >>> default_name({"plans_name": "nnsslPlans", "dataset_name": "Dataset745_Chest"}, Keep(spacing=True))
        'nnsslPlansLike745OwnSpacing'
    """
    own = "".join(f"Own{part.capitalize()}" for part in ("spacing", "normalization", "patch") if getattr(keep, part))
    number = pretrain["dataset_name"].removeprefix("Dataset").split("_")[0]
    return f"{pretrain['plans_name']}Like{number}{own}"


def plan_like(
    pretrain: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    name: str,
    keep: Keep,
    natural_spacing_mm: Sequence[float],
    cases: int,
) -> LikePlan:
    """Merge the plan of a pretraining with the target's own.

    Args:
        pretrain: plans file of the pretraining, with one configuration.
        own: the target's own plans file.
        name: of the new plans file.
        keep: what to take from `own`.
        natural_spacing_mm: the target's own spacing, D H W.
        cases: number of training cases of the target.

    Raises:
        PlanError: the two plans' channel counts differ.
    """
    (learned,) = pretrain["configurations"].values()
    chosen = deepcopy(own["configurations"][CONFIGURATION])
    made = {key: deepcopy(value) for key, value in own.items() if key != "configurations"}
    strides = _total_stride(learned)
    if not keep.spacing:
        _set_spacing(chosen, learned["spacing"])
    patch = _patch(learned, chosen, strides, keep)
    chosen.update(
        data_identifier=f"{name}_{CONFIGURATION}",
        architecture=deepcopy(learned["architecture"]),
        patch_size=list(patch),
        batch_size=_batch_size(learned, patch, chosen["median_image_size_in_voxels"], cases),
    )
    for link in ("next_stage", "previous_stage", "inherits_from"):
        chosen.pop(link, None)
    normalization, warnings = _normalization(pretrain, learned, chosen, made, keep)
    made.update(plans_name=name, configurations={CONFIGURATION: chosen})
    spacing = _spacing_choice(learned, chosen, natural_spacing_mm, keep)
    warnings += _spacing_warnings(learned["spacing"], chosen["spacing"], natural_spacing_mm)
    planned = math.prod(own["configurations"][CONFIGURATION]["patch_size"])
    if planned > _MUCH_SMALLER * math.prod(patch):
        warnings.append(
            f"The patch {_voxels(patch)} sees {planned / math.prod(patch):.0f} times less than nnU-Net would choose "
            f"here; --keep_patch takes the data set's own."
        )
    network = learned["architecture"]
    kind = str(network["network_class_name"]).rsplit(".", 1)[-1]
    choices = (
        Choice(what="architecture", value=f"{kind}, {network['arch_kwargs']['n_stages']} stages", side=WEIGHTS),
        spacing,
        *normalization,
        _patch_choice(learned, own, patch, strides, keep),
        Choice(
            what="batch size",
            value=str(chosen["batch_size"]),
            side="both sides",
            why="memory of the pretraining's plan",
        ),
    )
    return LikePlan(plans=made, choices=choices, warnings=tuple(warnings))


def _total_stride(configuration: Mapping[str, Any]) -> Size:
    per_axis = zip(*configuration["architecture"]["arch_kwargs"]["strides"], strict=True)
    depth, height, width = (math.prod(int(step) for step in steps) for steps in per_axis)
    return (depth, height, width)


def _set_spacing(chosen: dict[str, Any], spacing_mm: Sequence[float]) -> None:
    old = zip(chosen["median_image_size_in_voxels"], chosen["spacing"], spacing_mm, strict=True)
    chosen["median_image_size_in_voxels"] = [side * before / after for side, before, after in old]
    chosen["spacing"] = [float(side) for side in spacing_mm]


def _patch(learned: Mapping[str, Any], chosen: Mapping[str, Any], strides: Size, keep: Keep) -> Size:
    """The wanted patch, no larger than the median case needs, every side a multiple of the total stride.

    The bound is rounded up, as nnU-Net does (it pads cases that are smaller than the patch).
    """
    wanted = chosen["patch_size"] if keep.patch else learned["patch_size"]
    median = chosen["median_image_size_in_voxels"]
    cells = [
        max(1, min(round(side / stride), math.ceil(bound / stride)))
        for side, bound, stride in zip(wanted, median, strides, strict=True)
    ]
    while math.prod(cells) < _MIN_CELLS:
        cells[cells.index(min(cells))] += 1
    return (cells[0] * strides[0], cells[1] * strides[1], cells[2] * strides[2])


def _batch_size(learned: Mapping[str, Any], patch: Size, median: Sequence[float], cases: int) -> int:
    """As many patches as fit where the pretraining plan's batch fitted, at least nnU-Net's minimum of 2."""
    voxels = math.prod(patch)
    fitting = int(learned["batch_size"]) * math.prod(learned["patch_size"]) // voxels
    covering = round(_MAX_SHARE * math.prod(median) * cases / voxels)
    return int(max(2, min(fitting, covering)))


def _normalization(
    pretrain: Mapping[str, Any], learned: Mapping[str, Any], chosen: dict[str, Any], made: dict[str, Any], keep: Keep
) -> tuple[list[Choice], list[str]]:
    """Choose scheme and intensity statistics channel by channel; changes `chosen` and `made`.

    The mask flag stays the target's own: it follows from the target's background, not from what the network learned.
    """
    theirs, own = learned["normalization_schemes"], chosen["normalization_schemes"]
    if len(theirs) != len(own):
        raise PlanError(f"The weights take {len(theirs)} channels, {made['dataset_name']} has {len(own)}.")
    choices, warnings = [], []
    for channel, (wanted, natural) in enumerate(zip(theirs, own, strict=True)):
        what = f"normalisation of channel {channel}"
        one_is_ct = (wanted == "CTNormalization") != (natural == "CTNormalization")
        if keep.normalization or one_is_ct:
            choices.append(Choice(what=what, value=natural, side=DATA_SET, why=f"the weights learned with {wanted}"))
            if one_is_ct:
                warnings.append(
                    f"Channel {channel} was pretrained with {wanted} and {made['dataset_name']} needs {natural} (CT "
                    f"against another modality): expect less from these weights."
                )
            continue
        chosen["normalization_schemes"][channel] = wanted
        why = "the same scheme" if wanted == natural else f"the data set's own would be {natural}"
        if wanted == "CTNormalization":
            statistics = pretrain["foreground_intensity_properties_per_channel"][str(channel)]
            made["foreground_intensity_properties_per_channel"][str(channel)] = deepcopy(statistics)
            why = _ct_sentence(statistics)
        choices.append(Choice(what=what, value=wanted, side=WEIGHTS, why=why))
    return choices, warnings


def _ct_sentence(statistics: Mapping[str, float]) -> str:
    return (
        f"CT statistics of the pretraining too: clip to [{statistics['percentile_00_5']:.0f}, "
        f"{statistics['percentile_99_5']:.0f}] HU, minus {statistics['mean']:.0f}, over {statistics['std']:.0f}"
    )


def _spacing_choice(
    learned: Mapping[str, Any], chosen: Mapping[str, Any], natural_mm: Sequence[float], keep: Keep
) -> Choice:
    value = f"{_mm(chosen['spacing'])} mm"
    if keep.spacing:
        return Choice(what="spacing", value=value, side=DATA_SET, why=f"pretrained at {_mm(learned['spacing'])}")
    return Choice(what="spacing", value=value, side=WEIGHTS, why=f"the data set's own would be {_mm(natural_mm)}")


def _spacing_warnings(
    learned_mm: Sequence[float], chosen_mm: Sequence[float], natural_mm: Sequence[float]
) -> list[str]:
    warnings = []
    ratios = [c / p for c, p in zip(chosen_mm, learned_mm, strict=True)]
    if max(max(ratios), 1 / min(ratios)) > _FAR:
        warnings.append(
            f"At {_mm(chosen_mm)} mm structures look up to {max(max(ratios), 1 / min(ratios)):.1f} times larger or "
            f"smaller than in pretraining ({_mm(learned_mm)} mm); without --keep_spacing they would not."
        )
    finer = [n / c for n, c in zip(natural_mm, chosen_mm, strict=True)]
    if min(finer) < 1 / _FAR:
        warnings.append(
            f"Resampling from {_mm(natural_mm)} to {_mm(chosen_mm)} mm loses detail that small structures may need; "
            f"--keep_spacing keeps it."
        )
    elif math.prod(finer) > _FAR**3:
        warnings.append(
            f"Resampling from {_mm(natural_mm)} to {_mm(chosen_mm)} mm makes {math.prod(finer):.0f} times more voxels; "
            f"--keep_spacing avoids it."
        )
    return warnings


def _patch_choice(learned: Mapping[str, Any], own: Mapping[str, Any], patch: Size, strides: Size, keep: Keep) -> Choice:
    planned = own["configurations"][CONFIGURATION]["patch_size"]
    other = f"pretrained with {_voxels(learned['patch_size'])}" if keep.patch else f"own would be {_voxels(planned)}"
    why = f"multiples of {_voxels(strides)}, no larger than the median case needs; {other}"
    return Choice(what="patch", value=_voxels(patch), side=DATA_SET if keep.patch else WEIGHTS, why=why)


def _mm(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)


def _voxels(values: Sequence[int]) -> str:
    return "x".join(str(int(value)) for value in values)
