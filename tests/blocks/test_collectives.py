"""Gather with gradient and batch norm over ranks: two gloo ranks against one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from nnssl.blocks.collectives import BatchNorm, gather, rank, sum_over_ranks, world_size
from nnssl.engine.distributed import free_port


def loss(x: Tensor, whole: Tensor) -> Tensor:
    """A loss that mixes samples: mean over x of log-sum-exp of products with all."""
    return (x @ whole.T).logsumexp(-1).mean()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 3, generator=generator, dtype=torch.float64) + 100.0
    return x, torch.randn(4, 5, generator=generator, dtype=torch.float64)


def forward(x: Tensor, weight: Tensor, norm: BatchNorm) -> Tensor:
    vectors = norm(x).mean(-1) @ weight
    return loss(vectors, gather(vectors))


def _rank_main(index: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=index, world_size=2)
    x, weight = data()
    x, weight = x[3 * index : 3 * index + 3].clone().requires_grad_(), weight.requires_grad_()
    norm = BatchNorm(4).double()
    value = forward(x, weight, norm)
    value.backward()
    parts = [weight.grad, norm.weight.grad, norm.bias.grad]  # type: ignore[union-attr]
    result = {
        "loss": sum_over_ranks(value.detach()) / 2,
        "x": x.grad / 2,  # type: ignore[operator]
        "parameters": [sum_over_ranks(part) / 2 for part in parts if part is not None],
        "place": torch.tensor([rank(), world_size()]),
    }
    torch.save(result, Path(folder) / f"{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(_rank_main, args=(free_port(), str(folder)), nprocs=2)
    return [torch.load(folder / f"{index}.pt") for index in range(2)]


@pytest.mark.pipeline
def test_two_ranks_have_the_loss_and_gradients_of_one(two_ranks: list[dict[str, object]]) -> None:
    x, weight = data()
    x.requires_grad_()
    weight.requires_grad_()
    norm = BatchNorm(4).double()
    value = forward(x, weight, norm)
    value.backward()
    wanted = [weight.grad, norm.weight.grad, norm.bias.grad]  # type: ignore[union-attr]
    for index, found in enumerate(two_ranks):
        assert found["place"].tolist() == [index, 2]  # type: ignore[attr-defined]
        torch.testing.assert_close(found["loss"], value.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(found["parameters"], wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(found["x"], x.grad[3 * index : 3 * index + 3], rtol=0, atol=1e-12)  # type: ignore[index]


def test_without_a_group_everything_is_the_identity() -> None:
    x = torch.randn(3)
    assert gather(x) is x and sum_over_ranks(x) is x
    assert (rank(), world_size()) == (0, 1)


def test_batch_norm_is_torch_s_own_in_training() -> None:
    x = torch.randn(5, 4, 2, 3, generator=torch.Generator().manual_seed(1)) * 3 + 7
    torch.testing.assert_close(BatchNorm(4)(x), nn.BatchNorm2d(4)(x))
    assert not list(BatchNorm(4).buffers())


def test_batch_norm_keeps_the_dtype_and_computes_in_single_precision() -> None:
    x = (torch.randn(64, 4, generator=torch.Generator().manual_seed(1)) + 200).to(torch.bfloat16)
    out = BatchNorm(4, affine=False)(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float().mean(0), torch.zeros(4), rtol=0, atol=0.02)
    torch.testing.assert_close(out.float().var(0, correction=0), torch.ones(4), rtol=0, atol=0.05)
