"""A scan that ended the command which read it is refused by the next one.

Readers are other people's C++, and a damaged file may end, or stop for ever, the process that runs them. While a case
is worked on, a note in the data set's folder says so. Where a note of an earlier command is left, the case is first
read in a process of its own; one that this process does not survive is refused, until its files change.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from nnssl.planning.cases import RawFiles
from nnssl.planning.reading import read_image, source_stamp
from nnssl.planning.refusal import Refused

T = TypeVar("T")
SECONDS = 900.0  # of patience with one case
NOTE = ".reading-"  # and the name of the case
_ADVICE = "Convert it with another program, or remove it."


def watched(function: Callable[[RawFiles], T], folder: Path, reader: str) -> Callable[[RawFiles], T]:
    """`function`, with a look first at cases in whose midst an earlier command ended.

    Args:
        function: reads and uses one case.
        folder: of the preprocessed data set; where the notes lie.
        reader: nnU-Net's reader class name.

    Returns:
        a function that raises Refused for a case whose reader dies, or gives no answer, and else does the same.
    """

    def careful(case: RawFiles) -> T:
        note = folder / f"{NOTE}{case.case_id}"
        stamp = source_stamp(case.files) if all(file.is_file() for file in case.files) else ""
        if stamp and note.is_file() and note.read_text(encoding="utf-8") == stamp:
            check_survives(case, reader)
        note.write_text(stamp, encoding="utf-8")
        try:
            return function(case)
        finally:
            note.unlink(missing_ok=True)

    return careful


def check_survives(case: RawFiles, reader: str, *, seconds: float = SECONDS) -> None:
    """Read a case in a process of its own.

    Raises:
        Refused: `reader_crashed` or `reader_hung`.
    """
    words = [sys.executable, "-m", __name__, reader, *map(os.fspath, case.files)]
    try:
        code = subprocess.run(words, timeout=seconds, stdin=subprocess.DEVNULL, capture_output=True).returncode
    except subprocess.TimeoutExpired:
        raise Refused(
            "reader_hung",
            f"Case {case.case_id} was refused as reader_hung: nothing came of reading {case.files[0]} within "
            f"{seconds:g} s. {_ADVICE}",
        ) from None
    if code != 0:
        raise Refused(
            "reader_crashed",
            f"Case {case.case_id} was refused as reader_crashed: the process that reads {case.files[0]} {ended(code)}. "
            f"{_ADVICE}",
        )


def ended(code: int | None) -> str:
    """How a process ended that should not have: "died of signal 11 (SIGSEGV)", "ended with exit code 3"."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    names = {each.value: each.name for each in signal.Signals}
    return f"died of signal {-code} ({names.get(-code, 'unknown')})"


if __name__ == "__main__":
    with suppress(Exception):  # said by the command itself, which reads it next
        read_image([Path(file) for file in sys.argv[2:]], sys.argv[1])
