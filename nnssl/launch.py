"""Starts a pretraining from names: finds the trainer, reads the plans, joins or spawns ranks, trains."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnssl.engine.recipe import resolve
from nnssl.engine.run_folder import RunOptions
from nnssl.engine.typed import closest
from nnssl.errors import PlanError, UsageError
from nnssl.paths import Folders, dataset_id, folders
from nnssl.registry import find_trainer

if TYPE_CHECKING:
    from nnssl.trainer import SSLTrainer


UNTESTED_MPS = (
    "-device mps is untested: nobody has run nnssl on one. Views are made on the CPU, networks run on the Mac's GPU. "
    "Compare the first losses with those of -device cpu."
)
CONFIGURATIONS = ("3d_fullres", "3d_lowres")  # nnU-Net's names; a plans file may hold more


@dataclass(frozen=True, kw_only=True)
class Request:
    """A pretraining as asked for; sent to spawned ranks.

    Attributes:
        trainer: class name.
        dataset: full name, the one whose plans are used.
        configuration: "3d_fullres" or "3d_lowres".
        plans_name: of the plans file, without .json.
        device: "cuda", "cpu", "mps" or None: a GPU where there is one.
        ranks: processes to spawn; 1 trains in this one, or in the group that a launcher announced.
        name: kept in the folder's name, or None.
        options: everything else.
    """

    trainer: str
    dataset: str
    configuration: str
    plans_name: str
    device: str | None = None
    ranks: int = 1
    name: str | None = None
    options: RunOptions = field(default_factory=RunOptions)


def pretrain(request: Request) -> None:
    """Train in this process, as one rank where a launcher set RANK and WORLD_SIZE.

    Raises:
        NnsslError: whatever a user can mend.
        SystemExit: the run was asked to stop and left in good order.
    """
    from nnssl.engine.distributed import choose_device, process_group

    device = choose_device(request.device, ranks=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    with process_group(device.type):
        trainer = build_trainer(request, device)
        if request.device is None:
            trainer.print_to_log_file(f"No -device was given; using {device.type}.")
        if device.type == "mps":
            trainer.print_to_log_file(UNTESTED_MPS)
        trainer.run_training()


def build_trainer(request: Request, device: Any) -> SSLTrainer:
    """The trainer of a request, not yet initialised.

    Raises:
        UsageError: unknown trainer or configuration.
        RecipeError: unknown preset or key.
        PlanError: unknown plans, or a 2D configuration.
    """
    chosen = find_trainer(request.trainer)
    if not request.options.continue_run:
        resolve(chosen, request.options.preset or "default", request.options.overrides)  # misspelt keys before all else
    where = folders()
    home = where.preprocessed / request.dataset
    plans = read_plans(where, request)
    dataset_json = _read_json(home / "dataset.json")
    for key in ("labels", "file_ending"):
        if key not in dataset_json:
            raise PlanError(f"{home / 'dataset.json'} lacks {key!r}. Run nnssl_plan_and_preprocess again.")
    fold = "all" if request.name is None else f"all--{request.name}"
    plans["continue_training"] = request.options.continue_run
    trainer: SSLTrainer = chosen(plans, request.configuration, fold, dataset_json, device)
    trainer.options = request.options
    return trainer


def read_plans(where: Folders, request: Request) -> dict[str, Any]:
    """The plans file of a request, checked for the configuration.

    Raises:
        UsageError: no such configuration.
        PlanError: no such plans, or a 2D configuration.
    """
    home = where.preprocessed / request.dataset
    file = home / f"{request.plans_name}.json"
    if not file.is_file():
        if request.configuration not in CONFIGURATIONS and closest(request.configuration, CONFIGURATIONS):
            raise UsageError(
                f"There is no configuration {request.configuration!r}.{closest(request.configuration, CONFIGURATIONS)}"
            )
        known = sorted(path.stem for path in home.glob("*.json") if "lans" in path.stem) if home.is_dir() else []
        raise PlanError(
            f"{file} is needed, but is not there. Plans of {request.dataset}: {', '.join(known) or 'none'}. Run "
            f"nnssl_plan_and_preprocess -d {dataset_id(request.dataset)}, or choose plans with -p."
        )
    plans = _read_json(file)
    if not isinstance(plans.get("configurations"), dict):
        raise PlanError(f"{file} has no configurations: it is no plans file. Restore it, or plan again.")
    known = sorted(plans["configurations"])
    if request.configuration not in known:
        raise UsageError(
            f"The plans {request.plans_name} have no configuration {request.configuration!r}."
            f"{closest(request.configuration, known)} They have: {', '.join(known)}."
        )
    if request.configuration.startswith("2d"):
        raise PlanError("Pretraining is 3D: use 3d_fullres or 3d_lowres instead of 2d.")
    _check_keys(plans, request.configuration, file)
    return plans


def _check_keys(plans: dict[str, Any], configuration: str, file: Path) -> None:
    """Refuse plans that nnU-Net's plan handler would stumble over."""
    missing = [key for key in ("plans_name", "dataset_name", "image_reader_writer") if key not in plans]
    seen: dict[str, Any] = {}
    parents = [configuration]
    while True:
        own = plans["configurations"].get(parents[-1])
        if not isinstance(own, dict):
            raise PlanError(f"Configuration {parents[-1]} in {file} holds {own!r}. Restore the file, or plan again.")
        seen = {**own, **seen}
        if "inherits_from" not in own:
            break
        if own["inherits_from"] in parents:
            raise PlanError(f"Configuration {configuration} in {file} inherits from itself. Correct inherits_from.")
        parents.append(own["inherits_from"])
    missing += [key for key in ("data_identifier", "architecture", "patch_size", "spacing") if not seen.get(key)]
    if missing:
        raise PlanError(
            f"{file} lacks {', '.join(missing)} (configuration {configuration}). Restore it, or plan again."
        )


def check_name(name: str | None) -> None:
    """Refuse a run name that could not be part of a folder's name.

    Raises:
        UsageError: with the letters that are allowed.
    """
    if name is not None and (not name or not all(letter.isalnum() or letter in "-_.+" for letter in name)):
        raise UsageError(f"--name {name!r} becomes part of a folder's name: use letters, digits and - _ . + only.")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"{file} cannot be read as JSON ({error}). Run nnssl_plan_and_preprocess again.") from None
    if not isinstance(content, dict):
        raise PlanError(f"{file} must hold a JSON object; it holds {str(content)[:40]}. Plan again, or restore it.")
    return content
