"""The promise: two ranks, or two micro-batches, equal one with the whole batch, deferred state included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnssl.engine.distributed import free_port
from tests.engine.processes import run, run_ranks
from tests.engine.test_resume import state_of, tensors
from tests.engine.workspace import losses

pytestmark = pytest.mark.pipeline

# A small learning rate: Adam divides by the gradient's own size, so that parameters whose gradient is zero but for
# rounding (biases in front of a normalisation) move by up to lr * rounding / eps, in another direction in every run.
EXACT = ("--set", "precision=fp64", "method.dropout=0", "optimizer.lr=1e-3")


def assert_close(root: Path, one: str, other: str) -> None:
    torch.testing.assert_close(losses(root, one), losses(root, other), rtol=0, atol=1e-9)
    first, second = (tensors(state_of(root, name)["method"]) for name in (one, other))
    assert {name.split("/")[1].split(".")[0] for name in first} >= {"encoder", "teacher", "center", "norm"}
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-9, msg=name)


@pytest.fixture(scope="session")
def alone(workspace: Path) -> str:
    code, words = run(workspace, "--name", "alone", *EXACT)
    assert code == 0, words
    return "alone"


def test_two_ranks_equal_one_with_teacher_centre_and_batch_norm(workspace: Path, alone: str) -> None:
    codes = run_ranks(workspace, 2, free_port(), "--name", "two", *EXACT)
    assert codes == [0, 0], (workspace / "log.0.txt").read_text() + (workspace / "log.1.txt").read_text()
    assert_close(workspace, alone, "two")


def test_two_ranks_continue_what_one_began(workspace: Path, alone: str) -> None:
    assert run(workspace, "--name", "grown", *EXACT, "epochs=1")[0] == 0
    codes = run_ranks(workspace, 2, free_port(), "--name", "grown", "--c", "--set", "epochs=2")
    assert codes == [0, 0], (workspace / "log.0.txt").read_text()
    assert "had 1 ranks and now has 2" in (workspace / "log.0.txt").read_text().replace("\n", " ")


def test_micro_batches_equal_one_batch(workspace: Path) -> None:
    options = (*EXACT, "method.coupled=false")
    assert run(workspace, "--name", "one-batch", *options)[0] == 0
    code, words = run(workspace, "--name", "two-micros", *options, "accumulate=2")
    assert code == 0, words
    torch.testing.assert_close(losses(workspace, "one-batch"), losses(workspace, "two-micros"), rtol=0, atol=1e-9)
    first, second = (tensors(state_of(workspace, name)["method"]) for name in ("one-batch", "two-micros"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-9, msg=name)


def test_ranks_refuse_a_batch_they_cannot_share(workspace: Path) -> None:
    codes = run_ranks(workspace, 2, free_port(), "--name", "uneven", "--set", "batch_size=3")
    assert codes == [1, 1]
    assert "batch_size (3) must be divisible by ranks x accumulate (2 x 1 = 2)" in (workspace / "log.0.txt").read_text()


def test_num_gpus_spawns_ranks_on_the_cpu(workspace: Path, alone: str) -> None:
    from tests.engine.workspace import pretrain

    pretrain(workspace, "--name", "spawned", "-num_gpus", "2", *EXACT)
    assert_close(workspace, alone, "spawned")
