"""What may happen to a run in the middle of it: armed in the process of the run, at a step, on a rank."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnssl.blocks.collectives import rank
from nnssl.data import loader
from nnssl.engine.checkpoint import save_state
from nnssl.engine.run_folder import RunFolder
from nnssl.paths import folders
from tests.engine.workspace import DATASET

STORE = Path("nnUNet_preprocessed") / DATASET / "nnsslPlans_3d_fullres"


@dataclass(frozen=True, kw_only=True)
class Blow:
    """A blow to a run.

    Attributes:
        action: a name in `ACTIONS`, or "another run".
        step: struck when this step asks for its batch.
        rank: of the process that is struck.
    """

    action: str
    step: int = 5
    rank: int = 0


def strike(blow: Blow) -> None:
    """Arm a blow in this process."""
    if blow.action == "another run":
        _another_run()
        return
    act, real = ACTIONS[blow.action], loader.ViewStream.batch

    def batch(self: loader.ViewStream, index: int, micro: int = 0) -> Any:
        due = index == blow.step and rank() == blow.rank
        if due and act is not spoil:
            act()
        made = real(self, index, micro)
        return spoil(made) if due and act is spoil else made

    loader.ViewStream.batch = batch  # type: ignore[method-assign]


def spoil(batch: Any) -> Any:
    """One voxel of one sample is not a number."""
    next(iter(batch.views.values())).image[0, 0, 0, 3, 3, 3] = torch.nan
    return batch


def _another_run() -> None:
    """A whole run comes and goes just before this one takes the folder."""
    real = RunFolder.hold

    def hold(self: RunFolder) -> None:
        save_state(self.path, {"step": 77})
        real(self)

    RunFolder.hold = hold  # type: ignore[method-assign]


def _cases() -> list[Path]:
    store = folders().preprocessed.parent / STORE
    return sorted(store.glob("*.b2nd"))


def _truncate() -> None:
    for case in _cases():
        os.truncate(case, case.stat().st_size // 2)


def _delete() -> None:
    for case in _cases():
        case.unlink()


def _worker_fails() -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise MemoryError("no memory for a view")

    loader.load_sample = failing  # type: ignore[assignment]


def _disk_goes() -> None:
    shutil.rmtree(folders().preprocessed.parent / STORE)


def _hang() -> None:
    while True:
        time.sleep(1)


ACTIONS: dict[str, Callable[..., Any]] = {
    "nan": spoil,
    "truncate": _truncate,
    "delete": _delete,
    "disk gone": _disk_goes,
    "worker fails": _worker_fails,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": _hang,
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "usr1": lambda: os.kill(os.getpid(), signal.SIGUSR1),
}
