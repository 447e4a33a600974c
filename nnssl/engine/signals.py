"""Leaving in good order when asked to: SIGTERM, SIGUSR1 (batch systems) and SIGINT (Ctrl-C).

A handler only takes a note, and says so; the training loop saves and leaves at the end of a step. SIGTERM and SIGUSR1
are orders of a batch system that were followed: exit code 0 would make it believe that the run is finished, so the
command ends with 128 + the signal's number, as a shell reports it. A second SIGINT ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))


class StopRequest:
    """Listens for signals while it is entered.

    Args:
        loud: say what a signal does; true on one rank.

    Attributes:
        received: number of the signal that came, 0 if none did.
    """

    def __init__(self, *, loud: bool = True) -> None:
        self.received = 0
        self._loud = loud
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals nowhere else
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == number == signal.SIGINT:
            self._say("Left at once: what came after the last save is lost.")
            raise KeyboardInterrupt
        self.received = number
        again = " Ctrl-C once more leaves at once, without saving." if number == signal.SIGINT else ""
        self._say(f"{signal.Signals(number).name}: the run ends when this step is done and the state saved.{again}")

    def _say(self, sentence: str) -> None:
        if self._loud:  # not by print: the signal may have come in the middle of another one
            with suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), f"\n{sentence}\n".encode())

    @property
    def exit_code(self) -> int:
        """128 + the signal's number."""
        return 128 + self.received
