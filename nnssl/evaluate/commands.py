"""Runs whole commands as processes of their own, shows that they live, and does no finished step again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nnssl.errors import NnsslError

POLL_SECONDS = 0.5
TAIL_LINES = 12


class Screen(Protocol):
    """Where a long command speaks; the command line implements it."""

    def say(self, sentence: str) -> None:
        """A line that stays."""

    def status(self, text: str) -> None:
        """A passing line: what goes on right now. Called often."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One command.

    Attributes:
        name: of its log file and of its mark.
        command: the program and its arguments.
        environment: variables besides those of this process.
        resume: words that go on with what an earlier call left half done; they do not make it another job.
        progress: reads how far the job is, e.g. "120/160"; "" while there is nothing to read.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    resume: Sequence[str] = ()
    progress: Callable[[], str] = lambda: ""

    @property
    def key(self) -> str:
        """Changes with the command and its variables: a mark with another key is not believed."""
        text = json.dumps([list(self.command), dict(self.environment)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def program(name: str) -> str:
    """The path of a command that was installed with this Python, or of one on PATH.

    Raises:
        NnsslError: it is in neither place.
    """
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))
    if found is None:
        raise NnsslError(f"The command {name} is needed; it is neither in {beside} nor on PATH. Run pip install again.")
    return found


class Runner:
    """Runs jobs, leaves a mark for each that ended well, and skips those whose mark is there."""

    def __init__(self, folder: Path, screen: Screen) -> None:
        """Logs and marks go to `folder`."""
        self.folder, self.screen = folder, screen
        folder.mkdir(parents=True, exist_ok=True)

    def done(self, name: str, key: str) -> bool:
        """Whether the step was finished with the same key."""
        mark = self.folder / f"{name}.done"
        return mark.is_file() and mark.read_text().strip() == key

    def mark(self, name: str, key: str) -> None:
        """Remember that the step is finished."""
        (self.folder / f"{name}.done").write_text(key + "\n")

    def run(self, *jobs: Job, at_once: int = 1) -> None:
        """Run jobs, at most `at_once` at a time; those already done are left out.

        Raises:
            NnsslError: a command failed; the end of its log is in the message, and the others were stopped.
        """
        waiting = [job for job in jobs if not self.done(job.name, job.key)]
        running: dict[Job, subprocess.Popen[bytes]] = {}
        start = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[job] = self._start(job)
                time.sleep(POLL_SECONDS)
                for job, process in list(running.items()):
                    if process.poll() is not None:
                        self._finish(job, process.returncode)
                        del running[job]
                self._show(running, len(waiting), time.monotonic() - start)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        with (self.folder / f"{job.name}.log").open("wb") as log:
            return subprocess.Popen(
                [*job.command, *job.resume],
                env={**os.environ, **job.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _finish(self, job: Job, code: int) -> None:
        if code == 0:
            self.mark(job.name, job.key)
            return
        log = self.folder / f"{job.name}.log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise NnsslError(
            f"{Path(job.command[0]).name} ended with code {code} in step {job.name}. Its last lines (all in {log}):\n"
            + "\n".join(lines[-TAIL_LINES:])
        )

    def _show(self, running: Mapping[Job, object], waiting: int, seconds: float) -> None:
        parts = [f"{job.name} {job.progress()}".strip() for job in running]
        if waiting:
            parts.append(f"{waiting} waiting")
        self.screen.status(f"{seconds:4.0f} s  " + ", ".join(parts) if parts else "")
