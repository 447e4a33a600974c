"""What a pretraining will cost, from a few real steps of it: time, memory, arithmetic, disk. Writes nothing."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nnssl.engine.distributed import choose_device
from nnssl.engine.optim import Schedule
from nnssl.engine.step import StepRunner
from nnssl.errors import RecipeError
from nnssl.launch import Request, build_trainer

if TYPE_CHECKING:
    from nnssl.trainer import SSLTrainer

WARM = 3  # steps not counted: caches, pools and threads settle
STATES = 2  # a run keeps its latest training state and the one before


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was measured on one rank, and what follows for the run.

    Attributes:
        trainer: class name.
        device: "cuda", "cpu" or "mps".
        precision: of the run on it.
        batch_size: samples a step.
        total_steps: of the run.
        measured: steps that the median is of.
        seconds: a step, median.
        waiting: share of the time that steps waited for data, 0 to 1.
        flops: floating-point operations of a step, those of products and convolutions; not of views.
        memory: bytes at the peak, of the GPU or of this process; None where the platform does not tell.
        state: bytes of a training state.
    """

    trainer: str
    device: str
    precision: str
    batch_size: int
    total_steps: int
    measured: int
    seconds: float
    waiting: float
    flops: int
    memory: int | None
    state: int

    @property
    def hours(self) -> float:
        """Of all steps; saving and health probes are not in it."""
        return self.seconds * self.total_steps / 3600

    @property
    def tflops(self) -> float:
        """Floating-point operations a second, in 10^12."""
        return self.flops / self.seconds / 1e12

    @property
    def disk(self) -> int:
        """Bytes of the states that the run keeps; weights files are smaller and come on top."""
        return STATES * self.state


def estimate(request: Request, *, steps: int) -> Estimate:
    """Take a few steps of a run, as it would take them, and throw them away.

    Args:
        request: the run, of one rank.
        steps: to measure, at least 1; three more come before and one after them.

    Raises:
        NnsslError: the run could not start, or it is shorter than that.
    """
    device = choose_device(request.device, ranks=1)
    # a name of its own, so that a run that is there is no hindrance
    trainer = build_trainer(replace(request, name=f"estimate.{os.getpid()}"), device)
    try:
        trainer.initialize()
        return _measure(trainer, steps)
    finally:
        _remove_empty(Path(trainer.output_folder))


def _measure(trainer: SSLTrainer, steps: int) -> Estimate:
    device = trainer.device
    recipe = trainer.run_recipe
    if recipe.total_steps < WARM + steps + 1:
        raise RecipeError(
            f"{WARM + steps + 1} steps are needed to measure {steps}, but the run has {recipe.total_steps} "
            f"(epochs={recipe.epochs}, steps_per_epoch={recipe.steps_per_epoch}). Measure fewer with --steps."
        )
    runner = StepRunner(trainer.network, recipe=recipe, schedule=Schedule(recipe), device=device)
    seconds, waits = [], []
    with trainer.get_dataloaders() as stream:
        for index in range(WARM + steps):
            began, waited = time.perf_counter(), stream.waited_seconds
            outcome = runner(index, partial(stream.batch, index))
            float(outcome.losses["loss"])  # the device has done its work when it is known
            seconds.append(time.perf_counter() - began)
            waits.append(stream.waited_seconds - waited)
        memory = peak_memory(device)
        batches = [stream.batch(WARM + steps, micro) for micro in range(recipe.accumulate)]
        with FlopCounterMode(display=False) as counter:
            runner(WARM + steps, batches.__getitem__)
    return Estimate(
        trainer=type(trainer).__name__,
        device=device.type,
        precision=runner.precision,
        batch_size=recipe.batch_size,
        total_steps=recipe.total_steps,
        measured=steps,
        seconds=statistics.median(seconds[WARM:]),
        waiting=sum(waits[WARM:]) / sum(seconds[WARM:]),
        flops=counter.get_total_flops(),
        memory=memory,
        state=size_of(trainer.network.state_dict()) + size_of(runner.optimizer.state_dict()),
    )


def _remove_empty(folder: Path) -> None:
    """Remove the folders that nnU-Net's trainer makes for its results, as far as nothing is in them."""
    for each in (folder, *list(folder.parents)[:2]):  # fold, trainer, data set
        if any(each.iterdir()):
            break
        each.rmdir()


def peak_memory(device: torch.device) -> int | None:
    """Bytes that torch held of a GPU at most, or that this process did; None where the platform does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def size_of(content: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, Mapping):
        return sum(map(size_of, content.values()))
    if isinstance(content, list | tuple):
        return sum(map(size_of, content))
    return 0
