"""NT-Xent and VICReg against naive float64 loops, closed forms, and one process for two ranks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from nnssl.blocks.collectives import BatchNorm, sum_over_ranks
from nnssl.blocks.contrastive import nt_xent, vicreg
from nnssl.engine.distributed import free_port

TAU = 0.1


def pairs(count: int, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    return F.normalize(first, dim=1), F.normalize(second + first, dim=1)


def naive_nt_xent(first: Tensor, second: Tensor) -> float:
    """One term after the other."""
    total = 0.0
    for z, other in ((first.tolist(), second.tolist()), (second.tolist(), first.tolist())):
        for i in range(len(z)):
            products = [sum(a * b for a, b in zip(z[i], z[j], strict=True)) / TAU for j in range(len(z)) if j != i]
            products += [sum(a * b for a, b in zip(z[i], one, strict=True)) / TAU for one in other]
            positive = sum(a * b for a, b in zip(z[i], other[i], strict=True)) / TAU
            total += math.log(sum(math.exp(p) for p in products)) - positive
    return total / (2 * len(first))


def everything(first: Tensor) -> Tensor:
    return torch.ones(len(first), dtype=torch.bool)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_nt_xent_equals_a_naive_loop(count: int) -> None:
    first, second = pairs(count)
    value = nt_xent(first, second, everything(first), temperature=TAU)
    assert value.item() == pytest.approx(naive_nt_xent(first, second), rel=1e-12, abs=1e-12)
    single = nt_xent(first.float(), second.float(), everything(first), temperature=TAU)
    assert single.item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 16, 64])
def test_rows_at_a_time_change_neither_value_nor_gradient(rows: int) -> None:
    def value_and_gradients(rows: int) -> list[Tensor]:
        first, second = (x.requires_grad_() for x in pairs(21))
        value = nt_xent(first, second, everything(first), temperature=TAU, rows=rows)
        return [value.detach(), *torch.autograd.grad(value, (first, second))]

    torch.testing.assert_close(value_and_gradients(rows), value_and_gradients(10_000), rtol=1e-12, atol=1e-14)


def test_gradients_are_those_of_finite_differences() -> None:
    first, second = (x.requires_grad_() for x in pairs(5, width=3))
    counted = torch.tensor([True, True, False, True, True])
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, counted, temperature=TAU, rows=2), (first, second))
    assert torch.autograd.gradcheck(lambda a, b: vicreg(a, b, counted)["total"], (first, second))


def test_memory_grows_with_the_rows_not_with_their_square() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *[x.numel() for x in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(x)]])
            return out

    first, second = (x.float().requires_grad_() for x in pairs(512))
    with Watch():
        nt_xent(first, second, everything(first), temperature=TAU, rows=16).backward()
    assert largest == 16 * 512  # 512 x 512 for the whole matrix


def test_the_views_can_be_exchanged() -> None:
    first, second = pairs(9)
    a, b = (nt_xent(x, y, everything(x), temperature=TAU) for x, y in ((first, second), (second, first)))
    assert a.item() == pytest.approx(b.item(), rel=1e-12)


def test_what_is_not_counted_is_neither_query_nor_negative() -> None:
    first, second = pairs(12)
    counted = torch.arange(12) % 3 != 1
    wanted = nt_xent(first[counted], second[counted], everything(first[counted]), temperature=TAU)
    value = nt_xent(first, second, counted, temperature=TAU, rows=5)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
    found = vicreg(first, second, counted)
    for name, one in vicreg(first[counted], second[counted], everything(first[counted])).items():
        torch.testing.assert_close(found[name], one)
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 3 + 2
    torch.testing.assert_close(BatchNorm(5)(x, counted)[counted], BatchNorm(5)(x[counted]))


def test_nothing_counted_gives_zero_and_finite_gradients() -> None:
    first, second = (x.requires_grad_() for x in pairs(4))
    nothing = torch.zeros(4, dtype=torch.bool)
    for value in (nt_xent(first, second, nothing, temperature=TAU), vicreg(first, second, nothing)["invariance"]):
        assert value.item() == 0
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value, (first, second), allow_unused=True))


def test_random_vectors_start_at_chance_and_equal_orthogonal_ones_at_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    count, width = 1024, 128
    first, second = F.normalize(torch.randn(2, count, width, generator=generator, dtype=torch.float64), dim=2)
    value = nt_xent(first, second, everything(first), temperature=TAU)
    assert value.item() == pytest.approx(math.log(2 * count - 1) + 1 / (2 * width * TAU**2), abs=0.06)
    unit = torch.eye(32, dtype=torch.float64)
    value = nt_xent(unit, unit, everything(unit), temperature=TAU)
    assert value.item() == pytest.approx(-1 / TAU + math.log(math.exp(1 / TAU) + 2 * 31), rel=1e-9)
    same = unit[:1].expand(32, -1)
    assert nt_xent(same, same, everything(same), temperature=TAU).item() == pytest.approx(math.log(63), rel=1e-9)


def test_half_precision_is_computed_in_single() -> None:
    first, second = (x.to(torch.bfloat16) for x in pairs(50))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = nt_xent(first, second, everything(first), temperature=TAU)
        outside = nt_xent(first.float(), second.float(), everything(first), temperature=TAU)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(outside.item(), rel=1e-6)
    assert outside.item() == pytest.approx(naive_nt_xent(first.double(), second.double()), rel=1e-5)


def test_vicreg_equals_a_naive_loop() -> None:
    first, second = (3 * x for x in pairs(6, width=4))
    found = vicreg(first, second, everything(first))
    invariance = sum((first[i, k] - second[i, k]) ** 2 for i in range(6) for k in range(4)) / 24
    variance = covariance = 0.0
    for view in (first, second):
        mean = [sum(view[i, k] for i in range(6)) / 6 for k in range(4)]
        for k in range(4):
            for m in range(4):
                product = sum((view[i, k] - mean[k]) * (view[i, m] - mean[m]) for i in range(6)) / 5
                if k == m:
                    variance += max(0.0, 1 - math.sqrt(product + 1e-4)) / 4 / 2
                else:
                    covariance += float(product) ** 2 / 4
    assert found["invariance"].item() == pytest.approx(float(invariance), rel=1e-12)
    assert found["variance"].item() == pytest.approx(variance, rel=1e-12)
    assert found["covariance"].item() == pytest.approx(covariance, rel=1e-12)
    total = 25 * float(invariance) + 25 * variance + covariance
    assert found["total"].item() == pytest.approx(total, rel=1e-12)


# ------------------------------------------------------------------------------------------------ two ranks


def world() -> tuple[Tensor, Tensor, Tensor]:
    first, second = pairs(14, width=6)
    counted = torch.ones(14, dtype=torch.bool)
    counted[[2, 8, 9, 12]] = False  # one on the first rank, three on the second
    return first.requires_grad_(), second.requires_grad_(), counted


def all_losses(first: Tensor, second: Tensor, counted: Tensor, norm: BatchNorm) -> dict[str, Tensor]:
    answers = [F.normalize(norm(view, counted), dim=1) for view in (first, second)]
    return {
        "nt_xent": nt_xent(answers[0], answers[1], counted, temperature=TAU, rows=3),
        "vicreg": vicreg(answers[0], answers[1], counted)["total"],
    }


def gradients(losses: dict[str, Tensor], *inputs: Tensor) -> dict[str, tuple[Tensor, ...]]:
    return {name: torch.autograd.grad(value, inputs, retain_graph=True) for name, value in losses.items()}


def _rank_main(index: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=index, world_size=2)
    ours = slice(7 * index, 7 * index + 7)
    first, second, counted = world()
    first, second = first.detach()[ours].requires_grad_(), second.detach()[ours].requires_grad_()
    norm = BatchNorm(6).double()
    losses = all_losses(first, second, counted[ours], norm)
    found = gradients(losses, norm.weight, first, second)  # type: ignore[arg-type]
    result = {
        name: {
            "loss": sum_over_ranks(value) / 2,
            "weight": sum_over_ranks(found[name][0]) / 2,
            "inputs": [one / 2 for one in found[name][1:]],
        }
        for name, value in losses.items()
    }
    torch.save(result, Path(folder) / f"{index}.pt")
    dist.destroy_process_group()


@pytest.mark.pipeline
def test_two_ranks_with_unequal_counts_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    spawn(_rank_main, args=(free_port(), str(tmp_path)), nprocs=2)
    first, second, counted = world()
    norm = BatchNorm(6).double()
    losses = all_losses(first, second, counted, norm)
    wanted = gradients(losses, norm.weight, first, second)  # type: ignore[arg-type]
    for index in range(2):
        found = torch.load(tmp_path / f"{index}.pt")
        ours = slice(7 * index, 7 * index + 7)
        for name, value in losses.items():
            torch.testing.assert_close(found[name]["loss"], value.detach(), rtol=0, atol=1e-11)
            torch.testing.assert_close(found[name]["weight"], wanted[name][0], rtol=0, atol=1e-11)
            torch.testing.assert_close(found[name]["inputs"], [g[ours] for g in wanted[name][1:]], rtol=0, atol=1e-11)
