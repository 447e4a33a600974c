"""What nnU-Net's own planner says of a labelled data set, and whether a weights file fits a plan for it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl import nnunet
from nnssl.errors import DataError, ExportError, PlanError, UsageError
from nnssl.export.adaptation import resolved_configuration
from nnssl.export.proof import fresh_network, load_like_nnunet
from nnssl.paths import Folders
from nnssl.planning.plan_like import CONFIGURATION

_WORKERS = "nnUNet_n_proc_DA"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A labelled data set in nnUNet_raw.

    Attributes:
        name: "Dataset004_Hippocampus".
        dataset_json: its dataset.json.
    """

    name: str
    dataset_json: Mapping[str, Any]

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the input channels, in order."""
        names = self.dataset_json.get("channel_names", self.dataset_json.get("modality", {}))
        return tuple(str(name) for name in names.values())


@dataclass(frozen=True, kw_only=True)
class OwnPlan:
    """What nnU-Net's planner says of a data set.

    Attributes:
        plans: a whole plans file, at the spacing that was asked for.
        natural_spacing_mm: the spacing the planner chooses by itself, in the order of its own plan.
    """

    plans: dict[str, Any]
    natural_spacing_mm: tuple[float, float, float]


def read_target(name: str, where: Folders) -> Target:
    """The data set to be fine-tuned on.

    Raises:
        DataError: no dataset.json, or no labels.
    """
    folder = where.raw / name
    file = folder / "dataset.json"
    try:
        dataset_json = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{file} is needed to plan for {name}, and is not there.") from error
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {error}.") from error
    missing = [key for key in ("labels", "numTraining", "file_ending") if key not in dataset_json]
    if missing or not {"channel_names", "modality"} & set(dataset_json):
        raise DataError(f"{file} must say {', '.join(missing or ['channel_names'])}, as nnU-Net's data sets do.")
    if not (folder / "labelsTr").is_dir() and "dataset" not in dataset_json:
        raise DataError(
            f"{name} has no labels ({folder / 'labelsTr'} is not there), and fine-tuning needs them. For unlabelled "
            f"scans run nnssl_plan_and_preprocess."
        )
    return Target(name=name, dataset_json=dataset_json)


def ensure_fingerprint(target: Target, where: Folders, *, processes: int) -> bool:
    """Run nnU-Net's own fingerprint extractor where no fingerprint is; returns whether it ran.

    Raises:
        DataError: nnU-Net could not read a case.
    """
    if (where.preprocessed / target.name / "dataset_fingerprint.json").is_file():
        return False
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    try:
        with _quiet():
            DatasetFingerprintExtractor(target.name, processes).run()
    except (RuntimeError, OSError, IndexError, ValueError, AssertionError) as error:
        raise DataError(
            f"nnU-Net could not take the fingerprint of {target.name}: {error}. "
            f"nnUNetv2_extract_fingerprint -d {target.name} --verify_dataset_integrity names the case."
        ) from error
    return True


def own_plan(target: Target, *, planner: str, spacing_mm: Sequence[float] | None) -> OwnPlan:
    """The plan that nnU-Net's planner makes for `target`; writes no plans file.

    Args:
        target: the data set; needs its fingerprint.
        planner: nnU-Net's planner class by name; one that is not installed here is replaced by the default.
        spacing_mm: voxel size in the order of a plan's configuration (largest first), laid on the axes of the data
            set in the order the planner would put them; None: the planner's own choice.

    Raises:
        PlanError: the data set cannot be planned in 3D.
    """
    plans = _planned(target, planner, None)
    forward = plans["transpose_forward"]
    natural = plans["configurations"][CONFIGURATION]["spacing"]
    if spacing_mm is not None:
        plans = _planned(target, planner, [float(spacing_mm[forward.index(axis)]) for axis in range(3)])
    return OwnPlan(plans=plans, natural_spacing_mm=(natural[0], natural[1], natural[2]))


def _planned(target: Target, planner: str, spacing_mm: Sequence[float] | None) -> dict[str, Any]:
    def plans_of(name: str) -> dict[str, Any]:
        """What the planner class `name` makes of the target."""
        return nnunet.make_plans(
            name,
            target.name,
            target.dataset_json,
            plans_name="own",
            reader=nnunet.reader_for(target.dataset_json),
            spacing_mm=spacing_mm,
        )

    with _at_least_one_worker():
        try:
            plans = plans_of(planner)
        except UsageError:  # the planner of the pretraining is not installed here
            plans = plans_of("ExperimentPlanner")
    if CONFIGURATION not in plans["configurations"]:
        raise PlanError(f"nnU-Net plans no {CONFIGURATION} for {target.name}: its images are two-dimensional.")
    return plans


def read_own_plan(target: Target, where: Folders, name: str) -> OwnPlan:
    """A plans file that exists for `target`, as its own side of the choice.

    Raises:
        PlanError: there is none of this name, or it is not for 3D.
    """
    file = where.preprocessed / target.name / f"{name}.json"
    try:
        plans = json.loads(file.read_text())
        chosen = resolved_configuration(plans, CONFIGURATION)
    except (OSError, ValueError, KeyError, ExportError) as error:
        raise PlanError(f"-p {name} needs {file} with a configuration {CONFIGURATION}: {error}.") from error
    plans["configurations"] = {CONFIGURATION: chosen}
    depth, height, width = chosen["spacing"]
    return OwnPlan(plans=plans, natural_spacing_mm=(depth, height, width))


def check_fit(path: Path, plans: Mapping[str, Any], configuration: str, target: Target) -> None:
    """Load the weights into the target's network with the function that `nnUNetv2_train` calls.

    Raises:
        ExportError: it does not take them.
    """
    chosen = plans["configurations"][configuration]
    try:
        network = fresh_network(
            chosen["architecture"],
            channels=len(target.channel_names),
            classes=max(2, len(target.dataset_json["labels"])),
            seed=0,
        )
    except PlanError as error:
        name = chosen["architecture"].get("network_class_name")
        raise ExportError(f"The network of {path} ({name}) is not built: {error}") from error
    load_like_nnunet(network, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """nnU-Net prints whole plans; the commands of nnssl say what matters themselves."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _at_least_one_worker() -> Iterator[None]:
    """nnU-Net's planner sets torch's threads to nnUNet_n_proc_DA, and 0, right for training, is refused by torch."""
    before = os.environ.get(_WORKERS)
    if before == "0":
        os.environ[_WORKERS] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[_WORKERS] = before
