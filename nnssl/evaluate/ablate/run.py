"""Runs an ablation: every setting a pretraining of its own by `nnssl_pretrain`, then a judge on labelled cases."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nnssl.engine.checkpoint import LATEST, PREVIOUS
from nnssl.engine.recipe import differences
from nnssl.engine.run_folder import FINAL, RunFolder
from nnssl.errors import StateError
from nnssl.evaluate.ablate.plan import BASE, Run
from nnssl.evaluate.commands import Job, Runner, Screen, program
from nnssl.paths import Folders, dataset_id

Judge = Literal["probe", "compare"]
_SAME_RUN = ("threads", "precision")  # what a recipe leaves to the machine


@dataclass(frozen=True, kw_only=True)
class Request:
    """An ablation as asked for.

    Attributes:
        datasets: full names; the plans are those of the first.
        configuration: of the plans.
        trainer: class name.
        plans_name: of the plans file.
        preset: of the trainer, or None.
        runs: all pretrainings, the base first.
        target: labelled data set that judges, by number or name, or None: label-free signals only.
        judge: by a probe, or by fine-tuning.
        judge_options: words passed on to its command.
        device: "cpu", "cuda", ...; None: the commands' own choice.
        at_once: pretrainings at the same time.
        out: folder of the ablation.
    """

    datasets: Sequence[str]
    configuration: str
    trainer: str
    plans_name: str
    preset: str | None
    runs: Sequence[Run]
    target: str | None = None
    judge: Judge = "probe"
    judge_options: Sequence[str] = ()
    device: str | None = None
    at_once: int = 1
    out: Path = Path("nnssl_ablate")


class Ablation:
    """An ablation. Pretrainings lie in nnU-Net's results folder; finished ones are kept, others go on."""

    def __init__(self, request: Request, where: Folders, screen: Screen) -> None:
        """Look at what is there.

        Raises:
            StateError: a folder that a run would use holds a run of another recipe.
        """
        self.request, self.where, self.screen = request, where, screen
        for run in request.runs:
            self._check_folder(run)

    def folder(self, run: Run) -> Path:
        """Of a pretraining."""
        request = self.request
        kind = f"{request.trainer}__{request.plans_name}__{request.configuration}"
        return self.where.results / request.datasets[0] / kind / f"fold_all--{run.name}"

    def judged(self, run: Run) -> Path:
        """Folder of a run's probe."""
        return self.request.out / "probe" / run.name

    @property
    def comparison(self) -> Path:
        """Folder of the comparison of all runs."""
        return self.request.out / "compare"

    def commands(self) -> list[str]:
        """Every command line that `run` would start now, in order."""
        jobs = [self._pretraining(run) for run in self.request.runs if not self._finished(run)]
        return [
            shlex.join([Path(job.command[0]).name, *job.command[1:], *job.resume]) for job in [*jobs, *self._judges()]
        ]

    def describe(self) -> str:
        """What will be done, in a sentence."""
        runs = self.request.runs
        done = sum(map(self._finished, runs))
        settings = len({run.setting for run in runs})
        recipe = runs[0].recipe
        return (
            f"{settings} settings (the base among them), {len(runs)} pretrainings of {recipe.total_steps} steps with "
            f"{recipe.batch_size} samples each; {done} of them are finished."
        )

    def run(self) -> None:
        """Everything that is not finished.

        Raises:
            NnsslError: a command failed; its log is named.
        """
        runner = Runner(self._logs, self.screen)
        waiting = [self._pretraining(run) for run in self.request.runs if not self._finished(run)]
        for job in waiting:  # a folder that was removed since is no finished run, whatever the mark says
            for name in (job.name, f"probe-{job.name}", "compare"):
                (runner.folder / f"{name}.done").unlink(missing_ok=True)
        runner.run(*waiting, at_once=self.request.at_once)
        runner.run(*self._judges())

    @property
    def _logs(self) -> Path:
        return self.request.out / "logs"

    def _pretraining(self, run: Run) -> Job:
        request = self.request
        numbers = [str(dataset_id(name)) for name in request.datasets]
        command = [program("nnssl_pretrain"), *numbers, request.configuration, "-tr", request.trainer]
        command += ["-p", request.plans_name, "--name", run.name]
        command += ["--preset", request.preset] if request.preset else []
        command += ["-device", request.device] if request.device else []
        command += ["--set", *(f"{key}={value}" for key, value in run.overrides.items())] if run.overrides else []
        folder = self.folder(run)
        begun = any((folder / name).is_file() for name in (LATEST, PREVIOUS))
        return Job(
            name=run.name,
            command=command,
            environment={},
            resume=["--c"] if begun else [],
            progress=partial(_last_step, folder / "metrics.jsonl", run.recipe.total_steps),
        )

    def _judges(self) -> list[Job]:
        request, weights = self.request, [str(self.folder(run) / FINAL) for run in self.request.runs]
        if request.target is None:
            return []
        device = ["-device", request.device] if request.device else []
        if request.judge == "compare":
            command = [program("nnssl_compare"), request.target, request.configuration, "-w", *weights]
            command += [*device, "-o", str(self.comparison), *request.judge_options]
            return [self._judge("compare", command)]
        jobs = []
        for run, path in zip(request.runs, weights, strict=True):
            command = [program("nnssl_probe"), path, "-d", request.target, "-c", request.configuration]
            command += [*device, "-o", str(self.judged(run)), *request.judge_options]
            # one untrained network is enough: all runs have its architecture
            command += [] if run is request.runs[0] else ["--no_untrained"]
            jobs.append(self._judge(f"probe-{run.name}", command))
        return jobs

    def _judge(self, name: str, command: Sequence[str]) -> Job:
        log = self._logs / f"{name}.log"
        return Job(name=name, command=command, environment={}, progress=partial(_last_words, log))

    def _finished(self, run: Run) -> bool:
        return (self.folder(run) / FINAL).is_file()

    def _check_folder(self, run: Run) -> None:
        folder = self.folder(run)
        stored = RunFolder(folder).stored if folder.is_dir() else None
        if stored is None:
            return
        changed = [one for one in differences(stored["recipe"], run.recipe) if one.partition(":")[0] not in _SAME_RUN]
        if stored["recipe"].get("epochs") != run.recipe.epochs:
            changed.append(f"epochs: {stored['recipe'].get('epochs')} -> {run.recipe.epochs}")
        if changed:
            raise StateError(
                f"{folder} holds a run of another recipe ({'; '.join(changed)}). Give the ablation a --prefix of its "
                f"own, or remove the folder."
            )


def title(run: Run) -> str:
    """Of a run's setting, for tables."""
    return f"{run.factor}={run.value}" if run.factor else BASE


def _last_step(log: Path, total: int) -> str:
    try:
        steps = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[-3:]]
    except (OSError, ValueError):
        return "starting"
    return f"{max((int(step.get('step', -1)) for step in steps), default=-1) + 1}/{total}"


def _last_words(log: Path) -> str:
    """What a judge said last: it tells its own progress."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "starting"
    return lines[-1].strip() if lines else "starting"


def plain_setting(run: Run) -> Mapping[str, Any]:
    """A run's setting as JSON values."""
    return {"factor": run.factor or None, "value": run.value or None, "seed": run.recipe.seed}
