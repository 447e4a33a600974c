"""All seven methods: kill -9 at seeded random moments, continued with other numbers of workers, to the same bits."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nnssl.engine.checkpoint import LATEST
from tests.cli_reference import ROOT
from tests.engine.processes import TIMEOUT, run, start, wait_for
from tests.engine.test_resume import tensors

METHODS = ("DeSD", "MAE", "Vox2Vec", "AnatEmbed", "Alice", "CADS", "DINO3D")
KILLS = 3
LONG = 600.0  # seconds for one run: AnatEmbed's take a minute on a free machine
# The views of this small plan are too small for CADS to halve them.
OWN = {
    "CADS": ("steps_per_epoch=4", "method.sampling=none"),
    "AnatEmbed": ("steps_per_epoch=2",),
    "Alice": ("steps_per_epoch=2",),
}
LENGTH = ("--set", "epochs=2", "batch_size=4", "threads=1", "save_every_minutes=0")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The script that prepares one data set for every method."""
    spec = importlib.util.spec_from_file_location("methods_benchmark", ROOT / "benchmarks" / "methods.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs of all methods lie; the workspace is three folders up."""
    root = tmp_path_factory.mktemp("seven")
    dataset = benchmark.prepare(root, [f"{method}Trainer" for method in METHODS])
    return root / "nnUNet_results" / str(dataset)


@pytest.mark.parametrize("method", METHODS)
def test_random_kills_leave_the_bits_alone(benchmark: ModuleType, results: Path, method: str) -> None:
    what = (results.name[7:10], benchmark.CONFIGURATION, "-tr", f"{method}Trainer", "-p", benchmark.PLANS)
    root, folder = results.parents[1], results / f"{method}Trainer__{benchmark.PLANS}__{benchmark.CONFIGURATION}"
    chance = random.Random(f"{method} 7")
    length = (*LENGTH, *OWN.get(method, ("steps_per_epoch=4",)))
    code, words = run(root, "--name", "whole", "-num_workers", "1", *length, what=what, seconds=LONG)
    assert code == 0, words
    killed, codes = folder / "fold_all--killed", []
    for attempt in range(KILLS):
        more = ("--c",) if attempt else length
        process = start(root, "--name", "killed", "-num_workers", str(attempt), *more, what=what)
        # any moment between the first line that this process adds and a little later
        begun = time.time()
        wait_for(lambda begun=begun, process=process: _began(killed, begun) or not process.is_alive())
        time.sleep(chance.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.join(TIMEOUT)
        codes.append(process.exitcode)
    assert codes[0] == -signal.SIGKILL and set(codes) <= {-signal.SIGKILL, 0}  # the last one may have been done
    code, words = run(root, "--name", "killed", "--c", "-num_workers", "3", what=what, seconds=LONG)
    assert code == 0, words
    whole, other = (torch.load(folder / f"fold_all--{n}" / LATEST, weights_only=True) for n in ("whole", "killed"))
    assert _different({key: whole[key] for key in KEPT}, {key: other[key] for key in KEPT}) == []
    final = [
        torch.load(folder / f"fold_all--{name}" / "checkpoint_final.pth", weights_only=True)["network_weights"]
        for name in ("whole", "killed")
    ]
    assert _different(*final) == []


KEPT = ("method", "optimizer", "step")


def _began(folder: Path, since: float) -> bool:
    """Whether the running process has got past its start: the metrics were written to after `since`."""
    file = folder / "metrics.jsonl"
    return file.is_file() and file.stat().st_mtime > since and b'"loss"' in file.read_bytes()


def _different(one: Any, other: Any) -> list[str]:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys() and first
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
