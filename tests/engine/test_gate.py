"""Verdicts that are read late."""

from __future__ import annotations

import pytest
import torch

from nnssl.engine.gate import Gate
from nnssl.errors import TrainingDiverged


def put(gate: Gate, index: int, *, applied: bool = True, stop: float = 0.0) -> None:
    loss = torch.tensor(2.5 if applied else torch.nan)
    losses = {"loss": loss, "loss/pair": loss}
    gate.put(
        index, applied=torch.tensor(applied), stop=torch.tensor(stop), losses=losses, cases=[f"case_{index}", "shared"]
    )


def test_divergence_is_told_some_steps_later_and_names_step_losses_and_cases() -> None:
    gate = Gate(torch.device("cpu"), lag=3)
    put(gate, 0)
    put(gate, 1, applied=False)
    put(gate, 2)
    put(gate, 3)
    with pytest.raises(TrainingDiverged, match=r"step 1.*loss nan, loss/pair nan.*case_1, shared"):
        put(gate, 4)


def test_cpu_is_told_at_once() -> None:
    gate = Gate(torch.device("cpu"))
    with pytest.raises(TrainingDiverged, match="step 0"):
        put(gate, 0, applied=False)


def test_state_is_not_sound_while_a_bad_verdict_is_on_its_way() -> None:
    gate = Gate(torch.device("cpu"), lag=3)
    put(gate, 0)
    assert gate.sound()
    put(gate, 1, applied=False)
    assert not gate.sound()
    with pytest.raises(TrainingDiverged):
        gate.settle()


def test_half_precision_may_drop_some_steps_but_not_many_in_a_row() -> None:
    gate = Gate(torch.device("cpu"), drops_allowed=2)
    for index in range(9):
        put(gate, index, applied=index % 3 == 0)
    put(gate, 9, applied=True)
    put(gate, 10, applied=False)
    put(gate, 11, applied=False)
    assert gate.sound()
    with pytest.raises(TrainingDiverged, match="3 steps in a row"):
        put(gate, 12, applied=False)


def test_stop_is_seen_after_the_lag() -> None:
    gate = Gate(torch.device("cpu"), lag=2)
    put(gate, 0, stop=1.0)
    put(gate, 1)
    assert not gate.stop
    put(gate, 2)
    assert gate.stop
