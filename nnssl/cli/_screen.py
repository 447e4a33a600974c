"""What a long command shows while it works."""

from __future__ import annotations

import sys
import time

QUIET_SECONDS = 20.0  # between two status lines where they cannot overwrite each other


class Screen:
    """Prints; a terminal gets one status line that is overwritten, a log file one every 20 seconds."""

    def __init__(self) -> None:
        """Look whether lines can be overwritten."""
        self.terminal = sys.stdout.isatty()
        self.last = time.monotonic()

    def say(self, sentence: str) -> None:
        """A line that stays."""
        if self.terminal:
            print("\r\033[K", end="")
        print(sentence, flush=True)
        self.last = time.monotonic()

    def status(self, text: str) -> None:
        """A passing line."""
        if self.terminal:
            print(f"\r\033[K      {text[:100]}", end="", flush=True)
        elif text and time.monotonic() - self.last > QUIET_SECONDS:
            print(f"      {text}", flush=True)
            self.last = time.monotonic()
