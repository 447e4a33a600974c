"""The centre: mean over all ranks and micro-batches, after the step, never in a dropped one."""

from __future__ import annotations

import torch

from nnssl.blocks.center import Center
from nnssl.blocks.deferred import Commit


def commit(applied: bool = True, ranks: int = 1) -> Commit:
    return Commit(index=0, total=10, applied=torch.tensor(applied), sum_over_ranks=lambda x: x * ranks)


def test_first_move_is_a_tenth_of_the_mean_over_micro_batches() -> None:
    center = Center(5).double()
    first, second = torch.randn(4, 5).double(), torch.randn(2, 5).double()
    center.observe(first)
    center.observe(second)
    assert not center.value.any()  # step t uses the centre of step t-1
    center.commit(commit(ranks=2))
    torch.testing.assert_close(center.value, 0.1 * torch.cat([first, second]).mean(0))
    assert not center.pending_sum.any()
    assert not center.pending_count.any()


def test_unequal_ranks_give_the_mean_over_samples() -> None:
    mine, other = torch.randn(4, 5), torch.randn(2, 5)
    center = Center(5)
    center.observe(mine)
    extra = {(5,): other.sum(0), (): torch.tensor(2.0)}
    center.commit(
        Commit(index=0, total=1, applied=torch.tensor(True), sum_over_ranks=lambda x: x + extra[tuple(x.shape)])
    )
    torch.testing.assert_close(center.value, 0.1 * torch.cat([mine, other]).mean(0))


def test_dropped_step_is_forgotten() -> None:
    center = Center(3)
    center.value.fill_(0.5)
    center.observe(torch.full((2, 3), float("nan")))
    center.commit(commit(applied=False))
    assert torch.equal(center.value, torch.full((3,), 0.5))
    center.observe(torch.ones(2, 3))
    center.commit(commit())
    torch.testing.assert_close(center.value, torch.full((3,), 0.55))


def test_step_without_observation_moves_nothing() -> None:
    center = Center(3)
    center.value.fill_(0.5)
    center.commit(commit())
    assert torch.equal(center.value, torch.full((3,), 0.5))


def test_state_dict_holds_the_centre_alone() -> None:
    assert list(Center(3).state_dict()) == ["value"]
