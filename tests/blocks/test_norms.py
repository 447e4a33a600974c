"""Batch norm with running averages: torch's own in training and eval, moved by commits alone, equal over ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from nnssl.blocks.collectives import sum_over_ranks
from nnssl.blocks.deferred import commit_all
from nnssl.blocks.norms import RunningBatchNorm
from nnssl.engine.distributed import free_port
from nnssl.testing_world import commit


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 7


def test_it_is_torch_s_own_and_running_averages_move_once_a_step() -> None:
    ours, theirs = RunningBatchNorm(3).double(), nn.BatchNorm2d(3).double()
    for step in range(3):
        torch.testing.assert_close(ours(images(step)), theirs(images(step)))
        commit_all(ours, commit())
        torch.testing.assert_close(ours.running.mean, theirs.running_mean)
        torch.testing.assert_close(ours.running.variance, theirs.running_var)
    torch.testing.assert_close(ours.eval()(images(9)), theirs.eval()(images(9)))


def test_several_passes_are_one_step_and_a_dropped_step_leaves_no_trace() -> None:
    norm = RunningBatchNorm(3).double()
    norm(images(0))
    norm(images(1))
    commit_all(norm, commit(applied=False))
    assert not norm.running.mean.any() and (norm.running.variance == 1).all()
    norm(images(0))
    norm(images(1))
    commit_all(norm, commit())
    both = torch.stack([images(seed).mean((0, 2, 3)) for seed in range(2)]).mean(0)
    torch.testing.assert_close(norm.running.mean, 0.1 * both)
    kept = norm.running.mean.clone()
    norm.eval()(images(2))
    commit_all(norm, commit())
    assert torch.equal(norm.running.mean, kept)
    assert set(norm.state_dict()) == {"weight", "bias", "running.mean", "running.variance"}


def run(norm: RunningBatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = norm(x)
    (out**3).mean().backward()
    commit_all(norm, commit())
    return out.detach(), x.grad if x.grad is not None else out


def _rank_main(index: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=index, world_size=2)
    norm = RunningBatchNorm(3).double()
    out, grad = run(norm, images()[2 * index : 2 * index + 2])
    weight = sum_over_ranks(norm.weight.grad) / 2  # type: ignore[arg-type]
    state = {"mean": norm.running.mean, "variance": norm.running.variance}
    torch.save({"out": out, "grad": grad / 2, "weight": weight, **state}, Path(folder) / f"{index}.pt")
    dist.destroy_process_group()


@pytest.mark.pipeline
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    spawn(_rank_main, args=(free_port(), str(tmp_path)), nprocs=2)
    norm = RunningBatchNorm(3).double()
    out, grad = run(norm, images())
    for index in range(2):
        found = torch.load(tmp_path / f"{index}.pt")
        part = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(found["out"], out[part], rtol=0, atol=1e-12)
        torch.testing.assert_close(found["grad"], grad[part], rtol=0, atol=1e-12)
        torch.testing.assert_close(found["weight"], norm.weight.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(found["mean"], norm.running.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found["variance"], norm.running.variance, rtol=0, atol=1e-12)
