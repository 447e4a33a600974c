"""Process groups: spawned by us (`-num_gpus`), by torchrun, or by nnU-Net; NCCL on GPUs, gloo on the CPU."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from nnssl.blocks.collectives import rank, world_size
from nnssl.engine.signals import SIGNALS
from nnssl.errors import DeviceError, RecipeError, UsageError

PATIENCE_MINUTES = 30.0  # rank 0 saves and measures health while the others wait
PATIENCE_VARIABLE = "NNSSL_RANK_TIMEOUT_MINUTES"
# How gloo words a lost or silent peer: its errors are plain RuntimeErrors, those of other backends are DistErrors.
_LOST = re.compile(r"gloo|connection (closed|reset|refused)|pair closure|timed out|nccl", re.IGNORECASE)


def local_rank() -> int:
    """This process's rank on its machine: LOCAL_RANK where a launcher set it (torchrun), else the global rank."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def local_world_size() -> int:
    """Ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def choose_device(asked: str | None, *, ranks: int = 1) -> torch.device:
    """The device a run will use.

    Args:
        asked: "cuda", "cpu", "mps", or None: a GPU when there is one, else the CPU.
        ranks: processes on this machine, each of which needs a GPU of its own.

    Raises:
        DeviceError: what was asked for is not there.
    """
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and torch.cuda.device_count() < ranks:
        found = torch.cuda.device_count()
        raise DeviceError(
            f"-device cuda needs a GPU for each of {ranks} process(es); torch sees {found}. Use "
            f"{f'-num_gpus {found} or ' if found else ''}-device cpu, or check the driver and CUDA_VISIBLE_DEVICES."
        )
    if asked == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("-device mps needs a Mac with Metal, which torch does not see here. Use -device cpu.")
    return torch.device(asked)


def set_threads(threads: int | None, device: torch.device, *, deterministic: bool) -> None:
    """Intra-op threads as the recipe says (shared by the ranks of this machine), and repeatable sums where asked for.

    The CPU is repeatable in any case. On a GPU `deterministic` promises equal results on the same model of GPU with the
    same versions of torch and CUDA, but for operations that have no such form, which torch then warns about.
    """
    if threads is not None:
        torch.set_num_threads(max(1, threads // local_world_size()) if device.type == "cpu" else threads)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True, warn_only=True)


def samples_per_micro_batch(batch_size: int, accumulate: int) -> int:
    """Samples of one micro-batch of one rank.

    Raises:
        RecipeError: the batch cannot be split evenly.
    """
    parts = world_size() * accumulate
    if batch_size % parts:
        raise RecipeError(
            f"batch_size ({batch_size}) must be divisible by ranks x accumulate ({world_size()} x {accumulate} = "
            f"{parts}); use batch_size={max(1, round(batch_size / parts)) * parts}."
        )
    return batch_size // parts


@contextmanager
def process_group(device_type: str) -> Iterator[None]:
    """Join the group that RANK and WORLD_SIZE announce; nothing without them, or where a group exists already."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with all_ranks_or_none():
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=patience())
    try:
        yield
    finally:
        dist.destroy_process_group()


def patience() -> timedelta:
    """How long a rank waits for the others before it takes them for lost: 30 minutes, or NNSSL_RANK_TIMEOUT_MINUTES.

    Raises:
        UsageError: the variable is no positive number.
    """
    given = os.environ.get(PATIENCE_VARIABLE, str(PATIENCE_MINUTES))
    try:
        minutes = float(given)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise UsageError(f"{PATIENCE_VARIABLE} must be a number of minutes over 0; it is {given!r}.")
    return timedelta(minutes=minutes)


def wait_for_all() -> None:
    """Return when every rank is here; at once without a process group."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def all_ranks_or_none() -> Iterator[None]:
    """Within it, what torch says when another rank is gone or silent becomes a sentence, and this rank ends too.

    Raises:
        DeviceError: another rank was killed, failed, hangs or never came.
    """
    try:
        yield
    except RuntimeError as error:
        ranks = int(os.environ.get("WORLD_SIZE", world_size()))
        known = isinstance(error, dist.DistError) or _LOST.search(str(error)) is not None
        if ranks == 1 or not known:
            raise
        silent = re.search("timed out|timeout", str(error), re.IGNORECASE) is not None
        found = (
            f"waited {patience().total_seconds() / 60:g} minutes for another rank, which hangs, stopped or never came"
            if silent
            else "lost another rank: it was killed, its machine is gone, or it failed with an error of its own"
        )
        advice = f" If ranks are slow and not lost, raise {PATIENCE_VARIABLE}." if silent else ""
        raise DeviceError(
            f"Rank {os.environ.get('RANK', rank())} of {ranks} {found} (look at what the other ranks said). This rank "
            f"ends too. The states saved before are whole: start all ranks again with --c.{advice} torch said: "
            f"{str(error).splitlines()[0][:300]}"
        ) from error


def spawn_ranks(function: Callable[..., None], arguments: tuple[Any, ...], *, ranks: int) -> int:
    """Run `function(*arguments)` in `ranks` new processes that find RANK, WORLD_SIZE and LOCAL_RANK set.

    SIGTERM and SIGUSR1 sent to this process are passed on to all of them; a Ctrl-C reaches them by itself.

    Returns:
        The exit code of the first rank that ended with another one than 0, else 0.

    Raises:
        DeviceError: a rank was killed; the others were ended.
        torch.multiprocessing.ProcessRaisedException: a rank raised; the others were ended.
    """
    port = os.environ.get("MASTER_PORT") or str(free_port())
    context = spawn(_rank_main, args=(ranks, port, function, arguments), nprocs=ranks, join=False)  # type: ignore[no-untyped-call]
    before = {number: signal.signal(number, partial(_pass_on, context.pids())) for number in SIGNALS}
    try:
        while not context.join():
            continue
    except ProcessExitedException as error:
        if not error.signal_name:
            return int(error.exit_code)
        number = signal.Signals[error.signal_name]
        if number in SIGNALS:  # a batch system's order that came before the first step
            return 128 + number
        raise DeviceError(  # the other ranks are ended at once and may not get to say it
            f"Rank {error.error_index} of {ranks} was ended by {number.name} (SIGKILL is often the system's answer to "
            f"too little memory); the others were ended too. The states saved before are whole: start all ranks again "
            f"with --c."
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _pass_on(pids: list[int], number: int, frame: FrameType | None) -> None:
    if number != signal.SIGINT:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _rank_main(index: int, ranks: int, port: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "localhost"),
        "MASTER_PORT": port,
    }
    function(*arguments)


def free_port() -> int:
    """A TCP port of this machine that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
