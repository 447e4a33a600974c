"""Starts stock nnU-Net's training from names: finds the plan, checks the weights, refuses to start a training over."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnssl.engine.typed import closest
from nnssl.errors import DataError, PlanError, StateError, UsageError
from nnssl.evaluate.finetune.schedule import VARIABLE, FinetuneSchedule, Name, given
from nnssl.evaluate.settings import changed
from nnssl.paths import Folders, dataset, folders

EXTERNAL = "nnUNet_extTrainer"
TRAINERS: dict[Name, str] = {
    "warmup": "NnsslFinetuneWarmup",
    "sawtooth": "NnsslFinetuneSawtooth",
    "frozen_then_thawed": "NnsslFinetuneFrozenThenThawed",
    "frozen": "NnsslFinetuneFrozen",
}
_STOCK_PLANS = "nnUNetPlans"
_ANY_CHECKPOINT = ("checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_final.pth")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A fine-tuning as asked for.

    Attributes:
        target: number or full name of the labelled data set.
        configuration: "3d_fullres" or another one of the plans.
        fold: "0" to "4", or "all".
        weights: a file that nnssl_pretrain wrote; None: from scratch, or from the checkpoint of a continued training.
        schedule: which trainer.
        settings: changed keys of the schedule.
        plans_name: of the plans file without .json; None: the one that the weights fit.
        device: "cuda", "cpu", "mps" or None: a GPU where there is one.
        gpus: processes.
        continue_run: go on from the last checkpoint.
    """

    target: str
    configuration: str
    fold: str
    weights: Path | None
    schedule: Name = "warmup"
    settings: Mapping[str, object] = field(default_factory=dict)
    plans_name: str | None = None
    device: str | None = None
    gpus: int = 1
    continue_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked fine-tuning.

    Attributes:
        dataset: full name.
        plans_name: of the chosen plans file.
        plans: its content.
        settings: keys for NNSSL_FINETUNE: those of the environment, then those of the request.
        folder: of the fold's results.
    """

    dataset: str
    plans_name: str
    plans: Mapping[str, Any]
    settings: Mapping[str, object]
    folder: Path


def prepare(request: Request) -> Prepared:
    """Check everything that would fail later, before anything heavy starts.

    Raises:
        UsageError: unknown data set or fold, or options that exclude each other.
        RecipeError: a schedule key or value that does not exist.
        PlanError: no plans, or none of this configuration.
        DataError: unusable weights, or the target was not preprocessed.
        ExportError: nnU-Net does not take the weights for the plan.
        StateError: the folder holds a training already, or none to continue.
    """
    where = folders()
    name = dataset(request.target, where=where)
    if request.fold != "all" and not request.fold.isdigit():
        raise UsageError(f"The fold is a number from 0 or 'all', not {request.fold!r}.")
    if request.schedule == "frozen" and request.weights is None and not request.continue_run:
        raise UsageError("The schedule frozen needs pretrained weights (-w): an encoder that never learns must know.")
    if request.continue_run and request.weights is not None:
        raise UsageError("--c continues from the training's own checkpoint; -w starts a new one. Give one of them.")
    schedule = changed(FinetuneSchedule(schedule=request.schedule), {**given(), **request.settings})
    # as read, so that the trainer gets numbers and not the text of the command line
    values = {key: schedule.to_json()[key] for key in {**given(), **request.settings}}
    plans_name = fitting_plans(where, request)
    _, plans = prepare_target(where, request, plans_name, request.weights)
    folder = (
        where.results
        / name
        / f"{TRAINERS[request.schedule]}__{plans_name}__{request.configuration}"
        / f"fold_{request.fold}"
    )
    _check_folder(folder, request)
    return Prepared(dataset=name, plans_name=plans_name, plans=plans, settings=values, folder=folder)


def train(request: Request, prepared: Prepared) -> None:
    """Train and validate with stock nnU-Net's own function, in this process."""
    from nnssl.engine.distributed import choose_device

    device = choose_device(request.device, ranks=request.gpus)
    ours = str(Path(__file__).resolve().parents[2] / "nnunet_ext")
    others = [part for part in os.environ.get(EXTERNAL, "").split(os.pathsep) if part and part != ours]
    os.environ[EXTERNAL] = os.pathsep.join([ours, *others])
    os.environ[VARIABLE] = json.dumps(dict(prepared.settings))
    from nnunetv2.run.run_training import run_training

    run_training(
        prepared.dataset,
        request.configuration,
        request.fold,
        TRAINERS[request.schedule],
        prepared.plans_name,
        pretrained_weights=None if request.weights is None else str(request.weights),
        num_gpus=request.gpus,
        continue_training=request.continue_run,
        device=device,
    )


def prepare_target(
    where: Folders, request: Request, plans_name: str, weights: Path | None
) -> tuple[str, Mapping[str, Any]]:
    """Full name of the target and its plans, which exist, are preprocessed, and fit the weights.

    Raises:
        NnsslError: one of these is not so.
    """
    name = dataset(request.target, where=where)
    plans = _read_plans(where, name, plans_name, request.configuration)
    if weights is not None:
        _check_weights(where, name, plans, request, weights)
    return name, plans


def fitting_plans(where: Folders, request: Request) -> str:
    """The first of these that the target has: the plan like the weights', the plan they were trained on, nnU-Net's.

    Raises:
        PlanError: it has none of them.
    """
    if request.plans_name is not None:
        return request.plans_name
    if request.weights is None:
        return _STOCK_PLANS
    from nnssl.export.other import for_unet
    from nnssl.export.sources import read_any
    from nnssl.planning.plan_like import Keep, default_name

    name = dataset(request.target, where=where)
    trained = for_unet(read_any(request.weights)).plans
    known = "plans_name" in trained and "dataset_name" in trained  # other makers' files may say neither
    ours = [default_name(trained, Keep()), str(trained["plans_name"])] if known else []
    candidates = [*ours, _STOCK_PLANS]
    for candidate in candidates:
        if (where.preprocessed / name / f"{candidate}.json").is_file():
            return candidate
    raise PlanError(
        f"{name} has no plans that the weights could fit (looked for {', '.join(candidates)} in "
        f"{where.preprocessed / name}). Run: nnssl_plan_like {request.weights} -d {request.target}"
    )


def _read_plans(where: Folders, name: str, plans_name: str, configuration: str) -> Mapping[str, Any]:
    file = where.preprocessed / name / f"{plans_name}.json"
    if not file.is_file():
        raise PlanError(f"{file} is needed, but is not there. Choose plans with -p, or run nnssl_plan_like.")
    plans: Mapping[str, Any] = json.loads(file.read_text())
    known = sorted(plans["configurations"])
    if configuration not in known:
        raise PlanError(
            f"The plans {plans_name} have no configuration {configuration!r}.{closest(configuration, known)} They "
            f"have: {', '.join(known)}."
        )
    data = file.parent / str(plans["configurations"][configuration].get("data_identifier", configuration))
    if "data_identifier" in plans["configurations"][configuration] and not data.is_dir():
        raise DataError(
            f"{name} was not preprocessed with {plans_name} ({data} is not there). Run: nnUNetv2_preprocess -d {name} "
            f"-plans_name {plans_name} -c {configuration}"
        )
    return plans


def _check_folder(folder: Path, request: Request) -> None:
    found = [file for file in _ANY_CHECKPOINT if (folder / file).is_file()]
    if found and not request.continue_run:
        raise StateError(
            f"{folder} holds a training already ({found[0]}), which stock nnU-Net would write over. Give --c to go on "
            f"with it, or remove the folder."
        )
    if request.continue_run and not found:
        raise StateError(f"--c needs a checkpoint to go on from; there is none in {folder}. Leave --c away to start.")


def _check_weights(where: Folders, name: str, plans: Mapping[str, Any], request: Request, weights: Path) -> None:
    from nnssl.export.other import for_unet
    from nnssl.export.read import read_weights
    from nnssl.export.target import Target, check_fit

    for_unet(read_weights(weights))  # nnU-Net's own loader would run code that a file brings
    about = json.loads((where.preprocessed / name / "dataset.json").read_text())
    if "architecture" in plans["configurations"][request.configuration]:
        check_fit(weights, plans, request.configuration, Target(name=name, dataset_json=about))
