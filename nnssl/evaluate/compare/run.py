"""Runs a comparison: every arm is stock nnUNetv2_train with the same seeded trainer, plan, cases and decoder start."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.errors import DataError
from nnssl.evaluate.commands import Job, Runner, Screen, Slot
from nnssl.evaluate.compare.folder import Notes
from nnssl.evaluate.compare.job import TIMING, TrainingJob
from nnssl.evaluate.compare.longer import Longer, check_cost, settle_longer
from nnssl.evaluate.compare.plan import (
    LONGER,
    SCRATCH,
    Request,
    Target,
    Training,
    make_arms,
    smallest_effects,
    trainings,
)
from nnssl.evaluate.compare.start import seconds_per_step, windows
from nnssl.evaluate.compare.target import settle_target
from nnssl.evaluate.finetune.schedule import MeasuredSchedule
from nnssl.evaluate.settings import changed
from nnssl.paths import Folders

_START_SECONDS = 15.0  # of a training: imports, network, first batches


class Comparison:
    """A comparison in a folder of its own. A second call goes on where the first one was stopped."""

    def __init__(self, request: Request, where: Folders, screen: Screen) -> None:
        """Settle everything; writes only the plan of the comparison and its split files.

        Raises:
            NnsslError: whatever would fail later.
        """
        self.request, self.where, self.screen = request, where, screen
        self.arms = make_arms(request)
        if request.equal_compute:
            check_cost(self.arms)
        request.out.mkdir(parents=True, exist_ok=True)
        self.targets = [settle_target(given, request, self.arms, where) for given in request.targets]
        self.notes = Notes(request, self.targets, self.arms)
        self.trainings: dict[str, list[Training]] = {}
        for target in self.targets:
            self._list_trainings(target)
        self.runner = Runner(request.out / "logs", screen)

    def describe(self) -> list[str]:
        """What will be done and what it can show, in sentences."""
        said = []
        for target in self.targets:
            made = self.trainings[target.dataset]
            said.append(
                f"{target.dataset}, {target.plans_name}: {len(made)} trainings ({', '.join(self.arms)}; labels "
                f"{', '.join(self.request.labels)}; {len(target.folds)} fold(s), {self.request.replicates} draw(s)), "
                f"{len(target.test_cases)} test cases of {len(target.test_subjects)} subjects."
            )
            longer = self.notes.longer.get(target.dataset)
            if longer is not None:
                said.append(longer.sentence)
            elif self.request.equal_compute:
                said.append(f"{target.dataset}: those of {LONGER} come on top; scratch is timed first to settle them.")
            said += smallest_effects(len(target.test_subjects), self.request.replicates)
            said += [f"Warning: {warning}" for warning in target.warnings]
        return said

    def estimate(self) -> str:
        """A sentence about the time that is left, from a few timed steps of each target's network on this machine."""
        seconds, left, total = 0.0, 0, 0
        for target in self.targets:
            missing = [one for one in self.trainings[target.dataset] if not self.job(target, one).done(self.runner)]
            total += len(self.trainings[target.dataset])
            unsettled = self.request.equal_compute and target.dataset not in self.notes.longer
            if not missing and not unsettled:
                continue
            threads = self._schedule().threads or self._threads()
            step, window = seconds_per_step(target, self.request.device, threads=threads)
            if unsettled:
                guess = settle_longer(self._schedule(), target, self.arms, seconds_per_iteration=step)
                more = self._longer_trainings(target, guess)
                missing, total = [*missing, *more], total + len(more)
            left += len(missing)
            for training in missing:
                cases = len(target.folds[training.fold].test)
                seconds += step * training.schedule.iterations + _START_SECONDS
                seconds += window * windows(training, target, test_cases=cases)
        if not left:
            return f"All {total} trainings are done."
        places = len(self._slots())
        return (
            f"{total - left} of {total} trainings are done; the rest takes about {seconds / 3600 / places:.2g} hours "
            f"({places} at a time, by steps timed on this machine as busy as it is now; loading and "
            f"augmentation come on top)."
        )

    def run(self) -> None:
        """Do all trainings that are not done.

        Raises:
            NnsslError: one of them failed, and its log is named; or a signal came.
        """
        slots = self._slots()
        self.runner.run(*self._jobs(lambda arm: arm != LONGER), slots=slots)
        if self.request.equal_compute:
            self.settle_longer()
            self.runner.run(*self._jobs(lambda arm: arm == LONGER), slots=slots)

    def settle_longer(self) -> None:
        """Once for all calls, from the time that scratch's own trainings took: how long `LONGER` is."""
        for target in self.targets:
            if target.dataset not in self.notes.longer:
                pace = self._measured_pace(target)
                longer = settle_longer(self._schedule(), target, self.arms, seconds_per_iteration=pace)
                self.notes.settle(target.dataset, longer)
                self.screen.say(longer.sentence)
                self._list_trainings(target)

    def fold_folder(self, target: Target, training: Training) -> Path:
        """Where a training leaves what it measured."""
        return self.job(target, training).fold

    def job(self, target: Target, training: Training) -> TrainingJob:
        """A training with all that it needs."""
        return TrainingJob(self.request, self.where, target, training, self.arms[training.arm])

    def _jobs(self, wanted: Callable[[str], bool]) -> list[Job]:
        threads = self._threads()
        return [
            self.job(target, training).job(threads=threads)
            for target in self.targets
            for training in self.trainings[target.dataset]
            if wanted(training.arm)
        ]

    def _list_trainings(self, target: Target) -> None:
        longer = self.notes.longer.get(target.dataset)
        epochs = None if longer is None else longer.epochs
        self.trainings[target.dataset] = trainings(target, self.request, self.arms, longer_epochs=epochs)

    def _longer_trainings(self, target: Target, longer: Longer) -> list[Training]:
        made = trainings(target, self.request, self.arms, longer_epochs=longer.epochs)
        return [training for training in made if training.arm == LONGER]

    def _schedule(self) -> MeasuredSchedule:
        return changed(MeasuredSchedule(), self.request.settings)

    def _measured_pace(self, target: Target) -> float:
        """Seconds an iteration of scratch's own runs took, loading included."""
        iterations, seconds = 0, 0.0
        for training in self.trainings[target.dataset]:
            file = self.fold_folder(target, training) / TIMING
            if training.arm == SCRATCH and file.is_file():
                found: Mapping[str, Any] = json.loads(file.read_text())
                iterations, seconds = iterations + int(found["iterations"]), seconds + float(found["seconds"])
        if not iterations:
            raise DataError(
                f"No training from scratch of {target.dataset} left its {TIMING}, which --equal_compute needs."
            )
        return seconds / iterations

    def _slots(self) -> list[Slot]:
        return [_slot(device) for device in self.request.devices for _ in range(self.request.at_once)]

    def _threads(self) -> int:
        """CPU threads of each training, so that they share the cores instead of fighting for them."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // len(self._slots())) if self.request.device == "cpu" else 0


def _slot(device: str) -> Slot:
    """nnU-Net takes the first GPU that it sees, so each place sees only its own."""
    kind, _, number = device.partition(":")
    if not number:
        return Slot(words=("-device", kind))
    seen: Sequence[str] = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    chosen = seen[int(number)] if int(number) < len(seen) else number
    return Slot(words=("-device", kind), environment={"CUDA_VISIBLE_DEVICES": chosen})
