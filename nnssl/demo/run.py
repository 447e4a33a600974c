"""The demonstration from beginning to end: every step is a command that a user would type, and is done only once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnssl.demo.cohort import PRETRAIN, TARGET, Cohort, make_phantom_cohort
from nnssl.demo.settings import LABELS, Settings
from nnssl.demo.small_plan import CONFIGURATION, NAME, small_plan
from nnssl.errors import NnsslError, UsageError
from nnssl.evaluate.commands import Job, Runner, Screen, program
from nnssl.evaluate.finetune.schedule import VARIABLE, MeasuredSchedule
from nnssl.registry import find_trainer

ARMS = ("scratch", "pretrained")
FINETUNER = "NnsslMeasuredFinetune"
PHANTOM_MM = 6.0  # voxel size at which a whole torso fits a network that two cores can train
BATCH = 4
# Networks four times thinner than nnU-Net's and runs of hundreds of steps take higher rates than these recipes have
RATES = {
    **dict.fromkeys(("Vox2VecTrainer", "MAETrainer"), 3e-3),
    "AliceTrainer": 1e-3,
}
_STEPS = 6


@dataclass(frozen=True)
class Paths:
    """Where things lie under the demonstration's folder."""

    root: Path

    @property
    def raw(self) -> Path:
        """nnU-Net's folder of raw data sets."""
        return self.root / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's folder of preprocessed data sets."""
        return self.root / "nnUNet_preprocessed"

    @property
    def schedule(self) -> Path:
        """The fine-tuning schedule that all trainings read."""
        return self.root / "finetuning.json"

    def results(self, arm: str) -> Path:
        """Both arms train the same class on the same plan, which nnU-Net keeps in one folder; so each has its own."""
        return self.root / ("nnUNet_results" if arm == "pretrained" else "nnUNet_results_scratch")

    def weights(self, cohort: Cohort, trainer: str) -> Path:
        """What the pretraining hands to `-pretrained_weights`; its run lies around it."""
        run = f"{trainer}__nnsslPlans__{CONFIGURATION}"
        return self.results("pretrained") / cohort.pretraining / run / "fold_all" / "checkpoint_final.pth"

    def fold(self, cohort: Cohort, arm: str, fold: int) -> Path:
        """Where nnU-Net writes the fine-tuning of one arm on one fold."""
        return self.results(arm) / cohort.target / f"{FINETUNER}__{NAME}__{CONFIGURATION}" / f"fold_{fold}"


class Demonstration:
    """Runs in a folder of its own. A second call goes on where the first was stopped."""

    def __init__(self, root: Path, settings: Settings, screen: Screen) -> None:
        """Nothing is written before `run`."""
        self.paths, self.settings, self.screen = Paths(root.resolve()), settings, screen
        self.runner = Runner(self.paths.root / "logs", screen)
        self.number = 0
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def run(self) -> dict[str, Any]:
        """All steps; returns the content of `report.json`.

        Raises:
            UsageError: the folder holds a demonstration with other settings.
            NnsslError: a step failed.
        """
        from nnssl.demo.report import make_report

        self._own_folder()
        cohort = self._cohort()
        self._plan_target(cohort)
        self._preprocess()
        self._pretrain(cohort)
        self._finetune(cohort)
        self._title("Measure: frozen linear probe, Dice with intervals, picture")
        return make_report(self.paths, cohort, self.settings, self._seconds())

    def _own_folder(self) -> None:
        file = self.paths.root / "settings.json"
        mine = asdict(self.settings)
        if file.is_file() and json.loads(file.read_text()) != mine:
            raise UsageError(
                f"{self.paths.root} holds a demonstration with other settings ({file}). Give the same options to go on "
                f"with it, another --out for a new one, or delete the folder."
            )
        for folder in (self.paths.raw, self.paths.preprocessed, *(self.paths.results(arm) for arm in ARMS)):
            folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(mine) + "\n")

    def _title(self, sentence: str) -> None:
        self.number += 1
        self.screen.say(f"[{self.number}/{_STEPS}] {sentence}")

    def _environment(self, arm: str = "pretrained") -> dict[str, str]:
        """The variables of every command. Threads that wait must not spin: two trainings share the cores."""
        return {
            "nnUNet_raw": str(self.paths.raw),
            "nnUNet_preprocessed": str(self.paths.preprocessed),
            "nnUNet_results": str(self.paths.results(arm)),
            "nnUNet_extTrainer": str(Path(__file__).resolve().parents[1] / "nnunet_ext"),
            "nnUNet_def_n_proc": "2",
            "nnUNet_compile": "f",
            "OMP_WAIT_POLICY": "passive",
            VARIABLE: str(self.paths.schedule),
        }

    def _cohort(self) -> Cohort:
        source = self.settings.raw
        self._title(f"Scans: import {source}" if source else "Scans: generate CT-like phantoms")
        file = self.paths.root / "cohort.json"
        if not file.is_file():
            if source:
                from nnssl.demo.task_folder import import_task

                cohort = import_task(Path(source), self.paths.raw, say=self.screen.say)
            else:
                cohort = make_phantom_cohort(
                    self.paths.raw,
                    spacing_mm=PHANTOM_MM,
                    progress=lambda done, total: self.screen.status(f"{done} of {total} subjects"),
                )
            cohort.save(file)
        cohort = Cohort.load(file)
        self.screen.say(
            f"      {cohort.unlabelled} unlabelled scans to pretrain on, {len(cohort.training)} labelled to fine-tune "
            f"on, {len(cohort.test)} of other subjects to measure on; organs: {', '.join(cohort.organs)}"
        )
        return cohort

    def _plan_target(self, cohort: Cohort) -> None:
        self._title("Plan the target with nnU-Net, make its plan small, preprocess it")
        environment, home = self._environment(), self.paths.preprocessed / cohort.target
        self.runner.run(
            Job(
                name="fingerprint",
                command=[program("nnUNetv2_extract_fingerprint"), "-d", str(TARGET), "-np", "2"],
                environment=environment,
            )
        )
        plan = [program("nnUNetv2_plan_experiment"), "-d", str(TARGET), "-gpu_memory_target", "8"]
        self.runner.run(Job(name="plan", command=plan, environment=environment))
        small = small_plan(json.loads((home / "nnUNetPlans.json").read_text()))
        (home / f"{NAME}.json").write_text(json.dumps(small, indent=2))
        # fold k: LABELS[k] training cases; nnU-Net's "validation" are the test subjects, which influence no training
        folds = [{"train": list(cohort.training[:count]), "val": list(cohort.test)} for count in LABELS]
        (home / "splits_final.json").write_text(json.dumps(folds, indent=2))
        preprocess = [program("nnUNetv2_preprocess"), "-d", str(TARGET), "-plans_name", NAME, "-c", CONFIGURATION]
        self.runner.run(Job(name="preprocess", command=[*preprocess, "-np", "2"], environment=environment))
        chosen = small["configurations"][CONFIGURATION]
        self.screen.say(
            f"      {NAME}: patch {_times(chosen['patch_size'])}, spacing {_times(chosen['spacing'])} mm, features "
            f"{chosen['architecture']['arch_kwargs']['features_per_stage']}"
        )

    def _preprocess(self) -> None:
        self._title("Preprocess the unlabelled scans with the target's plan: nnssl_plan_and_preprocess")
        command = [program("nnssl_plan_and_preprocess"), "-d", str(PRETRAIN), "-target", str(TARGET)]
        job = Job(
            name="nnssl_preprocess",
            command=[*command, "-target_plans", NAME, "--for", self.settings.trainer],
            environment=self._environment(),
        )
        self.runner.run(job)

    def _pretrain(self, cohort: Cohort) -> None:
        steps, epochs = self.settings.pretraining_steps, self.settings.pretraining_epochs
        self._title(f"Pretrain without labels: nnssl_pretrain -tr {self.settings.trainer}, {steps} steps")
        run = self.paths.weights(cohort, self.settings.trainer).parent
        trainer = self.settings.trainer
        rate = RATES.get(trainer, find_trainer(trainer).recipe.optimizer.lr)
        recipe = [f"epochs={epochs}", f"steps_per_epoch={steps // epochs}", f"batch_size={BATCH}"]
        recipe += [f"optimizer.lr={rate:g}", "optimizer.warmup_epochs=2", "save_every_minutes=1", *self.settings.recipe]
        command = [program("nnssl_pretrain"), str(PRETRAIN), CONFIGURATION, "-tr", self.settings.trainer]
        job = Job(
            name="pretrain",
            command=[*command, "-device", self.settings.device, "--set", *recipe],
            # a run that was stopped goes on at the very step
            resume=["--c"] if (run / "state_latest.pth").is_file() else [],
            environment=self._environment(),
            progress=lambda: _last_step(run / "metrics.jsonl", steps),
        )
        self.runner.run(job)

    def _finetune(self, cohort: Cohort) -> None:
        iterations = self.settings.finetuning_iterations
        self._title(
            f"Fine-tune stock nnUNetv2_train with {' and '.join(map(str, LABELS))} labels, from scratch and with "
            f"-pretrained_weights, {iterations} iterations each"
        )
        on_gpu = self.settings.device == "cuda"
        every = self.settings.evaluate_every
        schedule = MeasuredSchedule(epochs=iterations // every, iterations_per_epoch=every, threads=0 if on_gpu else 1)
        schedule.save(self.paths.schedule)
        weights = self.paths.weights(cohort, self.settings.trainer)
        jobs = []
        for fold, labels in enumerate(LABELS):
            for arm in ARMS:
                command = [
                    program("nnUNetv2_train"),
                    str(TARGET),
                    CONFIGURATION,
                    str(fold),
                    "-p",
                    NAME,
                    "-tr",
                    FINETUNER,
                ]
                command += ["-device", self.settings.device]
                command += ["-pretrained_weights", str(weights)] if arm == "pretrained" else []
                curve = self.paths.fold(cohort, arm, fold) / "curve.json"
                jobs.append(
                    Job(
                        name=f"{arm}_{labels}",
                        command=command,
                        # workers of nnU-Net's loader draw from generators nobody seeds: load in the training process
                        environment={**self._environment(arm), "nnUNet_n_proc_DA": "0"},
                        progress=partial(_last_dice, curve, iterations),
                    )
                )
        # one thread each, as many at a time as there are cores: the same numbers on any number of cores
        self.runner.run(*jobs, at_once=1 if on_gpu else max(1, min(self.cores, len(jobs))))

    def _seconds(self) -> float:
        """Since the folder's first step, pauses included."""
        return time.time() - (self.paths.root / "cohort.json").stat().st_mtime


def _times(values: list[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _last_step(log: Path, total: int) -> str:
    line = _last_json(log)
    return f"{int(line['step']) + 1}/{total}" if "step" in line else ""


def _last_dice(curve: Path, iterations: int) -> str:
    try:
        point = json.loads(curve.read_text())[-1]
    except (OSError, ValueError, IndexError):
        return "starting"  # the file comes with the first measurement
    return f"{point['iteration']}/{iterations}"


def _last_json(log: Path) -> Mapping[str, Any]:
    """The last whole line of a file that another process may be writing."""
    try:
        for line in reversed(log.read_text().splitlines()):
            found = json.loads(line)
            if isinstance(found, dict) and "step" in found:
                return found
    except (OSError, ValueError):
        return {}
    return {}


def folder_of(text: str | None) -> Path:
    """Where the demonstration is written: `--out`, or `nnssl_demo` here.

    Raises:
        NnsslError: the path is a file.
    """
    folder = Path(text or "nnssl_demo").expanduser()
    if folder.exists() and not folder.is_dir():
        raise NnsslError(f"--out must be a folder; {folder} is a file.")
    return folder
