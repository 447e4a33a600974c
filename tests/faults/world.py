"""Runs that a fault strikes, and what must be true of them afterwards."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnssl.engine.checkpoint import LATEST, PREVIOUS
from nnssl.engine.distributed import free_port
from tests.engine.processes import CONTEXT, TIMEOUT, run, start_ranks
from tests.engine.test_resume import LENGTH, assert_same
from tests.engine.workspace import FOLDER
from tests.faults import boundaries
from tests.faults.blows import Blow, strike
from tests.faults.boundaries import Fault

RUN_FILES = {
    "recipe.json", "plans.json", "dataset.json", "metrics.jsonl", "health.json", "progress.png", LATEST, PREVIOUS,
    "pretrained_latest.pth", "checkpoint_final.pth", "encoder.safetensors", "MODEL_CARD.md", ".lock",
}  # fmt: skip


def prepared(fault: Fault | Blow | None, without: Sequence[str]) -> None:
    """In a new process: take guards out, then arm the fault."""
    from tests.faults.guards import take_out

    for guard in without:
        take_out(guard)
    if isinstance(fault, Fault):
        boundaries.install(fault)
    elif fault is not None:
        strike(fault)


def attempt(
    root: Path, name: str, *arguments: str, fault: Fault | Blow | None = None, without: Sequence[str] = (), **more: str
) -> tuple[int, str]:
    """Exit code and words (on one line) of a run of `LENGTH` under a fault."""
    begun = "--c" in arguments and (run_folder(root, name) / "recipe.json").exists()
    fresh = () if begun else LENGTH
    code, words = run(root, "--name", name, *arguments, *fresh, before=partial(prepared, fault, tuple(without)), **more)
    return code, " ".join(words.split())


def attempt_ranks(
    root: Path, name: str, *arguments: str, blow: Blow, without: Sequence[str] = (), seconds: float = TIMEOUT
) -> tuple[list[int | None], list[str]]:
    """Exit codes (None: still there after `seconds`, then killed) and words of two ranks under a blow."""
    processes = start_ranks(
        root,
        2,
        free_port(),
        *("--name", name, *LENGTH, *arguments),
        before=partial(prepared, blow, tuple(without)),
        NNSSL_RANK_TIMEOUT_MINUTES="0.1",
    )
    processes[1 - blow.rank].join(seconds)
    processes[blow.rank].join(5)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes, [" ".join((root / f"log.{rank}.txt").read_text().split()) for rank in range(2)]


def child(
    task: Callable[..., None], *arguments: Any, log: Path, fault: Fault | None = None, without: Sequence[str] = ()
) -> tuple[int, str]:
    """Exit code and words of `task(*arguments)`, which ends as a command does, in a process of its own."""
    process = CONTEXT.Process(target=_child, args=(task, arguments, log, fault, tuple(without)))
    process.start()
    process.join(TIMEOUT)
    return int(process.exitcode), " ".join(log.read_text().split())


def _child(
    task: Callable[..., None], arguments: tuple[Any, ...], log: Path, fault: Fault | None, without: tuple[str, ...]
) -> None:
    from nnssl.cli import _common

    stream = log.open("w")
    with stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        prepared(fault, without)
        sys.exit(_common.run(partial(task, *arguments), prog="test"))


def run_folder(root: Path, name: str) -> Path:
    """The folder of a run."""
    return root / FOLDER / f"fold_all--{name}"


def copy_run(root: Path, one: str, other: str) -> None:
    """A run's folder under another name."""
    shutil.rmtree(run_folder(root, other), ignore_errors=True)
    shutil.copytree(run_folder(root, one), run_folder(root, other))


def assert_goes_on(root: Path, reference: str, name: str, *arguments: str) -> None:
    """`--c` ends well, with the weights and losses of the run that nothing happened to, and leaves no stray file."""
    code, words = attempt(root, name, "--c", *arguments)
    assert code == 0, words
    assert_same(root, reference, name)
    stray = {path.name for path in run_folder(root, name).iterdir() if not path.name.startswith("training_log")}
    assert stray <= RUN_FILES, stray - RUN_FILES


def count(fault: Fault) -> int:
    """How many operations a `count` fault listed."""
    return fault.list_file.read_bytes().count(b"\n")


def spread(total: int, number: int) -> list[int]:
    """`number` of the numbers below `total`, first and last among them."""
    return sorted({round(index * (total - 1) / max(1, number - 1)) for index in range(min(number, total))})
