"""Guards, each taken out on request: a fault's test must fail without the guard it is about."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch


@contextlib.contextmanager
def half_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """What `whole_file` guards against: writing under the final name."""
    yield Path(path)


def _atomic_files() -> None:
    for module in ("engine.checkpoint", "engine.run_folder", "export.checkpoint", "data.store", "data.index"):
        _set(f"nnssl.{module}", "whole_file", half_file)


def _weights_last() -> None:
    """The weights take their name before the encoder's file is written."""
    from nnssl.export import checkpoint

    real = checkpoint.write_encoder

    def late(path: Path, *rest: Any) -> None:
        for partial in path.parent.glob(".new.pth.*.partial"):
            os.link(partial, path.parent / "early")
            (path.parent / "early").replace(path.parent / "new.pth")
        real(path, *rest)

    checkpoint.write_encoder = late


def _hard_links() -> None:
    """A file system that knows none; not a guard, but what a fall back is there for."""

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    os.link = link


def _two_states() -> None:
    _set("nnssl.engine.checkpoint", "_keep_previous", lambda folder: None)


def _checksums() -> None:
    def read(path: Path) -> Any:
        return torch.load(path, weights_only=True)

    _set("nnssl.engine.checkpoint", "read_checked", read)


def _state_sentence() -> None:
    """A refused write of a state is shown as it came."""
    _set("nnssl.engine.checkpoint", "StateError", ZeroDivisionError)


def _system_sentence() -> None:
    _set("nnssl.cli._common", "os_error", lambda error: None)


def _stale_cases_leave_the_index() -> None:
    from nnssl.planning import folder

    real = folder._IndexKeeper.__init__

    def keep_all(self: Any, where: Path, part: Any, index: Any) -> None:
        earlier = folder.stored_index(where)
        real(self, where, part, earlier if earlier is not None else index)

    folder._IndexKeeper.__init__ = keep_all  # type: ignore[method-assign]


def _finite() -> None:
    """Steps are applied whatever came out, and nobody is told."""
    from nnssl.engine import step
    from nnssl.engine.gate import Gate

    real = step.optim.gated_step
    step.optim.gated_step = lambda optimizer, applied: real(optimizer, torch.ones_like(applied))
    read = Gate._read

    def blind(self: Gate, pending: Any) -> None:
        pending.packed[0] = 1.0
        read(self, pending)

    Gate._read = blind  # type: ignore[method-assign]
    Gate.sound = lambda self: True  # type: ignore[method-assign]


def _one_verdict() -> None:
    """Every rank judges by its own loss and gradients."""
    _set("nnssl.engine.step", "_common", own_losses)
    _set("nnssl.engine.step", "distributed", lambda method: method)


def own_losses(seen: Any, stop: bool) -> Any:
    return {"loss": seen[0].total.detach(), "loss/pair": seen[0].total.detach()}, torch.tensor(float(stop))


def _signals() -> None:
    _set("nnssl.engine.signals", "SIGNALS", ())


def _save_on_signal() -> None:
    from nnssl.trainer import SSLTrainer

    def leave(self: SSLTrainer) -> None:
        raise SystemExit(self.request.exit_code)

    SSLTrainer._leave = leave  # type: ignore[method-assign]


def _exit_code() -> None:
    from nnssl.engine.signals import StopRequest

    StopRequest.exit_code = 0  # type: ignore[method-assign,assignment]


def _lock() -> None:
    _set("nnssl.engine.run_folder", "lock", lambda file: True)


def _still_held() -> None:
    from nnssl.engine.run_folder import RunFolder

    RunFolder.check_held = lambda self: None  # type: ignore[method-assign]


def _second_look() -> None:
    from nnssl.engine.run_folder import RunFolder

    RunFolder._signs_of_life = lambda self: []  # type: ignore[method-assign]


def _same_data() -> None:
    from nnssl.engine.run_folder import RunFolder

    RunFolder.check_data = lambda self, data: None  # type: ignore[method-assign]


def _same_plans() -> None:
    from nnssl.engine.run_folder import RunFolder

    RunFolder.check_plans = lambda self, plans: None  # type: ignore[method-assign]


def _same_recipe() -> None:
    _set("nnssl.engine.run_folder", "differences", lambda stored, recipe: [])


def _bounded_wait() -> None:
    _set("nnssl.engine.distributed", "patience", lambda: timedelta(days=1))


def _rank_sentence() -> None:
    _set("nnssl.engine.distributed", "all_ranks_or_none", contextlib.nullcontext)


def _case_sentence() -> None:
    """A case that cannot be read is read as zeros."""
    _set("nnssl.data.reading", "read_box", zeros)


def zeros(path: Path, lower: Any, upper: Any) -> Any:
    import numpy as np

    return np.zeros((1, *(high - low for low, high in zip(lower, upper, strict=True))), np.float32)


def _worker_errors() -> None:
    """What goes wrong in a worker is passed over: the batch of another step is taken."""
    from nnssl.data.loader import ViewStream

    real = ViewStream._prepare

    def patched(self: ViewStream, number: int) -> Any:
        try:
            return real(self, number)
        except MemoryError:
            return self.taken  # type: ignore[attr-defined]

    def kept(self: ViewStream, number: int) -> Any:
        self.taken = patched(self, number)  # type: ignore[attr-defined]
        return self.taken  # type: ignore[attr-defined]

    ViewStream._prepare = kept  # type: ignore[method-assign]


def _keyed_draws() -> None:
    """Dropout draws from where the process happens to stand."""
    _set("nnssl.engine.step", "seed_globally", lambda seed, device: None)


def _one_stop() -> None:
    """A rank that was asked to leave tells nobody."""
    from nnssl.engine import step

    real = step._common

    def own(seen: Any, stop: bool) -> Any:
        losses, _ = real(seen, False)
        return losses, torch.tensor(float(stop))

    step._common = own


def _reason_of_torch() -> None:
    """torch's own words for a refused write."""

    def write(path: Path, content: Any) -> None:
        with path.open("wb") as stream:
            torch.save(dict(content), stream)

    _set("nnssl.export.checkpoint", "write_tensors", write)


def _metrics_cut_back() -> None:
    _set("nnssl.engine.metrics", "_known_at", lambda line, start_step: True)


GUARDS: dict[str, Callable[[], None]] = {
    name.removeprefix("_").replace("_", " "): function
    for name, function in list(globals().items())
    if callable(function) and getattr(function, "__module__", "") == __name__ and name.startswith("_")
}


def take_out(guard: str) -> None:
    """Remove a guard from this process."""
    GUARDS[guard]()


def _set(module: str, name: str, value: object) -> None:
    holder = importlib.import_module(module)
    if not hasattr(holder, name):
        raise AttributeError(f"{module} has no {name}: the guard is elsewhere now")
    setattr(holder, name, value)
