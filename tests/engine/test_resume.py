"""The promise: killed anywhere, continued with any worker count, a run is bit-equal to one that was left alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nnssl.engine.checkpoint import LATEST, PREVIOUS
from tests.engine.processes import lines_written, run, start, wait_for
from tests.engine.workspace import FOLDER, losses

pytestmark = pytest.mark.pipeline  # whole runs in processes of their own

LENGTH = ("--set", "epochs=3", "steps_per_epoch=4")


def state_of(root: Path, name: str, file: str = LATEST) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(root / FOLDER / f"fold_all--{name}" / file, weights_only=True)
    return state


def tensors(tree: object, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(tree, Tensor):
        return {prefix: tree}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return {name: tensor for key, inner in pairs for name, tensor in tensors(inner, f"{prefix}/{key}").items()}


def assert_same(root: Path, one: str, other: str) -> None:
    assert losses(root, one) == losses(root, other)
    first, second = (tensors({k: state_of(root, n)[k] for k in ("method", "optimizer")}) for n in (one, other))
    assert first.keys() == second.keys()
    different = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    assert not different


@pytest.fixture(scope="session")
def reference(workspace: Path) -> str:
    code, words = run(workspace, "--name", "whole", "-num_workers", "1", *LENGTH)
    assert code == 0, words
    return "whole"


def test_run_killed_at_several_moments_is_bit_equal_to_an_uninterrupted_one(workspace: Path, reference: str) -> None:
    for attempt, lines in enumerate((1, 4, 9)):
        process = start(
            workspace, "--name", "killed", "-num_workers", str(attempt), *LENGTH, *(["--c"] * (attempt > 0))
        )
        wait_for(lambda lines=lines: lines_written(workspace, "killed") >= lines)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    code, words = run(workspace, "--name", "killed", "--c")  # continues with the run's own recipe
    assert code == 0, words
    assert_same(workspace, reference, "killed")
    assert not list((workspace / FOLDER / "fold_all--killed").glob(".*.partial"))


def test_cut_off_state_falls_back_to_the_one_before_and_says_so(workspace: Path, reference: str) -> None:
    process = start(workspace, "--name", "cut", *LENGTH)
    wait_for(lambda: lines_written(workspace, "cut") >= 6)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    folder = workspace / FOLDER / "fold_all--cut"
    latest = folder / LATEST
    latest.write_bytes(latest.read_bytes()[:-100])
    before = state_of(workspace, "cut", PREVIOUS)["step"]
    code, words = run(workspace, "--name", "cut", "--c")
    assert code == 0, words
    assert f"Falling back to {PREVIOUS}, saved at step {before}." in words.replace("\n", " ")
    assert_same(workspace, reference, "cut")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_leaves_with_its_own_exit_code(
    workspace: Path, reference: str, number: signal.Signals
) -> None:
    name = f"left{number.value}"
    process = start(workspace, "--name", name, *LENGTH, "save_every_minutes=60")
    wait_for(lambda: lines_written(workspace, name) >= 3)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    done = state_of(workspace, name)["step"]
    assert done == len(losses(workspace, name))
    assert f"the state after step {done} is saved" in (workspace / "log.txt").read_text()
    code, words = run(workspace, "--name", name, "--c")
    assert code == 0, words
    assert_same(workspace, reference, name)


def test_sgd_and_accumulation_resume_too(workspace: Path) -> None:
    options = ("--preset", "sgd", "--set", "accumulate=2", "method.coupled=false", "save_every_minutes=0")
    assert run(workspace, "--name", "sgd", *options)[0] == 0
    process = start(workspace, "--name", "sgd-killed", *options)
    wait_for(lambda: lines_written(workspace, "sgd-killed") >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    code, words = run(workspace, "--name", "sgd-killed", "--c")
    assert code == 0, words
    assert_same(workspace, "sgd", "sgd-killed")
