"""metrics.jsonl: one JSON object a line, appended while a run lasts, cut back where a run is continued.

Two kinds of lines: {"step", "epoch", every scalar of that step, "seconds", "wait_share"} with the 0-based step, and
{"step", "epoch", "health": {..}, "light"} with the number of steps done. A run that was interrupted and continued
leaves the same lines as one that was not, apart from the keys in `TIMINGS`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.errors import StateError

TIMINGS = ("seconds", "wait_share")  # keys that differ from run to run

Line = dict[str, Any]


def read_metrics(path: Path) -> list[Line]:
    """The lines of a metrics.jsonl, or none without the file; a last line torn by a crash is left out.

    Raises:
        StateError: another line is not a JSON object.
    """
    if not path.exists():
        return []
    rows = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines: list[Line] = []
    for number, row in enumerate(rows[:-1], 1):  # what follows the last newline is empty, or torn
        try:
            line = json.loads(row)
        except json.JSONDecodeError as fault:
            raise StateError(
                f"Line {number} of {path} is not JSON ({fault.msg}). Delete that line, or move the file away."
            ) from fault
        if not isinstance(line, dict) or "step" not in line:
            raise StateError(
                f'Line {number} of {path} is not an object with a "step". Delete it, or move the file away.'
            )
        lines.append(line)
    return lines


class MetricsFile:
    """Appends lines. Opening it cuts the file back to what was known when step `start_step` began.

    Attributes:
        lines: how many lines the file has.
        kept: the lines that were kept on opening; a caller may clear it.

    Raises:
        StateError: the file is damaged other than at its end.
    """

    def __init__(self, path: Path, *, start_step: int) -> None:
        self._path = path
        self.kept = [line for line in read_metrics(path) if _known_at(line, start_step)]
        self.lines = len(self.kept)
        self._last = self.kept[-1] if self.kept else None
        with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(_row(line) for line in self.kept)

    def append(self, line: Line) -> None:
        """Write a line; it is in the file when this returns. Values that are not finite become null."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_row(line))
        self.lines += 1
        self._last = line

    def replace_health(self, steps_done: int) -> bool:
        """Drop the last line if it is the health after `steps_done` steps; whether it was."""
        if self._last is None or "health" not in self._last or self._last["step"] != steps_done:
            return False
        os.truncate(self._path, self._path.stat().st_size - len(_row(self._last).encode()))
        self.lines -= 1
        self._last = None
        return True


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """Floats as JSON knows them: what is not finite becomes None."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def _row(line: Line) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _known_at(line: Line, start_step: int) -> bool:
    return bool(line["step"] <= start_step if "health" in line else line["step"] < start_step)
