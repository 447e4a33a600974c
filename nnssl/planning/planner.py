"""Plans files: made from the fingerprint by nnU-Net's planners, or taken over from the data set to be fine-tuned."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.errors import PlanError, UsageError
from nnssl.planning.cases import RawDataset

Plans = dict[str, Any]
CONFIGURATIONS = ("3d_fullres", "3d_lowres")


def planned(
    dataset: RawDataset,
    *,
    planner: str,
    plans_name: str,
    spacing_mm: Sequence[float] | None = None,
) -> Plans:
    """The plans of nnU-Net's `planner` for a data set whose fingerprint is written.

    Args:
        dataset: the raw data set.
        planner: nnU-Net's class name.
        plans_name: the plans file's name without ".json".
        spacing_mm: replaces the median spacing, axes in the order of the files (z y x).

    Raises:
        UsageError: no such planner.
        PlanError: the data are 2D.
    """
    from nnssl import nnunet

    plans = nnunet.make_plans(
        planner,
        dataset.name,
        dataset.description,
        plans_name=plans_name,
        reader=nnunet.reader_for(dataset.description),
        spacing_mm=spacing_mm,
    )
    if "3d_fullres" not in plans["configurations"]:
        raise PlanError(f"nnU-Net's planner found {dataset.name} to be 2D; nnssl pretrains on 3D volumes only.")
    return plans


def taken_over(dataset: RawDataset, target_plans: Mapping[str, Any], *, plans_name: str) -> tuple[Plans, list[str]]:
    """The plans of the data set to be fine-tuned, made out to `dataset`, so that weights fit by construction.

    Returns:
        the plans, and warnings in words: where the target normalises other than this data set would.

    Raises:
        PlanError: the target has another number of channels.
    """
    from nnssl import nnunet

    plans = copy.deepcopy(dict(target_plans))
    old_name, target = plans["plans_name"], plans["dataset_name"]
    plans.update(
        dataset_name=dataset.name, plans_name=plans_name, image_reader_writer=nnunet.reader_for(dataset.description)
    )
    own = [nnunet.normalisation_for(channel) for channel in dataset.modality]
    warnings = []
    for name, configuration in plans["configurations"].items():
        if "data_identifier" in configuration:
            identifier = str(configuration["data_identifier"])
            suffix = identifier.removeprefix(old_name) if identifier.startswith(old_name) else f"_{identifier}"
            configuration["data_identifier"] = plans_name + suffix
        theirs = configuration.get("normalization_schemes")
        if theirs is None or name not in CONFIGURATIONS:
            continue
        if len(theirs) != len(own):
            raise PlanError(
                f"The networks of {target} take {len(theirs)} input channels and {dataset.name} has {len(own)}, so "
                f"weights cannot fit. Plan {dataset.name} without -target, and use nnssl_plan_like after pretraining."
            )
        if list(theirs) != own:
            warnings.append(
                f"{name}: {target} normalises with {', '.join(theirs)}, {dataset.name} by itself would with "
                f"{', '.join(own)}. The target's is used; pretrain on scans of the target's modality if you can."
            )
    return plans, warnings


def resolved(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration with what it inherits, as nnU-Net resolves `inherits_from`.

    Raises:
        UsageError: 2d, a cascade, or a configuration that is not in the plans.
    """
    if configuration == "2d":
        raise UsageError("nnssl pretrains 3D networks; 2d cannot be chosen. Use -c 3d_fullres or -c 3d_lowres.")
    known = plans["configurations"]
    if configuration not in known:
        usable = [name for name in known if name != "2d"]
        raise UsageError(
            f"The plans {plans['plans_name']} of {plans['dataset_name']} have no configuration {configuration!r}; they "
            f"have {', '.join(usable)}. (nnU-Net plans 3d_lowres only where scans are much larger than a patch.)"
        )
    own = dict(known[configuration])
    if "previous_stage" in own:
        raise UsageError(f"{configuration} is the second stage of a cascade and needs labels. Use -c 3d_fullres.")
    parent = own.pop("inherits_from", None)
    return own if parent is None else {**resolved(plans, parent), **own}


def plans_path(preprocessed: Path, dataset: str, plans_name: str) -> Path:
    """Where a plans file lies."""
    return preprocessed / dataset / f"{plans_name}.json"


def load_plans(path: Path) -> Plans:
    """Read a plans file.

    Raises:
        PlanError: missing or damaged.
    """
    if not path.is_file():
        others = sorted(file.stem for file in path.parent.glob("*Plans*.json")) if path.parent.is_dir() else []
        raise PlanError(
            f"The plans file {path} does not exist; there: {', '.join(others) or 'none'}. Plan first: "
            f"nnssl_plan_and_preprocess -d ID --no_pp (or nnUNetv2_plan_experiment for a labelled data set)."
        )
    try:
        plans: Plans = json.loads(path.read_text())
        _ = plans["configurations"], plans["plans_name"], plans["dataset_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise PlanError(
            f"{path} is not a plans file of nnU-Net's ({error!r}). Plan again, or restore the file."
        ) from error
    return plans


def save_plans(path: Path, plans: Plans, *, replace: bool) -> None:
    """Write a plans file; configurations of the file there that planning does not make (added by hand) are kept.

    Raises:
        PlanError: the file there says something else and `replace` is not set: somebody edited it, or the data changed.
    """
    if path.is_file():
        present = load_plans(path)
        different = _differences(present, plans)
        if different and not replace:
            raise PlanError(
                f"{path} exists and differs from what planning gives now, in {', '.join(different)}. To preprocess "
                f"with it as it is: --only_pp -p {path.stem}. To plan beside it: -overwrite_plans_name NAME. To "
                f"replace it and the data made with it: --clean."
            )
        plans = {**plans, "configurations": {**present["configurations"], **plans["configurations"]}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(plans, indent=4))


def _differences(present: Mapping[str, Any], plans: Mapping[str, Any]) -> list[str]:
    """Keys of `plans` that `present` has otherwise; configurations one by one, those only `present` has left out."""
    as_json = json.loads(json.dumps(plans))
    top = [key for key in as_json if key != "configurations" and present.get(key) != as_json[key]]
    inner = [
        f"{name}.{key}"
        for name, configuration in as_json["configurations"].items()
        for key in sorted({*configuration, *present["configurations"].get(name, {})})
        if present["configurations"].get(name, {}).get(key) != configuration.get(key)
    ]
    return top + inner
