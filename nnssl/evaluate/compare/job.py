"""One training of a comparison as a job: its command, what makes it that training, and how it goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnssl.evaluate.commands import Job, Runner, program
from nnssl.evaluate.compare.plan import Contender, Request, Target, Training
from nnssl.evaluate.compare.start import write_start
from nnssl.evaluate.finetune.schedule import VARIABLE
from nnssl.paths import Folders, dataset_id

TRAINER = "NnsslMeasuredFinetune"
CURVE, FINAL, TIMING, SETTINGS = "curve.json", "final.json", "timing.json", "finetuning.json"  # the trainer's files
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")  # in nnU-Net's order
_NO_MATTER = ("threads", "split")  # of the schedule: how fast, and where the file with the cases lies


@dataclass(frozen=True)
class TrainingJob:
    """A training with all that it needs.

    Attributes:
        request: the comparison.
        where: nnU-Net's folders.
        target: the data set.
        training: which of its trainings.
        contender: what it starts from.
    """

    request: Request
    where: Folders
    target: Target
    training: Training
    contender: Contender

    @property
    def results(self) -> Path:
        """nnU-Net's results folder, one a training: nothing is ever written over."""
        return self.request.out / self.training.arm / self.training.name

    @property
    def fold(self) -> Path:
        """Where the training leaves what it measured."""
        trainer = f"{TRAINER}__{self.target.plans_name}__{self.request.configuration}"
        return self.results / self.target.dataset / trainer / "fold_0"

    @property
    def identity(self) -> str:
        """What makes it this training, wherever its folder lies and however many share the machine."""
        schedule = {k: v for k, v in self.training.schedule.to_json().items() if k not in _NO_MATTER}
        plan = hashlib.sha256(json.dumps(self.target.chosen, sort_keys=True).encode()).hexdigest()
        held_out = self.target.folds[self.training.fold].test
        parts = [self.training.name, self.contender.digest, plan, schedule, self.training.cases, held_out]
        return json.dumps(parts, sort_keys=True)

    def done(self, runner: Runner) -> bool:
        """Whether it is finished."""
        job = self.job(threads=0)
        return runner.done(job.name, job.key)

    def job(self, *, threads: int) -> Job:
        """For the runner.

        Args:
            threads: on the CPU where the schedule does not say; 0: nnU-Net's choice.
        """
        schedule = self.training.schedule.to_json()
        schedule["threads"] = schedule["threads"] or threads
        environment = {
            "nnUNet_raw": str(self.where.raw),
            "nnUNet_preprocessed": str(self.where.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_extTrainer": str(Path(__file__).resolve().parents[2] / "nnunet_ext"),
            "nnUNet_n_proc_DA": "0",  # nnU-Net's loader processes draw from generators nobody seeds
            "nnUNet_compile": "f",
            "OMP_WAIT_POLICY": "passive",  # threads that wait must not spin: trainings share the cores
            VARIABLE: json.dumps(schedule, sort_keys=True),
        }
        return Job(
            name=self.training.name,
            command=[],
            environment=environment,
            identity=self.identity,
            prepare=partial(self._prepare, schedule),
            progress=partial(_last_iteration, self.fold / CURVE, self.training.schedule.iterations),
        )

    def _prepare(self, schedule: Mapping[str, Any], again: bool) -> Sequence[str]:
        """The command that starts the training, or goes on from its last sound checkpoint."""
        command = [program("nnUNetv2_train"), str(dataset_id(self.target.dataset)), self.request.configuration, "0"]
        command += ["-p", self.target.plans_name, "-tr", TRAINER]
        if again and _sound_checkpoint(self.fold):
            (self.fold / SETTINGS).write_text(json.dumps(schedule))  # its threads and the place of its split may differ
            return [*command, "--c"]
        shutil.rmtree(self.results, ignore_errors=True)  # of another training, or without anything to go on from
        self.results.mkdir(parents=True)
        if self.contender.weights is None:
            return command
        seed = self.training.schedule.seed
        start = self.request.out / "starts" / f"{self.target.dataset}_{self.contender.name}_seed{seed}.pth"
        write_start(start, self.contender.weights, self.target, seed)
        return [*command, "-pretrained_weights", str(start)]


def _sound_checkpoint(fold: Path) -> bool:
    """Whether there is one to go on from; those that a kill left half written are removed."""
    for name in _CHECKPOINTS:
        file = fold / name
        if not file.is_file():
            continue
        if zipfile.is_zipfile(file):  # the table of contents is written last
            return True
        file.unlink()
    return False


def _last_iteration(curve: Path, total: int) -> str:
    try:
        points: Sequence[Mapping[str, Any]] = json.loads(curve.read_text())
        return f"{points[-1]['iteration']}/{total}"
    except (OSError, ValueError, IndexError):
        return "starting"  # the file comes with the first measurement
