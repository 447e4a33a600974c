"""The diary of a run: metrics.jsonl, a log in sentences, progress.png and the progress bar. Only rank 0 keeps one.

How the trainer uses it:

    journal = Journal(folder, total_steps=.., steps_per_epoch=.., enabled=rank == 0, start_step=state.step)
    journal.say("Pretraining starts.")
    journal.step(index, {"loss": loss, "loss/dense": .., "lr": .., "weight_decay": .., "gradient_norm": ..},
                 seconds=.., waited_seconds=..)                   # every optimizer step; device tensors are welcome
    journal.health(steps_done, report.values, light=report.light, sentences=report.sentences)
    journal.epoch_end(epoch)                                      # summary, picture
    state["journal"] = journal.state_dict()                       # before every save: nothing is left in the queue
    journal.load_state_dict(state["journal"])                     # when continuing: says if lines were lost since
    journal.close()

The lines of metrics.jsonl are described in `nnssl.engine.metrics`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TextIO

from nnssl.engine.late import LateScalars, Scalar
from nnssl.engine.metrics import TIMINGS, Line, MetricsFile, plain
from nnssl.engine.progress import EpochSummary, ProgressBar, draw_progress

SLOW_STEP = 5.0  # seconds from which on the first step is told: the first epoch's sentence is far away
SECONDS_BETWEEN_PICTURES = 30.0  # a picture takes about a second; epochs may be shorter


class Journal:
    """Keeps the diary of one run. All methods do nothing when `enabled` is false.

    Args:
        folder: the run's output folder.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps per epoch.
        enabled: true on rank 0 only.
        start_step: the step the run continues at; metrics.jsonl is cut back to what was known then.
        stream: where sentences and the bar go; standard output if None.
        log_file: file for the sentences (nnU-Net's own trainer names one); a new training_log_*.txt if None.

    Raises:
        StateError: metrics.jsonl is damaged other than at its end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        steps_per_epoch: int,
        enabled: bool = True,
        start_step: int = 0,
        stream: TextIO | None = None,
        log_file: Path | None = None,
    ) -> None:
        self.enabled = enabled
        self._steps_per_epoch = steps_per_epoch
        self._epochs_in_all = math.ceil(total_steps / steps_per_epoch)
        self._folder = Path(folder)
        self._late = LateScalars()
        self._timings: dict[int, tuple[float, float]] = {}  # step -> seconds and wait share, until its scalars arrive
        self._loss: float | None = None
        self._health: list[Line] = []
        self._epochs: list[EpochSummary] = []
        self._recent: list[Line] = []  # of the epoch that is not finished
        self._pictured = -math.inf
        self._start_step, self._total_steps = start_step, total_steps
        if not enabled:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now()
        name = f"training_log_{now.year}_{now.month}_{now.day}_{now:%H_%M_%S}.txt"  # as nnU-Net names it
        self._log = Path(log_file) if log_file else self._folder / name
        self._bar = ProgressBar(total=total_steps, done=start_step, stream=stream or sys.stdout)
        self._metrics = MetricsFile(self._folder / "metrics.jsonl", start_step=start_step)
        self._restore(self._metrics.kept)
        self._metrics.kept = []

    def say(self, sentence: str) -> None:
        """Write a sentence, with the time, to the log and to the stream."""
        if not self.enabled:
            return
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S.%f}: {sentence}\n")
        self._bar.write(sentence)

    def step(self, index: int, values: Mapping[str, Scalar], *, seconds: float, waited_seconds: float) -> None:
        """Log an optimizer step. Never makes the device wait.

        Args:
            index: the 0-based optimizer step.
            values: scalars by name; "loss" is the total, "loss/NAME" a part of it.
            seconds: wall time of the step, waiting included.
            waited_seconds: the part of it spent waiting for data.
        """
        if not self.enabled:
            return
        share = min(1.0, waited_seconds / seconds) if seconds > 0 else 0.0
        self._timings[index] = (round(seconds, 6), round(share, 4))
        self._late.put(index, values)
        self._write(self._late.ready())
        self._bar.advance(loss=self._loss, wait_share=share)
        left = self._total_steps - index - 1
        if index == self._start_step and left and seconds >= SLOW_STEP:
            self.say(f"The first step took {seconds:.0f} s; {left} more like it take {_duration(left * seconds)}.")

    def health(
        self, steps_done: int, values: Mapping[str, float], *, light: str = "green", sentences: Sequence[str] = ()
    ) -> None:
        """Log a health measurement made after `steps_done` steps, and say its sentences.

        Measuring again at the step a run was continued from replaces the earlier line: there is one per step.
        """
        if not self.enabled:
            return
        self.flush()
        if self._metrics.replace_health(steps_done):
            self._health.pop()
        line = {
            "step": steps_done,
            "epoch": steps_done / self._steps_per_epoch,
            "health": plain(values),
            "light": light,
        }
        self._metrics.append(line)
        self._health.append(line)
        for sentence in sentences:
            self.say(sentence)

    def epoch_end(self, epoch: int) -> None:
        """Say how the epoch went and redraw progress.png (at most twice a minute, and at the end)."""
        if not self.enabled:
            return
        self.flush()
        summary = _summary(epoch, [line for line in self._recent if line["epoch"] == epoch])
        self._recent = [line for line in self._recent if line["epoch"] > epoch]
        self._epochs = [*(known for known in self._epochs if known.epoch < epoch), summary]
        self.say(self._sentence(summary))
        if time.monotonic() - self._pictured > SECONDS_BETWEEN_PICTURES:
            self.draw()

    def flush(self) -> None:
        """Write everything that is still queued, waiting for the device if need be."""
        if self.enabled:
            self._write(self._late.everything())

    def draw(self) -> None:
        """Redraw progress.png now."""
        if self.enabled:
            draw_progress(self._folder / "progress.png", self._epochs, self._health)
            self._pictured = time.monotonic()

    def close(self) -> None:
        """Write what is left, draw the last picture, remove the bar."""
        if self.enabled:
            self.flush()
            self.draw()
            self._bar.close()

    def state_dict(self) -> dict[str, int]:
        """The position, after writing all that is queued: what a state counts on must be on disk before it."""
        self.flush()
        return {"lines": self._metrics.lines if self.enabled else 0}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Compare with the position a state was saved at, and say so if lines were lost since."""
        if self.enabled and self._metrics.lines < state["lines"]:
            lost = state["lines"] - self._metrics.lines
            self.say(f"metrics.jsonl lacks {lost} lines of the run being continued; its curves will have a gap.")

    def _restore(self, lines: Sequence[Line]) -> None:
        """Rebuild the curves from the lines of the run being continued; an unfinished epoch stays open."""
        self._health = [line for line in lines if "health" in line]
        for epoch, group in groupby((line for line in lines if "health" not in line), key=lambda line: line["epoch"]):
            self._recent = list(group)
            if self._recent[-1]["step"] == (epoch + 1) * self._steps_per_epoch - 1:
                self._epochs.append(_summary(epoch, self._recent))
                self._recent = []

    def _write(self, steps: Sequence[tuple[int, dict[str, float]]]) -> None:
        for index, values in steps:
            self._loss = values.get("loss", self._loss)
            timings = dict(zip(TIMINGS, self._timings.pop(index), strict=True))
            line = {"step": index, "epoch": index // self._steps_per_epoch, **plain(values), **timings}
            self._metrics.append(line)
            self._recent.append(line)

    def _sentence(self, summary: EpochSummary) -> str:
        shown = [f"{name} {summary.values[name]:.4g}" for name in ("loss", "lr") if name in summary.values]
        shown += [f"{summary.seconds:.1f} s", f"{summary.wait_share:.0%} of it waiting for data"]
        left = _duration((self._epochs_in_all - summary.epoch - 1) * summary.seconds)
        return f"Epoch {summary.epoch + 1} of {self._epochs_in_all}: {', '.join(shown)}; about {left} left."


def _summary(epoch: int, lines: Sequence[Line]) -> EpochSummary:
    seconds = math.fsum(line["seconds"] for line in lines)
    waited = math.fsum(line["seconds"] * line["wait_share"] for line in lines)
    names = dict.fromkeys(name for line in lines for name in line if name not in {"step", "epoch", *TIMINGS})
    values = {name: _mean([line[name] for line in lines if name in line]) for name in names}
    return EpochSummary(epoch=epoch, values=values, seconds=seconds, wait_share=waited / seconds if seconds else 0.0)


def _mean(values: Sequence[float | None]) -> float:
    return math.fsum(math.nan if value is None else value for value in values) / len(values)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
