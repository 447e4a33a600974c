"""Reading a step's verdict late: was it applied, and did anybody ask to stop? Never makes the device wait.

The verdict is computed on the device and gates optimizer, teachers and centres there. Its copy to the host is read a
fixed number of steps later (at once on the CPU, where nothing is gained by waiting), so that every rank learns it, and
acts on it, after the same step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nnssl.blocks.collectives import world_size
from nnssl.errors import TrainingDiverged

LAG = 8  # steps on a device; the copy of a scalar has arrived long before
PATIENCE = 24  # dropped steps in a row under fp16: the loss scale would have fallen from 2^16 below 1/2^7


@dataclass(frozen=True)
class _Pending:
    index: int
    packed: Tensor
    names: tuple[str, ...]
    copied: torch.cuda.Event | None
    cases: tuple[str, ...]


class Gate:
    """Verdicts on their way to the host.

    Attributes:
        stop: whether some rank was asked to stop, as far as read; equal on all ranks after the same step.
    """

    def __init__(self, device: torch.device, *, drops_allowed: int = 0, lag: int | None = None) -> None:
        """A gate for one run.

        Args:
            device: where the verdicts are made.
            drops_allowed: dropped steps in a row that are no divergence: `PATIENCE` under fp16, else 0.
            lag: steps between a verdict and its reading; None: `LAG`, or 0 on the CPU.
        """
        self.stop = False
        self._lag = (0 if device.type == "cpu" else LAG) if lag is None else lag
        self._drops_allowed = drops_allowed
        self._drops = 0
        self._queue: deque[_Pending] = deque()

    def put(
        self, index: int, *, applied: Tensor, stop: Tensor, losses: Mapping[str, Tensor], cases: Sequence[str]
    ) -> None:
        """Queue the verdict on step `index`, then read those that are due.

        Args:
            index: optimizer step.
            applied: scalar bool.
            stop: scalar, over 0 where a rank was asked to stop.
            losses: scalars to be named if the run diverged.
            cases: this rank's cases in the step.

        Raises:
            TrainingDiverged: a step that is due was dropped, or too many in a row; on every rank.
        """
        packed = torch.stack([applied.float(), stop.float(), *(loss.float() for loss in losses.values())])
        copied = None
        if packed.device.type == "cuda":
            packed = packed.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._queue.append(_Pending(index, packed, tuple(losses), copied, tuple(cases)))
        while len(self._queue) > self._lag:
            self._read(self._queue.popleft())

    def settle(self) -> None:
        """Read every verdict, waiting for the device. Called on all ranks after the same step.

        Raises:
            TrainingDiverged: as `put`.
        """
        while self._queue:
            self._read(self._queue.popleft())

    def sound(self) -> bool:
        """Whether nothing that is still to be read will stop the run; waits for the device, reads nothing away.

        For rank 0 alone, before it saves: a state is never saved that a verdict on its way would condemn, and that
        verdict still reaches every rank after the same step.
        """
        drops = self._drops
        for pending in self._queue:
            if pending.copied is not None:
                pending.copied.synchronize()
            drops = 0 if pending.packed[0] else drops + 1
            if drops > self._drops_allowed:
                return False
        return True

    def _read(self, pending: _Pending) -> None:
        if pending.copied is not None:
            pending.copied.synchronize()
        applied, stop, *losses = pending.packed.tolist()
        self.stop = self.stop or stop > 0
        self._drops = 0 if applied else self._drops + 1
        if self._drops > self._drops_allowed:
            raise TrainingDiverged(_sentence(pending, losses, self._drops))


def _sentence(pending: _Pending, losses: Sequence[float], drops: int) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(pending.names, losses, strict=True))
    cases = ", ".join(dict.fromkeys(_everybodys(pending.cases)))
    what = "a loss or gradient was not finite" if drops == 1 else f"{drops} steps in a row were not finite"
    return (
        f"Training diverged at step {pending.index}: {what} ({values}). Cases in that step: {cases}. The step was not "
        f"applied and the states saved before are whole. Look at these cases; or lower optimizer.lr, lengthen "
        f"optimizer.warmup_epochs, or use precision=fp32 or bf16, under a new --name."
    )


def _everybodys(cases: tuple[str, ...]) -> list[str]:
    """The cases of all ranks; all raise after the same step, so all take part."""
    if world_size() == 1:
        return list(cases)
    gathered: list[tuple[str, ...]] = [()] * world_size()
    dist.all_gather_object(gathered, cases)
    return [case for part in gathered for case in part]
