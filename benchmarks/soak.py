"""Does a long run stay as it began? Memory, files and the time of a step over an hour, and what is left after the end.

    python benchmarks/soak.py [--minutes 60] [--samples 120] [--keep FOLDER]

One tiny run of the real command on the CPU (a quarter-wide network, generated phantoms, one reading thread), stopped
after `--minutes` with SIGTERM. A run that is stopped with Ctrl-C and one that is killed follow, a few seconds each.
Prints a table and one JSON line; ends non-zero when a bound is broken:

- resident memory, the last quarter's median against the second quarter's: within 2 %;
- files in the run's folder: as many at the end as when it held two states and weights, where the measuring begins;
- seconds of a step, the last quarter's median against the second quarter's: at most 10 % more, by the clock or by
  processor time, whichever grew less (a busy machine slows the clock, a slow disk only the clock: keep it free);
- no process left after the end, Ctrl-C or kill -9.

The second quarter is the first that counts: allocators fill their pools before it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods import PLANS, environment, prepare

from nnssl.demo.small_plan import CONFIGURATION
from nnssl.engine.checkpoint import PREVIOUS
from nnssl.engine.run_folder import NEWEST
from nnssl.evaluate.commands import program

TRAINER = "MAETrainer"
MEMORY, SLOWDOWN = 0.02, 0.10  # bounds
START, END = 400.0, 120.0  # seconds for the first files to be there, and for a stopped run to be gone


@dataclass(frozen=True)
class Sample:
    """One look at a run.

    Attributes:
        minute: since the folder held two states.
        steps: taken so far.
        memory_mib: resident memory of all its processes.
        processor_seconds: used by all its processes.
        files: in its folder.
        threads: of all its processes.
        opened: file descriptors of all its processes.
    """

    minute: float
    steps: int
    memory_mib: float
    processor_seconds: float
    files: int
    threads: int
    opened: int


class Run:
    """A pretraining in a session of its own, so that whatever it starts can be found."""

    def __init__(self, root: Path, dataset: str, name: str) -> None:
        self.folder = root / "nnUNet_results" / dataset / f"{TRAINER}__{PLANS}__{CONFIGURATION}" / f"fold_all--{name}"
        short = ("epochs=100000", "steps_per_epoch=100", "batch_size=2", "save_every_minutes=0.5")
        words = [program("nnssl_pretrain"), dataset.removeprefix("Dataset")[:3], CONFIGURATION, "-tr", TRAINER]
        options = ["-p", PLANS, "--name", name, "-device", "cpu", "-num_workers", "1", "--set", *short]
        self._log = (root / f"{name}.txt").open("w")
        self.process = subprocess.Popen(
            [*words, *options], env=environment(root), stdout=self._log, stderr=self._log, start_new_session=True
        )

    def steps(self) -> list[float]:
        """Seconds of every step so far."""
        file = self.folder / "metrics.jsonl"
        lines = [json.loads(row) for row in file.read_text().split("\n")[:-1]] if file.is_file() else []
        return [line["seconds"] for line in lines if "seconds" in line]

    def wait_for_steps(self, number: int) -> None:
        """Return when so many steps are done."""
        self._wait(lambda: len(self.steps()) >= number)

    def wait_for_files(self) -> None:
        """Return when the folder holds all that a run ever writes before its end: two states, and weights."""
        self._wait(lambda: all((self.folder / name).is_file() for name in (PREVIOUS, NEWEST)))

    def _wait(self, reached: Callable[[], bool]) -> None:
        """Return when it is.

        Raises:
            SystemExit: the run ended, or took too long.
        """
        end = time.monotonic() + START
        while not reached():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                sys.exit(f"The run did not start; its words are in {self._log.name}.")
            time.sleep(0.2)

    def look(self, began: float) -> Sample:
        """A sample of now."""
        members = list(session(self.process.pid))
        return Sample(
            minute=round((time.monotonic() - began) / 60, 2),
            steps=len(self.steps()),
            memory_mib=round(sum(_resident(member) for member in members) / 2**20, 1),
            processor_seconds=sum(_processor(member) for member in members),
            files=sum(1 for _ in self.folder.iterdir()),
            threads=sum(_entries(member / "task") for member in members),
            opened=sum(_entries(member / "fd") for member in members),
        )

    def end(self, number: signal.Signals) -> tuple[int, int]:
        """Send a signal; the exit code, and how many processes are left behind."""
        self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END)
        time.sleep(0.5)
        left = len(list(session(self.process.pid)))
        self.kill()
        return int(self.process.returncode), left

    def kill(self) -> None:
        """Leave nothing behind, whatever happened."""
        for member in session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(member.name), signal.SIGKILL)
        self.process.wait(END)
        self._log.close()


def session(leader: int) -> Iterator[Path]:
    """/proc folders of the living processes of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                yield folder


def _resident(member: Path) -> int:
    with contextlib.suppress(OSError):
        return int((member / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _processor(member: Path) -> float:
    with contextlib.suppress(OSError):
        fields = (member / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _entries(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in folder.iterdir())
    return 0


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the second and of the last quarter."""
    size = len(values) // 4
    return statistics.median(values[size : 2 * size]), statistics.median(values[-size:])


def processor_steps(samples: Sequence[Sample]) -> tuple[float, float]:
    """Processor seconds a step in the second and in the last quarter."""
    size = len(samples) // 4
    pairs = ((samples[size], samples[2 * size]), (samples[-size - 1], samples[-1]))
    first, last = (
        (late.processor_seconds - early.processor_seconds) / max(1, late.steps - early.steps) for early, late in pairs
    )
    return first, last


def judge(samples: Sequence[Sample], seconds: Sequence[float], ends: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """The figures and, under "broken", every bound that does not hold."""
    memory, files = ([float(getattr(sample, name)) for sample in samples] for name in ("memory_mib", "files"))
    (memory_2, memory_4), (step_2, step_4) = quarters(memory), quarters(seconds)
    (files_2, files_4), (opened_2, opened_4) = quarters(files), quarters([float(sample.opened) for sample in samples])
    processor_2, processor_4 = processor_steps(samples)
    slower = min(step_4 / step_2, processor_4 / processor_2)
    rules = {
        f"resident memory grew by {memory_4 / memory_2 - 1:.1%}": memory_4 <= memory_2 * (1 + MEMORY),
        f"files went from {files_2:g} to {files_4:g}": files_4 == files_2,
        f"open files went from {opened_2:g} to {opened_4:g}": opened_4 <= opened_2 + 1,
        f"a step took {slower - 1:.1%} longer": slower <= 1 + SLOWDOWN,
        **{f"{left} processes left after {how}": left == 0 for how, (_, left) in ends.items()},
        "SIGTERM was not answered with 143": ends["SIGTERM"][0] == 143,
        "Ctrl-C was not answered with 130": ends["Ctrl-C"][0] == 130,
    }
    return {
        "minutes": samples[-1].minute,
        "steps": len(seconds),
        "memory_mib": [memory_2, memory_4],
        "memory_ratio": round(memory_4 / memory_2, 4),
        "files": [files_2, files_4],
        "step_seconds": [round(step_2, 5), round(step_4, 5)],
        "step_ratio": round(step_4 / step_2, 4),
        "processor_step_ratio": round(processor_4 / processor_2, 4),
        "left": {how: left for how, (_, left) in ends.items()},
        "broken": [sentence for sentence, held in rules.items() if not held],
    }


def soak(root: Path, minutes: float, number: int) -> dict[str, Any]:
    """The whole measurement in `root`; prints the table."""
    dataset = prepare(root, [TRAINER])
    run = Run(root, dataset, "soak")
    try:
        run.wait_for_files()
        began, samples = time.monotonic(), []
        print(f"{'minute':>7} {'steps':>7} {'MiB':>8} {'files':>5} {'threads':>7} {'open':>5}", flush=True)
        for index in range(1, number + 1):
            time.sleep(max(0.0, began + index * minutes * 60 / number - time.monotonic()))
            samples.append(run.look(began))
            if index % max(1, number // 20) == 0:
                last = samples[-1]
                row = f"{last.memory_mib:8.1f} {last.files:5d} {last.threads:7d} {last.opened:5d}"
                print(f"{last.minute:7.2f} {last.steps:7d} {row}", flush=True)
        ends = {"SIGTERM": run.end(signal.SIGTERM)}
        seconds = run.steps()
    finally:
        run.kill()
    for how, number_of in (("Ctrl-C", signal.SIGINT), ("kill -9", signal.SIGKILL)):
        short = Run(root, dataset, how.replace(" ", ""))
        try:
            short.wait_for_steps(5)
            ends[how] = short.end(number_of)
        finally:
            short.kill()
    return judge(samples, seconds, ends)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--samples", type=int, default=120, help="looks at the run, at least 8")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
    arguments = parser.parse_args(argv)
    if arguments.samples < 8 or arguments.minutes <= 0:
        parser.error("--samples must be at least 8 and --minutes over 0")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) if arguments.keep is None else arguments.keep
        root.mkdir(parents=True, exist_ok=True)
        found = soak(root, arguments.minutes, arguments.samples)
    print(json.dumps(found))
    for sentence in found["broken"]:
        print(f"Broken: {sentence}.", file=sys.stderr)
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
