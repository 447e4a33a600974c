"""Scans are taken in in processes of their own: a reader that dies or hangs takes one scan with it, not the ingest.

The readers of images are other people's C++, and a damaged file may end the process that reads it, or stop it for ever.
So each thread that takes scans in has a process beside it, which answers one scan at a time; when it dies, or is out of
time, the scan is refused, and the next one gets a fresh process. What goes between the two is JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import traceback
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from threading import Lock
from types import TracebackType
from typing import Any

from nnssl.errors import DataError
from nnssl.ingest.record import Record
from nnssl.ingest.scan_text import scan_from_plain, scan_to_plain, to_text
from nnssl.ingest.take import Taker, Task
from nnssl.planning.suspects import SECONDS, ended

_PRELOAD = ["nnssl.ingest.take", "SimpleITK", "nibabel", "pydicom", "PIL.Image"]
_END = b""  # in place of a scan
_END_SECONDS = 5.0
_GONE = (EOFError, OSError)  # what a pipe says whose other end is gone


def _context() -> Any:
    """Clean processes that start fast: copies of one that has imported the readers; fresh ones where that is not there.

    Never copies of this process: it has threads, and a caller may have used libraries that do not survive it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


class Apart:
    """`Taker.take` from any number of threads, each time in a process that has nothing else to do.

    A context manager: its end ends the processes.

    Args:
        taker: copied into each process.
    """

    def __init__(self, taker: Taker) -> None:
        self._taker, self._context, self._lock = taker, _context(), Lock()
        self._idle: list[_Child] = []

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._idle:
            child.end()

    def take(self, task: Task) -> Record:
        """Read, judge and write one scan; refused as `reader_crashed` or `reader_hung` where that gives no answer.

        Raises:
            DataError, MemoryError: as raised in the process.
            RuntimeError: no process can be started, or a fault of ours, with its traceback.
        """
        with self._lock:  # one process at a time is started: what they inherit and their ends must not mix
            child = self._idle.pop() if self._idle else _Child(self._context, self._taker)
        patience = None if "reader_hung" in task.record.allowed else SECONDS
        try:
            answer = child.ask(task, patience)
        except TimeoutError:
            with self._lock:
                child.kill()
            return _lost(task, "reader_hung", f"its reader gave no answer within {patience:g} s")
        except _GONE:
            with self._lock:
                code = child.end()
            return _lost(task, "reader_crashed", f"its reader {ended(code)}")
        with self._lock:
            self._idle.append(child)
        return _record(answer)


_ADVICE = {
    "reader_crashed": "have it read once more, after an update or with more memory (-np 1)",
    "reader_hung": "have it waited for without end",
}


def _lost(task: Task, reason: str, what: str) -> Record:
    why = task.scan.refused
    if why is not None and why.reason not in task.record.allowed:  # it was read to know its copies only
        return replace(task.record, status="refused", reason=why.reason, sentence=why.sentence)
    sentence = (
        f"{what}; the other scans were read. Convert it with another program and give that file; or "
        f"{_ADVICE[reason]}, with --accept {reason}"
    )
    return replace(task.record, status="refused", reason=reason, sentence=sentence)


class _Child:
    """A process that takes in one scan after another."""

    def __init__(self, context: Any, taker: Taker) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, taker), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._pipe.recv_bytes()
        except _GONE as error:
            raise RuntimeError(
                f"A process that reads scans cannot be started (exit code {self.end()}). A script that calls ingest "
                f'itself must do so below `if __name__ == "__main__":`.'
            ) from error

    def ask(self, task: Task, seconds: float | None) -> dict[str, Any]:
        """What became of a scan; raises one of `_GONE` when the process dies of it, TimeoutError when time is up."""
        question = {"key": task.key, "scan": scan_to_plain(task.scan), "record": vars(task.record)}
        self._pipe.send_bytes(to_text(question).encode())
        if not self._pipe.poll(seconds):
            raise TimeoutError
        answer: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        return answer

    def end(self) -> int | None:
        """End the process, unless it is at its end; its exit code, negative for a signal."""
        with suppress(*_GONE):
            self._pipe.send_bytes(_END)
        self._pipe.close()
        self._process.join(_END_SECONDS)
        if self._process.exitcode is None:
            self.kill()
        code: int | None = self._process.exitcode
        return code

    def kill(self) -> None:
        """End the process whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _record(answer: dict[str, Any]) -> Record:
    if "fault" in answer:
        raise RuntimeError(f"A process that reads scans failed:\n{answer['fault']}")
    if "unusable" in answer:
        raise DataError(answer["unusable"])
    if "memory" in answer:
        raise MemoryError
    return Record(**answer["record"])


def _serve(pipe: Connection, taker: Taker) -> None:
    """The process: answer until the other end says so, or is gone."""
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks; it ends this one
    with threadpool_limits(1), suppress(*_GONE):
        pipe.send_bytes(b"ready")
        while (text := pipe.recv_bytes()) != _END:
            pipe.send_bytes(to_text(_answer(taker, json.loads(text))).encode())


def _answer(taker: Taker, question: dict[str, Any]) -> dict[str, Any]:
    task = Task(key=question["key"], scan=scan_from_plain(question["scan"]), record=Record(**question["record"]))
    try:
        return {"record": vars(taker.take(task))}
    except DataError as error:
        return {"unusable": str(error)}
    except MemoryError:
        return {"memory": True}
    except Exception:  # handed on, with where it came from
        return {"fault": traceback.format_exc()}
