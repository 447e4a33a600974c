"""Kill a process, or take its disk away, at the i-th file operation below a folder.

Counted are opening for writing, every write that reaches the system, truncating, fsync, link, replace, rename, unlink,
chmod and mkdir. A kill in a write leaves half of it behind. `count` only lists the operations, so that a test knows how
many there are.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

GROWING = {"open", "write", "link", "mkdir"}  # what a full disk goes on refusing after the first refusal
ERRNO = {"full": errno.ENOSPC, "readonly": errno.EROFS, "foreign": errno.EACCES}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What strikes, and where.

    Attributes:
        kind: count the operations; kill -9; disk full; file system read-only; files of another user.
        root: operations on paths below it count.
        at: number of the operation it strikes before.
        window: "module:function:n": only operations within the n-th call (from 1) count; "": all.
    """

    kind: Literal["count", "kill", "full", "readonly", "foreign"]
    root: Path
    at: int = 0
    window: str = ""

    @property
    def list_file(self) -> Path:
        """Where `count` leaves its list."""
        return self.root.parent / f"{self.root.name}.operations"


class Striker:
    """Counts operations and strikes."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.open = not fault.window
        self.seen: list[str] = []
        self.struck = False
        self._list = os.open(fault.list_file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC) if fault.kind == "count" else -1

    def __call__(self, operation: str, path: object) -> bool:
        """Take note of an operation about to happen; whether the process must die in it."""
        name = _name(path)
        if not Path(name).is_relative_to(self.fault.root):
            return False
        if self.struck and operation in GROWING:
            self._refuse(operation, name)
        if not self.open:
            return False
        self.seen.append(operation)
        if self.fault.kind == "count":
            os.write(self._list, f"{operation} {name}\n".encode())
        elif len(self.seen) - 1 == self.fault.at:
            if self.fault.kind == "kill":
                return True
            self.struck = True
            self._refuse(operation, name)
        return False

    def _refuse(self, operation: str, name: str) -> None:
        number = ERRNO[self.fault.kind]
        if operation == "write":  # as the system does it: a refused write does not say where
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), name)


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def install(fault: Fault) -> None:
    """From now on, and for the rest of this process, the fault is armed."""
    striker = Striker(fault)
    for name in ("fsync", "replace", "rename", "link", "unlink", "truncate", "chmod", "mkdir"):
        setattr(os, name, _watched(striker, name, getattr(os, name)))
    os.remove = os.unlink
    os.open = _watched_open(striker, os.open)  # type: ignore[assignment]
    builtins.open = io.open = _files(striker, io.open)  # type: ignore[assignment]
    if fault.window:
        _open_within(striker, *fault.window.split(":"))


def _watched(striker: Striker, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def watched(path: Any, *rest: Any, **named: Any) -> Any:
        if striker(name, path):
            die()
        return real(path, *rest, **named)

    return watched


def _watched_open(striker: Striker, real: Callable[..., int]) -> Callable[..., int]:
    def watched(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and striker("open", path):
            die()
        return real(path, flags, *rest, **named)

    return watched


def _files(striker: Striker, real: Callable[..., Any]) -> Callable[..., Any]:
    class Raw(io.FileIO):
        """A file whose every write is an operation."""

        def write(self, data: Any) -> int:
            if striker("write", self.name):
                super().write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
                die()
            return super().write(data)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+") or isinstance(file, int):
            return real(file, mode, buffering, *rest, **named)
        if striker("open", file):
            die()
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **named)

    return opened


def _open_within(striker: Striker, module: str, name: str, number: str) -> None:
    """Count within the n-th call of a function only."""
    holder: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    real, calls = getattr(holder, last), iter(range(1, 10**6))

    def within(*arguments: Any, **named: Any) -> Any:
        striker.open = next(calls) == int(number)
        try:
            return real(*arguments, **named)
        finally:
            striker.open = False

    setattr(holder, last, within)


def _name(path: object) -> str:
    if isinstance(path, int):
        return str(Path(f"/proc/self/fd/{path}").readlink()) if path > 2 else ""
    return os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]  # noqa: PTH100  links are left as they are
