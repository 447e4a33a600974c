"""Runs whole commands as processes of their own, shows that they live, and does no finished step again.

Processes live no longer than the command that started them: SIGTERM and Ctrl-C end them all, with their own children.
Where that command itself was killed, its lock lasts as long as one of them, so that no two calls write to one folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from nnssl.atomic import whole_file
from nnssl.engine.run_folder import lock
from nnssl.engine.signals import StopRequest
from nnssl.errors import NnsslError, UsageError

POLL_SECONDS = 0.5
TAIL_LINES = 12
PATIENCE_SECONDS = 60.0  # for a process that was asked to end: a pretraining saves its state first


class Stopped(NnsslError):
    """A signal ended the command; all that was finished is kept."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(number).name}. What is finished is kept; the same command goes on from there."
        )
        self.exit_code = 128 + number  # as a shell reports it


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
        identity: what makes it this job; None: the command and its variables.
        prepare: called right before the start with whether the very same job was started before; returns the command
            in place of `command`. None: `command` with `resume`.
        progress: reads how far the job is, e.g. "120/160"; "" while there is nothing to read.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    resume: Sequence[str] = ()
    identity: str | None = None
    prepare: Callable[[bool], Sequence[str]] | None = None
    progress: Callable[[], str] = lambda: ""

    @property
    def key(self) -> str:
        """Changes with what makes the job: a mark with another key is not believed."""
        text = self.identity or json.dumps([list(self.command), dict(self.environment)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place where one job at a time runs, e.g. a device.

    Attributes:
        words: put behind the job's command.
        environment: variables besides the job's.
    """

    words: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


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

    def done(self, name: str, key: str) -> bool:
        """Whether the step was finished with the same key."""
        mark = self.folder / f"{name}.done"
        return mark.is_file() and mark.read_text().strip() == key

    def mark(self, name: str, key: str) -> None:
        """Remember that the step is finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / f"{name}.done") as temporary:
            temporary.write_text(key + "\n")

    def run(self, *jobs: Job, at_once: int = 1, slots: Sequence[Slot] = ()) -> None:
        """Run jobs, one a slot at a time; those already done are left out.

        Args:
            jobs: in the order in which they are started.
            at_once: how many, where all slots are alike.
            slots: where they are not.

        Raises:
            NnsslError: a command failed; the end of its log is in the message, and the others were stopped.
            Stopped: SIGTERM or Ctrl-C came; all were stopped.
            UsageError: another call is at work in the folder.
        """
        waiting = [job for job in jobs if not self.done(job.name, job.key)]
        if not waiting:
            return  # also while another call is at work
        free = list(slots or [Slot()] * at_once)
        running: dict[Job, tuple[subprocess.Popen[bytes], Slot]] = {}
        clock = _Clock(jobs=len(jobs), done=len(jobs) - len(waiting))
        with self._held() as held, StopRequest() as stop:
            try:
                while waiting or running:
                    while waiting and free:
                        job = waiting.pop(0)
                        slot = free.pop(0)
                        running[job] = self._start(job, slot, held), slot
                    self._show(list(running), len(waiting), clock)
                    time.sleep(POLL_SECONDS)
                    if stop.received:
                        raise Stopped(stop.received)
                    for job, (process, slot) in list(running.items()):
                        if process.poll() is not None:
                            self._finish(job, process)
                            del running[job]
                            free.append(slot)
                            clock.finished += 1
                self.screen.status("")
            finally:
                _end([process for process, _ in running.values()])

    def _held(self) -> IO[str]:
        """The folder's lock, open; processes that are started inherit it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = (self.folder / ".lock").open("a+", encoding="utf-8")
        if not lock(file):
            file.close()
            raise UsageError(
                f"Another call is at work in {self.folder.parent}, or what it started still runs. Wait for it or stop "
                f"it, then run the same command again."
            )
        return file

    def _start(self, job: Job, slot: Slot, held: IO[str]) -> subprocess.Popen[bytes]:
        begun = self.folder / f"{job.name}.begun"
        again = begun.is_file() and begun.read_text().strip() == job.key
        begun.unlink(missing_ok=True)  # whatever `prepare` does, half of it must not count as a start
        command = [*job.command, *job.resume] if job.prepare is None else list(job.prepare(again))
        begun.write_text(job.key + "\n")
        with (self.folder / f"{job.name}.log").open("ab" if again else "wb") as log:
            return subprocess.Popen(
                [*command, *slot.words],
                env={**os.environ, **job.environment, **slot.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
                pass_fds=() if sys.platform == "win32" else (held.fileno(),),
            )

    def _finish(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        code = process.returncode
        if code == 0:
            self.mark(job.name, job.key)
            return
        log = self.folder / f"{job.name}.log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        command = Path(str(process.args[0])).name if isinstance(process.args, list) else job.name
        raise NnsslError(
            f"{command} ended with code {code} in step {job.name}. Its last lines (all in {log}):\n"
            + "\n".join(lines[-TAIL_LINES:])
        )

    def _show(self, running: Sequence[Job], waiting: int, clock: _Clock) -> None:
        parts = [f"{job.name} {job.progress()}".strip() for job in running]
        if waiting:
            parts.append(f"{waiting} waiting")
        self.screen.status(f"{clock.text(len(running) + waiting)}  " + ", ".join(parts) if parts else "")


class _Clock:
    """How many jobs are done, and how long the rest will take if it takes as long as those of this call."""

    def __init__(self, *, jobs: int, done: int) -> None:
        self.jobs, self.done, self.finished = jobs, done, 0
        self.began = time.monotonic()

    def text(self, left: int) -> str:
        """For the status line."""
        seconds = time.monotonic() - self.began
        if self.jobs == 1:
            return f"{seconds:4.0f} s"
        shown = f"{seconds:4.0f} s, {self.done + self.finished} of {self.jobs} done"
        if not self.finished:
            return shown
        return f"{shown}, about {max(1, round(seconds / self.finished * left / 60))} min left"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes with what they started; those that do not listen are killed."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        process.terminate()
        return
    with contextlib.suppress(ProcessLookupError):  # it ended in this very moment
        os.killpg(process.pid, number)
