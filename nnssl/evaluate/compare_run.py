"""Runs a comparison: every arm is stock nnUNetv2_train with the same seeded trainer, plan, cases and decoder start."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nnssl.atomic import whole_file
from nnssl.errors import ExportError, UsageError
from nnssl.evaluate.commands import Job, Runner, Screen, program
from nnssl.evaluate.compare_plan import (
    Request,
    Target,
    Training,
    arm_names,
    settle_target,
    smallest_effects,
    trainings,
)
from nnssl.evaluate.finetune_schedule import VARIABLE
from nnssl.export.proof import fresh_network
from nnssl.export.read import read_weights
from nnssl.export.tensors import decoder_names
from nnssl.paths import Folders, dataset_id

TRAINER = "NnsslMeasuredFinetune"
PLAN = "comparison.json"
_TIMED_STEPS = 2


class Comparison:
    """A comparison in a folder of its own. A second call goes on behind the last finished training."""

    def __init__(self, request: Request, where: Folders, screen: Screen) -> None:
        """Settle everything; writes only the plan of the comparison and its split files.

        Raises:
            NnsslError: whatever would fail later.
        """
        self.request, self.where, self.screen = request, where, screen
        self.arms = arm_names(request)
        self.targets = [settle_target(given, request, where) for given in request.targets]
        request.out.mkdir(parents=True, exist_ok=True)
        self.trainings = {target.dataset: trainings(target, request, self.arms) for target in self.targets}
        self._own_folder()

    def describe(self) -> list[str]:
        """What will be done and what it can show, in sentences."""
        said = []
        for target in self.targets:
            made = self.trainings[target.dataset]
            said.append(
                f"{target.dataset}, {target.plans_name}: {len(made)} trainings ({', '.join(self.arms)}; labels "
                f"{', '.join(self.request.labels)}; {len(target.folds)} fold(s), {self.request.replicates} draw(s)), "
                f"{len(target.test_cases)} test cases."
            )
            said += smallest_effects(len(target.test_cases))
            said += [f"Warning: {warning}" for warning in target.warnings]
        return said

    def estimate(self) -> str:
        """A sentence about the time, from a few timed steps of each target's network on this machine."""
        seconds = 0.0
        for target in self.targets:
            step = seconds_per_step(target, self.request)
            seconds += step * sum(training.schedule.iterations for training in self.trainings[target.dataset])
        hours = seconds / 3600 / self.request.at_once
        return f"About {hours:.2g} hours of training steps; loading, measuring and starting up come on top."

    def run(self) -> None:
        """Do all trainings that are not done.

        Raises:
            NnsslError: one of them failed; its log is named.
        """
        runner = Runner(self.request.out / "logs", self.screen)
        jobs = [self._job(target, training) for target in self.targets for training in self.trainings[target.dataset]]
        runner.run(*jobs, at_once=self.request.at_once)

    def fold_folder(self, target: Target, training: Training) -> Path:
        """Where a training leaves what it measured."""
        results = self.request.out / training.arm / training.name
        return results / target.dataset / f"{TRAINER}__{target.plans_name}__{self.request.configuration}" / "fold_0"

    def _job(self, target: Target, training: Training) -> Job:
        command = [program("nnUNetv2_train"), str(dataset_id(target.dataset)), self.request.configuration, "0"]
        command += ["-p", target.plans_name, "-tr", TRAINER, "-device", self.request.device]
        weights = self.arms[training.arm]
        if weights is not None:
            start = write_start(self.request.out / "starts", weights, target, self.request, training.schedule.seed)
            command += ["-pretrained_weights", str(start)]
        results = self.request.out / training.arm / training.name
        results.mkdir(parents=True, exist_ok=True)
        environment = {
            "nnUNet_raw": str(self.where.raw),
            "nnUNet_preprocessed": str(self.where.preprocessed),
            "nnUNet_results": str(results),  # one a training: nothing is ever written over
            "nnUNet_extTrainer": str(Path(__file__).resolve().parents[1] / "nnunet_ext"),
            "nnUNet_n_proc_DA": "0",  # nnU-Net's loader processes draw from generators nobody seeds
            "nnUNet_compile": "f",
            "OMP_WAIT_POLICY": "passive",  # threads that wait must not spin: trainings share the cores
            VARIABLE: json.dumps(training.schedule.to_json(), sort_keys=True),
        }
        curve = self.fold_folder(target, training) / "curve.json"
        progress = partial(_last_iteration, curve, training.schedule.iterations)
        return Job(name=training.name, command=command, environment=environment, progress=progress)

    def _own_folder(self) -> None:
        """A folder belongs to one question; numbers of labels, folds and draws may be added."""
        file = self.request.out / PLAN
        mine = {
            "targets": {target.dataset: target.plans_name for target in self.targets},
            "configuration": self.request.configuration,
            "arms": {arm: None if path is None else str(path) for arm, path in self.arms.items()},
            "settings": {key: str(value) for key, value in self.request.settings.items()},
        }
        if file.is_file() and json.loads(file.read_text())["question"] != mine:
            raise UsageError(
                f"{self.request.out} holds a comparison of other targets, checkpoints or settings ({file}). Give the "
                f"same ones to go on with it, or another -o."
            )
        file.write_text(json.dumps({"question": mine, "before the first training": self.describe()}, indent=2) + "\n")


def write_start(folder: Path, weights: Path, target: Target, request: Request, seed: int) -> Path:
    """The weights in the network that the arm from scratch starts from: only what was pretrained differs.

    Files whose decoder was not trained hold one with values of their own; scratch's takes its place.

    Raises:
        ExportError: the weights bring tensors that the network does not have.
    """
    found = read_weights(weights)
    chosen = target.plans["configurations"][request.configuration]
    labels = {key for key in target.about["labels"] if key != "ignore"}
    network = fresh_network(
        chosen["architecture"], channels=found.channels, classes=len(labels), seed=seed
    )  # as the trainer, which seeds right before it builds
    trained = found.provenance.get("transferred", {}).get("decoder", 0)
    taken = {name for name in found.tensors if name.startswith(("encoder.", "decoder.encoder."))}
    taken |= set(decoder_names(found.tensors)) if trained else set()
    loaded = network.load_state_dict({name: found.tensors[name] for name in taken}, strict=False)
    if loaded.unexpected_keys:
        raise ExportError(f"{weights} brings {loaded.unexpected_keys[0]}, which the plan's network does not have.")
    folder.mkdir(parents=True, exist_ok=True)
    about = weights.stat()  # a file that was written anew is another start, and its trainings are done again
    digest = hashlib.sha256(f"{weights} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:12]
    path = folder / f"{target.dataset}_{digest}_seed{seed}.pth"
    with whole_file(path) as temporary:
        torch.save({"network_weights": network.state_dict()}, temporary)
    return path


def seconds_per_step(target: Target, request: Request) -> float:
    """Forward and backward of one batch of the plan, without loading and augmentation."""
    chosen = target.plans["configurations"][request.configuration]
    channels = len(target.about.get("channel_names", target.about.get("modality", {})))
    network = fresh_network(
        chosen["architecture"], channels=channels, classes=max(2, len(target.about["labels"])), seed=0
    ).to(request.device)
    batch = torch.zeros(int(chosen["batch_size"]), channels, *chosen["patch_size"], device=request.device)
    began = 0.0
    for step in range(_TIMED_STEPS + 1):
        if step == 1:  # the first one allocates
            began = time.monotonic()
        outputs: Sequence[Any] = network(batch)
        sum((output.float().mean() for output in outputs), torch.zeros((), device=request.device)).backward()
        if request.device == "cuda":
            torch.cuda.synchronize()
    return (time.monotonic() - began) / _TIMED_STEPS


def _last_iteration(curve: Path, total: int) -> str:
    try:
        points: Sequence[Mapping[str, Any]] = json.loads(curve.read_text())
        return f"{points[-1]['iteration']}/{total}"
    except (OSError, ValueError, IndexError):
        return "starting"  # the file comes with the first measurement
