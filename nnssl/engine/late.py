"""Scalars that are read off the device late, so that logging never makes the device wait for the host.

`tensor.item()` waits for everything queued on the stream. Here a step's scalars are packed into one small tensor whose
copy to the host runs in the background; they are read when the copy has arrived, some steps later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Scalar = Tensor | float
QUEUE_WITHOUT_EVENTS = 16  # steps: devices without events (MPS) are read this seldom


@dataclass(frozen=True)
class _Pending:
    """One step on its way to the host: `packed` holds the values of `names`; None if nothing was on a device."""

    step: int
    values: dict[str, float]
    names: tuple[str, ...]
    packed: Tensor | None
    copied: torch.cuda.Event | None

    def read(self) -> tuple[int, dict[str, float]]:
        """The step and its values as floats; waits for the copy if it has not arrived."""
        if self.packed is None:
            return self.step, self.values
        if self.copied is not None:
            self.copied.synchronize()
        return self.step, {**self.values, **dict(zip(self.names, self.packed.tolist(), strict=True))}


class LateScalars:
    """A queue of (step, {name: scalar}), in order; scalars may be floats, host tensors or device tensors."""

    def __init__(self) -> None:
        self._queue: deque[_Pending] = deque()

    def put(self, step: int, values: Mapping[str, Scalar]) -> None:
        """Queue the scalars of one step. The tensors may be reused by the caller afterwards."""
        known: dict[str, float] = {}
        names: list[str] = []
        for name, value in values.items():
            known[name] = 0.0  # holds the place: the order of names is that of the caller
            if isinstance(value, Tensor) and value.device.type != "cpu":
                names.append(name)
            else:
                known[name] = float(value.detach() if isinstance(value, Tensor) else value)
        packed, copied = self._pack([values[name] for name in names])
        self._queue.append(_Pending(step, known, tuple(names), packed, copied))

    def ready(self) -> list[tuple[int, dict[str, float]]]:
        """The oldest steps whose values are on the host already; never waits, except now and then without events."""
        steps = []
        while self._queue and self._arrived(self._queue[0]):
            steps.append(self._queue.popleft().read())
        return steps

    def everything(self) -> list[tuple[int, dict[str, float]]]:
        """All queued steps; waits for the device."""
        steps = [pending.read() for pending in self._queue]
        self._queue.clear()
        return steps

    def _arrived(self, pending: _Pending) -> bool:
        if pending.packed is None:
            return True
        if pending.copied is not None:
            return bool(pending.copied.query())  # type: ignore[no-untyped-call]
        return len(self._queue) > QUEUE_WITHOUT_EVENTS

    @staticmethod
    def _pack(values: list[Scalar]) -> tuple[Tensor | None, torch.cuda.Event | None]:
        tensors = [value.detach().reshape(()) for value in values if isinstance(value, Tensor)]
        if not tensors:
            return None, None
        on_cuda = tensors[0].device.type == "cuda"
        dtype = torch.float64 if on_cuda else torch.float32  # MPS knows no float64
        packed = torch.stack([tensor.to(dtype) for tensor in tensors])
        if not on_cuda:
            return packed, None
        packed = packed.to("cpu", non_blocking=True)  # into pinned memory
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return packed, copied
