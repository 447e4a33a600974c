"""The soak, shortened to a minute, and its judgement on curves that are known to be bad."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.cli_reference import ROOT

SCRIPT = ROOT / "benchmarks" / "soak.py"
ENDS = {"SIGTERM": (143, 0), "Ctrl-C": (130, 0), "kill -9": (-9, 0)}


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script
    try:
        spec = importlib.util.spec_from_file_location("soak", SCRIPT)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["soak"] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def samples(soak: ModuleType, slow: float = 0.0, **last: Any) -> list[Any]:
    """A flat hour; the last quarter has other values."""
    flat = {"memory_mib": 500.0, "files": 12, "threads": 4, "opened": 20}
    return [
        soak.Sample(
            minute=float(i),
            steps=i * 10,
            processor_seconds=i + slow * max(0, i - 30),
            **(flat | (last if i >= 30 else {})),
        )
        for i in range(40)
    ]


def test_a_flat_hour_is_sound(soak: ModuleType) -> None:
    assert soak.judge(samples(soak), [0.1] * 400, ENDS)["broken"] == []


@pytest.mark.parametrize(
    ("last", "sentence"),
    [({"memory_mib": 512.0}, "memory grew by 2.4%"), ({"files": 13}, "files went"), ({"opened": 23}, "open files")],
)
def test_what_grows_is_told(soak: ModuleType, last: dict[str, Any], sentence: str) -> None:
    broken = soak.judge(samples(soak, **last), [0.1] * 400, ENDS)["broken"]
    assert len(broken) == 1 and sentence in broken[0]


def test_slower_steps_are_told(soak: ModuleType) -> None:
    late = [0.1] * 300 + [0.112] * 100
    assert "12.0% longer" in soak.judge(samples(soak, slow=0.2), late, ENDS)["broken"][0]
    assert soak.judge(samples(soak), late, ENDS)["broken"] == []  # the machine was busy
    assert soak.judge(samples(soak, slow=0.2), [0.1] * 400, ENDS)["broken"] == []


def test_what_is_left_is_told(soak: ModuleType) -> None:
    broken = soak.judge(samples(soak), [0.1] * 400, ENDS | {"kill -9": (-9, 2), "Ctrl-C": (0, 0)})["broken"]
    assert broken == ["2 processes left after kill -9", "Ctrl-C was not answered with 130"]


@pytest.mark.slow
def test_a_minute_keeps_files_and_leaves_no_process(soak: ModuleType) -> None:
    """Memory and step time need longer to be flat than a minute, and a machine of their own."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--minutes", "1", "--samples", "16"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (1 if found["broken"] else 0), done.stderr
    assert not [sentence for sentence in found["broken"] if "memory" not in sentence and "a step took" not in sentence]
    assert found["memory_ratio"] < 1.1 and found["steps"] > 50
