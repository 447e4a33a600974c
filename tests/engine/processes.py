"""Processes that start with everything imported: killing and resuming ten times costs no ten imports of nnU-Net."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.engine.workspace import FOLDER, environment

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nnssl.trainer", "nnssl.launch", "nnssl.cli.pretrain", "nnssl.export.checkpoint"])
TIMEOUT = 120.0
TINY = ("701", "3d_fullres", "-tr", "TinyTrainer")


def start(
    root: Path,
    *arguments: str,
    log: Path | None = None,
    before: Callable[[], None] | None = None,
    what: Sequence[str] = TINY,
    **variables: str,
) -> Any:
    """A started `nnssl_pretrain 701 3d_fullres -tr TinyTrainer -device cpu ARGUMENTS`; its words go to `log`.

    Args:
        root: the workspace.
        arguments: of the command.
        log: file for its words.
        before: called in the new process before the command begins.
        what: other data set, configuration and trainer.
        variables: of its environment.
    """
    words = (*what, "-device", "cpu", *arguments)
    process = CONTEXT.Process(
        target=_main, args=(words, environment(root, **variables), log or root / "log.txt", before)
    )
    process.start()
    return process


def run(
    root: Path,
    *arguments: str,
    before: Callable[[], None] | None = None,
    what: Sequence[str] = TINY,
    seconds: float = TIMEOUT,
    **variables: str,
) -> tuple[int, str]:
    """Exit code and words of a whole command, which is killed after `seconds`."""
    log = root / "log.txt"
    process = start(root, *arguments, log=log, before=before, what=what, **variables)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return int(process.exitcode), log.read_text()


def run_ranks(root: Path, count: int, port: int, *arguments: str) -> list[int]:
    """Exit codes of `count` ranks that were announced as torchrun does."""
    processes = start_ranks(root, count, port, *arguments)
    for process in processes:
        process.join(TIMEOUT)
    return [int(process.exitcode) for process in processes]


def start_ranks(
    root: Path, count: int, port: int, *arguments: str, before: Callable[[], None] | None = None, **variables: str
) -> list[Any]:
    """Started ranks, announced as torchrun does; rank r's words go to log.r.txt."""
    return [
        start(
            root,
            *arguments,
            log=root / f"log.{rank}.txt",
            before=before,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(count),
            LOCAL_WORLD_SIZE=str(count),
            MASTER_ADDR="localhost",
            MASTER_PORT=str(port),
            **variables,
        )
        for rank in range(count)
    ]


def wait_for(condition: Callable[[], bool], *, seconds: float = TIMEOUT) -> None:
    """Return as soon as `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.002)


def lines_written(root: Path, name: str) -> int:
    """Lines of a run's metrics.jsonl so far."""
    file = root / FOLDER / f"fold_all--{name}" / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _main(
    arguments: Sequence[str], variables: dict[str, str], log: Path, before: Callable[[], None] | None = None
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    from nnssl.cli.pretrain import main
    from nnssl.engine import journal

    journal.draw_progress = lambda *_: None  # a picture takes longer than these runs; test_progress.py draws it
    stream = log.open("w")
    if before is not None:
        before()
    with stream as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = main(arguments)
    sys.exit(code)
