"""From nnU-Net's plans to what a method may know of them, and the checks that spare a late crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnssl.data.requirements import check_spec
from nnssl.encoders.pyramid import cumulative_strides
from nnssl.engine.recipe import Recipe
from nnssl.errors import PlanError, RecipeError
from nnssl.method import Needs, PlanInfo
from nnssl.views.spec import Size, ViewSpec


def plan_info(configuration: Mapping[str, Any], *, channels: int, patch_size: Size | None = None) -> PlanInfo:
    """What a method may know of a plan.

    Args:
        configuration: one configuration of a plans file, with what it inherits.
        channels: input channels.
        patch_size: D H W that replaces the plan's.

    Raises:
        PlanError: a 2D plan, a patch that the strides do not divide, or a plan that lacks something.
    """
    try:
        return _plan_info(configuration, channels, patch_size)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PlanError(
            f"This configuration of the plans file lacks or garbles something ({error!r}). Restore the file, or plan "
            f"again."
        ) from error


def _plan_info(configuration: Mapping[str, Any], channels: int, patch_size: Size | None) -> PlanInfo:
    patch = tuple(int(side) for side in (patch_size or configuration["patch_size"]))
    if len(patch) != 3:
        raise PlanError(
            f"Pretraining needs a 3D configuration; this one has the patch {patch}. Use 3d_fullres or 3d_lowres."
        )
    network = configuration["architecture"]["arch_kwargs"]
    if "3d" not in str(network.get("conv_op", "3d")).lower():
        raise PlanError(f"Pretraining needs a 3D network; this plan's conv_op is {network['conv_op']}. Use 3d_fullres.")
    if "strides" not in network or "features_per_stage" not in network:
        raise PlanError(
            f"Pretraining needs one of nnU-Net's convolutional U-Nets; the plan has "
            f"{configuration['architecture']['network_class_name']}. "
            f"Plan with nnU-Net's default planner or a ResEnc one."
        )
    strides = cumulative_strides(network["strides"])
    features = network["features_per_stage"]
    if isinstance(features, int):
        features = [features * 2**stage for stage in range(len(strides))]
    check_sides("patch_size", (patch[0], patch[1], patch[2]), strides[-1])
    spacing = configuration["spacing"]
    return PlanInfo(
        patch_size=(patch[0], patch[1], patch[2]),
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        strides=strides,
        features=tuple(int(width) for width in features),
        channels=channels,
    )


def check_sides(what: str, size: Size, stride: Size) -> None:
    """Refuse a size that the total stride does not divide.

    Raises:
        PlanError: with the nearest size that it does.
    """
    if any(side % step for side, step in zip(size, stride, strict=True)):
        good = tuple(max(step, side // step * step) for side, step in zip(size, stride, strict=True))
        raise PlanError(
            f"{what} {size} must be divisible by the network's total stride {stride} axis by axis; use {good}."
        )


def check_views(spec: ViewSpec, plan: PlanInfo, needs: Needs) -> None:
    """Refuse views that contradict themselves or the method's needs, or that the encoder would round in silence.

    Raises:
        PluginError: as `nnssl.data.requirements.check_spec`.
        PlanError: naming the group.
    """
    check_spec(spec, needs)
    for group in spec.groups:
        check_sides(f"The size of the views {group.name!r}", group.size, spec.stride or plan.total_stride)


def check_batch(needs: Needs, recipe: Recipe, *, ranks: int) -> None:
    """Refuse a batch that gives the loss no meaning.

    Raises:
        RecipeError: too few cases in a micro-batch, an uneven number of boxes a case, or accumulation of a loss that
            mixes samples.
    """
    if needs.batch_coupled and recipe.accumulate > 1:
        raise RecipeError(
            f"accumulate must be 1 for this method (it is {recipe.accumulate}): its loss mixes the samples of a batch, "
            f"so that several micro-batches would be another loss. Use a smaller batch_size or more GPUs (-num_gpus)."
        )
    # A loss that gathers sees all ranks at once; any other sees one rank's part of one micro-batch.
    seen = recipe.batch_size if needs.batch_coupled else recipe.batch_size // (recipe.accumulate * ranks)
    boxes = needs.samples_per_case
    if recipe.batch_size % boxes or (not needs.batch_coupled and seen % boxes):
        raise RecipeError(
            f"batch_size ({recipe.batch_size}, {seen} at a time) must be a multiple of {boxes}: this method draws "
            f"{boxes} boxes of every case. Use batch_size={boxes * recipe.accumulate * ranks}."
        )
    if seen // boxes < needs.min_cases:
        least = needs.min_cases * boxes * (1 if needs.batch_coupled else recipe.accumulate * ranks)
        raise RecipeError(
            f"The loss of this method needs at least {needs.min_cases} cases at a time; batch_size {recipe.batch_size} "
            f"gives it {seen // boxes} (ranks {ranks}, accumulate {recipe.accumulate}, boxes a case {boxes}). "
            f"Use batch_size={least} or more."
        )
