"""Where the arms of a comparison start: one network a seed, with or without what was pretrained; and how fast it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnssl.atomic import whole_file
from nnssl.errors import ExportError, PlanError
from nnssl.evaluate.compare.plan import Contender, Target, Training
from nnssl.export.fit import Fit, fit
from nnssl.export.fitted import has_decoder
from nnssl.export.proof import fresh_network
from nnssl.export.read import Weights
from nnssl.export.tensors import DECODER, ENCODER

_TIMED_BATCH = 2
_TURNS, _TURNS_SECONDS = 5, 4.0


def check_start(arm: Contender, target: Target) -> list[str]:
    """Whether the plan's network takes the arm's encoder in full; sentences about what had to be adapted.

    Raises:
        ExportError: the checkpoint is of another architecture.
    """
    if arm.weights is None:
        return []
    _, fitted = _fitted(arm.weights, target, seed=0)
    path, count = arm.weights.path, fitted.count(ENCODER)
    if count.fresh:
        reason = next(why for how, why in fitted.reasons(ENCODER) if how == "fresh")
        raise ExportError(
            f"{path} is of another architecture than {target.plans_name} of {target.dataset}: {count.fresh} of its "
            f"encoder tensors would not be taken ({reason}). Choose a plan that fits it with -p (nnssl_plan_like makes "
            f"one), or fit the file with nnssl_export; nnssl_doctor shows all that differs."
        )
    said = [f"{path}: {number} tensor(s) were adapted ({why})." for (how, why), number in
            fitted.reasons(ENCODER, DECODER).items() if how == "adapted"]  # fmt: skip
    decoder = fitted.count(DECODER)
    if has_decoder(arm.weights) and decoder.fresh:
        said.append(f"{path}: {decoder.fresh} decoder tensor(s) do not fit and start as those from scratch.")
    return said


def write_start(path: Path, weights: Weights, target: Target, seed: int) -> None:
    """The weights in the network that the arm from scratch starts from: only what was pretrained differs.

    Files whose decoder was not trained hold one with values of their own; scratch's takes its place.
    """
    network, fitted = _fitted(weights, target, seed=seed)
    state = network.state_dict()
    with torch.no_grad():
        for name, value in fitted.tensors.items():
            state[name].copy_(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        torch.save({"network_weights": network.state_dict()}, temporary)


def _fitted(weights: Weights, target: Target, *, seed: int) -> tuple[nn.Module, Fit]:
    """The plan's network as the trainer of this seed builds it, and the weights fitted to it."""
    network = network_of(target, seed=seed)
    return network, fit(weights.tensors, network, decoder=has_decoder(weights))


def network_of(target: Target, *, seed: int) -> nn.Module:
    """The plan's network; the trainer seeds right before it builds, too.

    Raises:
        ExportError: nnU-Net cannot build it.
    """
    architecture = target.chosen["architecture"]
    try:
        return fresh_network(architecture, channels=target.channels, classes=target.outputs, seed=seed)
    except PlanError as error:
        raise ExportError(f"The network of {target.plans_name} is not built: {error}") from error


def seconds_per_step(target: Target, device: str, *, threads: int) -> tuple[float, float]:
    """(training step, answer to one window): without loading and augmentation, on this machine.

    A small batch is timed and its time multiplied: a whole one can take a minute on a CPU.

    Args:
        target: whose network it is.
        device: "cuda" or "cpu".
        threads: of each training on the CPU; 0: torch's choice.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        network = network_of(target, seed=0).to(device)
        whole = int(target.chosen["batch_size"])
        size = min(whole, _TIMED_BATCH)
        batch = torch.zeros(size, target.channels, *target.chosen["patch_size"], device=device)

        def train() -> None:
            """Forward and backward of one batch."""
            outputs: Sequence[Any] = network(batch)
            sum((output.float().mean() for output in outputs), torch.zeros((), device=device)).backward()

        def answer() -> None:
            """Forward of what inference hands over at a time, without gradient."""
            with torch.no_grad():
                network(batch if device == "cpu" else batch[:1])  # the trainer's windows go in pairs on the CPU

        answer()  # the first one allocates
        return _fastest(train, device) * whole / size, _fastest(answer, device)
    finally:
        torch.set_num_threads(before)


def _fastest(work: Callable[[], None], device: str) -> float:
    """Seconds of the fastest of a few turns: whatever else the machine does only slows them down."""
    turns: list[float] = []
    while len(turns) < _TURNS and math.fsum(turns) < _TURNS_SECONDS:
        began = _now(device)
        work()
        turns.append(_now(device) - began)
    return min(turns)


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def windows(training: Training, target: Target, *, test_cases: int) -> int:
    """Windows that a training predicts on the way and at the end, for cases of the median size."""
    patch = target.chosen["patch_size"]
    sides = target.chosen.get("median_image_size_in_voxels", patch)

    def of_case(step: float) -> int:
        """Windows that cover a median case, `step` of a patch apart."""
        return math.prod(max(1, math.ceil((side - p) / (p * step)) + 1) for side, p in zip(sides, patch, strict=True))

    measured = min(training.schedule.curve_cases, test_cases) * (training.schedule.epochs + 1)
    return measured * of_case(1.0) + test_cases * of_case(0.5)
