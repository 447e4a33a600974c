"""The plan of a labelled data set that weights shall fit, from its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnssl.errors import ExportError, PlanError
from nnssl.export.adaptation import resolved_configuration
from nnssl.export.fitted import TargetPlan
from nnssl.paths import Folders
from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.orientation import codes
from nnssl.planning.planner import load_plans, plans_path
from nnssl.planning.reading import read_image

_LOOKED_AT = 5  # scans: reading them takes time, and most data sets are of one orientation


def read_target_plan(name: str, where: Folders, *, plans_name: str, configuration: str) -> TargetPlan:
    """The target's own plan.

    Args:
        name: full name of the data set.
        where: nnU-Net's folders.
        plans_name: its plans file without ".json".
        configuration: "3d_fullres", or another 3D one of the plan.

    Raises:
        PlanError: no such plans file or configuration, or one that is not for 3D U-Nets.
    """
    plans = load_plans(plans_path(where.preprocessed, name, plans_name))
    try:
        chosen = resolved_configuration(plans, configuration)
        architecture = chosen["architecture"]
        sides = len(chosen["patch_size"])
        _ = chosen["normalization_schemes"], architecture["arch_kwargs"], chosen["spacing"]
    except (KeyError, ExportError, TypeError) as error:
        raise PlanError(
            f"-p {plans_name} -c {configuration}: the plans of {name} must hold this configuration with an "
            f"architecture ({error}); they hold {', '.join(plans['configurations'])}."
        ) from error
    if sides != 3:
        raise PlanError(f"{configuration} of {plans_name} is two-dimensional; nnssl's weights are for 3D networks.")
    description = _dataset_json(name, where)
    names = description.get("channel_names", description.get("modality", {}))
    return TargetPlan(
        plans=plans,
        configuration=configuration,
        chosen=chosen,
        channel_names=tuple(str(names[key]) for key in sorted(names, key=int)),
        dataset_json=description,
    )


def with_orientation(target: TargetPlan, name: str, where: Folders) -> TargetPlan:
    """The target, with how most of its first scans lie; unchanged where the raw scans are not here.

    Raises:
        DataError: a scan cannot be read.
    """
    if not ((where.raw / name / "dataset.json").is_file() and (where.raw / name / "imagesTr").is_dir()):
        return target
    cases = read_raw_dataset(name, where).cases[:_LOOKED_AT]
    reader = str(target.plans["image_reader_writer"])
    order = target.plans["transpose_forward"]
    raw = [codes(read_image(case.files[:1], reader).to_world) for case in cases]
    found = ["".join(letters[axis] for axis in order) for letters in raw]
    return replace(target, orientation=max(sorted(set(found)), key=found.count)) if found else target


def _dataset_json(name: str, where: Folders) -> dict[str, Any]:
    for folder in (where.preprocessed, where.raw):
        file: Path = folder / name / "dataset.json"
        if file.is_file():
            try:
                content: dict[str, Any] = json.loads(file.read_text())
            except ValueError as error:
                raise PlanError(f"{file} is not readable JSON ({error}).") from error
            return content
    return {}
