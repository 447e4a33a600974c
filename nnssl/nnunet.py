"""The one door to nnU-Net: what the rest of the package uses of it, imported late.

Importing nnU-Net takes seconds, and its `paths` module reads the environment at import; so nothing here imports it at
module level, and `nnssl.paths` must have set the folders before.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from nnssl.architecture import built, checked
from nnssl.errors import PlanError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn


def build_network(
    architecture: Mapping[str, Any], *, channels: int, classes: int, deep_supervision: bool = False
) -> nn.Module:
    """A freshly initialised network of a plans file's `architecture` block, by nnU-Net's own builder.

    Args:
        architecture: the block with `network_class_name`, `arch_kwargs` and `_kw_requires_import`.
        channels: input channels.
        classes: segmentation outputs.
        deep_supervision: whether forward returns one output per decoder level.

    Raises:
        PlanError: the block names what is no network or layer, or describes one that cannot be built.
    """
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name, arguments, imports = checked(architecture)

    def build(*, initialise: bool) -> nn.Module:
        """The network by nnU-Net's builder, with its initial weights or with whatever torch puts there."""
        network: nn.Module = get_network_from_plans(
            name,
            dict(arguments),
            imports,
            channels,
            classes,
            allow_init=initialise,
            deep_supervision=deep_supervision,
        )
        return network

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        built(lambda: build(initialise=False), lambda network: sum(each.numel() for each in network.parameters()))
    return built(lambda: build(initialise=True))


def primus_trainer(size: str) -> type[Any]:
    """nnU-Net's trainer for a Primus of size "s", "b", "m" or "l".

    Raises:
        PlanError: nnU-Net is installed without what Primus needs.
    """
    try:
        from nnunetv2.training.nnUNetTrainer.primus import primus_trainers
    except (ImportError, RuntimeError) as error:  # a torchvision that does not match torch is a RuntimeError
        raise PlanError(
            f"nnU-Net's Primus needs timm and a torchvision that matches torch ({error}). Install nnunetv2 anew."
        ) from error
    found: type[Any] = getattr(primus_trainers, f"nnUNet_Primus_{size.upper()}_Trainer")
    return found


def build_primus(size: str, *, patch_size: Sequence[int], channels: int, classes: int) -> nn.Module:
    """A freshly initialised Primus, by the very function that nnU-Net's trainer of this size calls.

    Args:
        size: "s", "b", "m" or "l".
        patch_size: D H W, every side a multiple of 8.
        channels: input channels.
        classes: segmentation outputs.

    Raises:
        PlanError: it cannot be built.
    """
    trainer = primus_trainer(size)
    asked = SimpleNamespace(patch_size=tuple(int(side) for side in patch_size))  # all it looks at in a plan
    network: nn.Module = built(
        lambda: trainer.build_network_architecture(None, asked, channels, classes, enable_deep_supervision=False)
    )
    return network


def segmentation_heads(plans: Mapping[str, Any], description: Mapping[str, Any]) -> int:
    """Outputs of a network for the labels of a dataset.json, regions included, as nnU-Net's trainers count them.

    Raises:
        PlanError: dataset.json has no labels that nnU-Net understands.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    try:
        heads: int = PlansManager(dict(plans)).get_label_manager(dict(description)).num_segmentation_heads
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise PlanError(
            f"`labels` of dataset.json of {plans.get('dataset_name')} must say the classes, as nnU-Net's data sets do "
            f"({error!r})."
        ) from error
    return heads


def blosc2_layout(
    shape: Sequence[int], patch_size: Sequence[int], bytes_per_voxel: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Block and chunk shape of a (C, D, H, W) array, as nnU-Net's own store chooses them."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    blocks, chunks = comp_blosc2_params(tuple(shape), tuple(patch_size), bytes_per_voxel)
    return tuple(blocks), tuple(chunks)


def read_images(reader: str, files: Sequence[Path]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """(C, D, H, W) and properties, by nnU-Net's reader class of this name."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    data, properties = recursive_find_reader_writer_by_name(reader)().read_images([str(file) for file in files])
    return data, properties


@lru_cache
def normaliser(scheme: str) -> type[Any]:
    """nnU-Net's normalisation class of this name ("CTNormalization").

    Raises:
        PlanError: nnU-Net has no such class.
    """
    found: type[Any] | None = _class_in("preprocessing/normalization", scheme)
    if found is None:
        raise PlanError(
            f"The plan names the normalisation {scheme!r}, which nnU-Net does not have. Correct the plans file."
        )
    return found


def normalisation_for(channel_name: str) -> str:
    """The class name that nnU-Net chooses for a channel of this name ("CT" -> "CTNormalization")."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    return str(get_normalization_scheme(channel_name).__name__)


def resampling_function(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """nnU-Net's resampling function of this name with its options: f(data, new_shape, spacing, new_spacing).

    Raises:
        PlanError: nnU-Net has no such function.
    """
    found = _class_in("preprocessing/resampling", name)
    if found is None:
        raise PlanError(f"The plan names the resampling function {name!r}, which nnU-Net does not have. Correct it.")
    return partial(found, **options)


def reader_for(description: Mapping[str, Any]) -> str:
    """Name of the reader class that nnU-Net would use for a data set with this dataset.json.

    Raises:
        PlanError: nnU-Net reads no files of this ending.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    wanted = str(description.get("overwrite_image_reader_writer", None))
    if wanted != "None":
        description = {**description, "overwrite_image_reader_writer": wanted}
    try:
        found = str(determine_reader_writer_from_dataset_json(dict(description), verbose=False).__name__)
    except RuntimeError as error:
        raise PlanError(
            f"nnU-Net reads no files that end in {description['file_ending']!r} (file_ending of dataset.json). Convert "
            f"the scans to .nii.gz."
        ) from error
    if wanted not in ("None", found):  # nnU-Net would take another in its place
        raise PlanError(
            f"nnU-Net has no reader {wanted!r} (overwrite_image_reader_writer of dataset.json). Leave the key out; "
            f"nnU-Net would use {found}."
        )
    return found


def make_plans(
    planner: str,
    dataset: str,
    description: Mapping[str, Any],
    *,
    plans_name: str,
    reader: str,
    spacing_mm: Sequence[float] | None,
) -> dict[str, Any]:
    """The plans that nnU-Net's planner class makes from the fingerprint in the preprocessed folder; writes nothing.

    Args:
        planner: class name ("ExperimentPlanner", "nnUNetPlannerResEncM").
        dataset: "Dataset745_Thorax".
        description: dataset.json with `labels` and `numTraining`.
        plans_name: goes into the plans and their data identifiers.
        reader: class name of the image reader.
        spacing_mm: in place of the median spacing, in the order of the files' axes; None: the planner's choice.

    Raises:
        UsageError: no planner of this name.
        PlanError: it finds no plan for these sizes and spacings.
    """
    planner_class = _class_in("experiment_planning/experiment_planners", planner)
    if planner_class is None:
        raise UsageError(
            f"nnU-Net has no planner {planner!r}. Known are ExperimentPlanner, nnUNetPlannerResEncM, "
            f"nnUNetPlannerResEncL and nnUNetPlannerResEncXL."
        )
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    listed = description.get("dataset", {})
    if any("label" not in entry for entry in listed.values()):
        raise PlanError(
            f'nnU-Net\'s planner asks for "label" beside "images" in the list "dataset" of dataset.json of {dataset}. '
            f'Write "label": "" there for cases without labels.'
        )
    wanted = None if spacing_mm is None else [float(side) for side in spacing_mm]
    # planners print several screens about their search
    with contextlib.redirect_stdout(io.StringIO()):
        made = planner_class(dataset, plans_name=plans_name, overwrite_target_spacing=wanted)
        made.dataset_json = dict(description)
        # the planner would open the first image with every reader until one works; that image may be a bad one
        made.determine_reader_writer = lambda: recursive_find_reader_writer_by_name(reader)
        made.save_plans = lambda plans: None
        # ResEnc planners share nnUNetPlans' data, which may be stock nnU-Net's with other normalisation
        made.generate_data_identifier = lambda configuration: f"{plans_name}_{configuration}"
        try:
            plans: dict[str, Any] = made.plan_experiment()
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise PlanError(
                f"nnU-Net's {planner} finds no plan for {dataset} ({error!r}). Check its spacing and sizes in "
                f"dataset_fingerprint.json, or give a spacing that suits them with -overwrite_target_spacing."
            ) from error
        recursive_fix_for_json_export(plans)
    return plans


def _class_in(folder: str, name: str) -> Any:
    """A class or function of nnU-Net's by name, searched as nnU-Net searches; None if it has none."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    module = "nnunetv2." + folder.replace("/", ".")
    found = recursive_find_python_class(str(Path(nnunetv2.__path__[0]) / folder), name, module)
    # its modules also hold what they import; a name in a plan must not lead there
    return found if str(getattr(found, "__module__", "")).startswith("nnunetv2.") else None
