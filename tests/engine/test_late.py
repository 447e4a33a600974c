"""Scalars read late: in order, exact, and not before their copy has arrived."""

from __future__ import annotations

import pytest
import torch

from nnssl.engine import late
from nnssl.engine.late import LateScalars, _Pending


class FakeEvent:
    """A copy that arrives when told to."""

    def __init__(self) -> None:
        self.arrived = False
        self.waited = False

    def query(self) -> bool:
        return self.arrived

    def synchronize(self) -> None:
        self.waited = True


def on_device(queue: LateScalars, step: int, value: float) -> FakeEvent:
    """Queue a scalar as a GPU would leave it: packed, with an event."""
    event = FakeEvent()
    packed = torch.tensor([value], dtype=torch.float64)
    queue._queue.append(_Pending(step, {"lr": 0.1, "loss": 0.0}, ("loss",), packed, event))  # type: ignore[arg-type]
    return event


def test_host_values_are_ready_at_once_and_keep_their_order_and_precision() -> None:
    queue = LateScalars()
    queue.put(3, {"b": torch.tensor(1 / 3, dtype=torch.float64, requires_grad=True), "a": 2})
    ((step, values),) = queue.ready()
    assert step == 3
    assert list(values.items()) == [("b", 1 / 3), ("a", 2.0)]
    assert queue.ready() == []


def test_a_step_waits_for_its_copy_and_for_those_before_it() -> None:
    queue = LateScalars()
    first, second = on_device(queue, 0, 1.0), on_device(queue, 1, 2.0)
    second.arrived = True
    assert queue.ready() == []
    first.arrived = True
    assert [(step, values["loss"]) for step, values in queue.ready()] == [(0, 1.0), (1, 2.0)]


def test_everything_waits_for_the_device() -> None:
    queue = LateScalars()
    event = on_device(queue, 5, 4.0)
    assert queue.everything() == [(5, {"lr": 0.1, "loss": 4.0})]
    assert event.waited
    assert queue.everything() == []


def test_devices_without_events_are_read_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "QUEUE_WITHOUT_EVENTS", 2)
    queue = LateScalars()
    for step in range(4):
        queue._queue.append(_Pending(step, {"loss": 0.0}, ("loss",), torch.tensor([float(step)]), None))
    assert [step for step, _ in queue.ready()] == [0, 1]
