"""A SLURM of two stub programs and a loop: what `docs/how-to/slurm` is run under, here where no SLURM is.

It does what the templates rely on: sets SLURM_* variables, starts the tasks of a step with their numbers, sends SIGUSR1
to all tasks near the time limit (`--signal=USR1@300`), gives the step the highest exit code of its tasks, and starts a
requeued job again with SLURM_RESTART_COUNT one higher. Time is counted in lines of a file, so that nothing depends on
the machine's speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "slurm"
_SRUN = """#!{python}
import os, signal, subprocess, sys, time
from pathlib import Path
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
tasks, nodes = (int(os.environ.get(name, "1")) for name in ("SLURM_NTASKS", "SLURM_NNODES"))
each = tasks // nodes
running = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task % each)}})
    for task in range(tasks)
]
limit, clock = int(os.environ["FAKE_LIMIT"]), Path(os.environ["FAKE_CLOCK"])
while limit and any(task.poll() is None for task in running):
    if clock.is_file() and clock.read_bytes().count(b"\\n") >= limit:
        for task in running:
            task.send_signal(signal.SIGUSR1)
        break
    time.sleep(0.005)
codes = [task.wait() for task in running]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
_SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") echo localhost ;;
    requeue*) echo "$2" >> "$FAKE_QUEUE" ;;
    *) exit 1 ;;
esac
"""


@dataclass
class Job:
    """A job and how often it was started.

    Attributes:
        codes: exit codes of the script, one a start.
        log: all it said.
    """

    codes: list[int] = field(default_factory=list)
    log: str = ""


@dataclass(frozen=True)
class FakeSlurm:
    """A cluster in a folder.

    Attributes:
        folder: for the stub programs and the queue.
        environment: of every job.
        clock: file whose lines are the time.
    """

    folder: Path
    environment: Mapping[str, str]
    clock: Path

    def submit(
        self, template: str, *words: str, limits: tuple[int, ...] = (), tasks: int = 1, nodes: int = 1, **more: str
    ) -> Job:
        """Run a template until it no longer asks to be requeued.

        Args:
            template: its file name.
            words: after the file's name.
            limits: lines of the clock at which the first start, the second .. is near its time limit.
            tasks: of the job, on all nodes.
            nodes: of the job.
            more: other variables.
        """
        job, queue = Job(), self.folder / "queue"
        while len(job.codes) < 10:
            start = len(job.codes)
            numbers = {
                "SLURM_NTASKS": str(tasks),
                "SLURM_NNODES": str(nodes),
                "FAKE_LIMIT": str(limits[start] if start < len(limits) else 0),
                **({"SLURM_RESTART_COUNT": str(start)} if start else {}),
            }
            started = self.start(template, *words, **numbers, **more)
            job.log += started.communicate(timeout=300)[0]
            job.codes.append(started.returncode)
            if not queue.is_file():
                break
            queue.unlink()
        return job

    def start(self, template: str, *words: str, **more: str) -> subprocess.Popen[str]:
        """A template on its way, with `more` variables; its output is text."""
        bash = shutil.which("bash")
        if bash is None:
            raise FileNotFoundError("bash")
        self._programs()
        variables = {
            **os.environ,
            **self.environment,
            "PATH": os.pathsep.join([str(self.folder), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_PER_TASK": "1",
            "FAKE_QUEUE": str(self.folder / "queue"),
            "FAKE_CLOCK": str(self.clock),
            "FAKE_LIMIT": "0",
            **more,
        }
        command = [bash, str(TEMPLATES / template), *words]
        return subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )

    def _programs(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for name, text in (("srun", _SRUN.format(python=sys.executable)), ("scontrol", _SCONTROL)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
