"""States on disk: whole, checked, kept twice, no pickle."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nnssl.engine.checkpoint import LATEST, PREVIOUS, load_state, read_checked, save_state
from nnssl.errors import StateError


def state(step: int) -> dict[str, Any]:
    return {"step": step, "method": {"w": torch.full((2000,), float(step))}, "journal": {"lines": 3}, "none": None}


def load(folder: Path, said: list[str] | None = None) -> dict[str, Any] | None:
    return load_state(folder, say=(said if said is not None else []).append)


def test_state_comes_back_and_the_one_before_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, state(step))
    loaded = load(tmp_path)
    assert loaded is not None and loaded["step"] == 3
    assert torch.equal(loaded["method"]["w"], torch.full((2000,), 3.0))
    assert read_checked(tmp_path / PREVIOUS)["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, PREVIOUS]


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert load(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_latest_falls_back_and_says_so(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))
    latest = tmp_path / LATEST
    content = bytearray(latest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 255
    latest.write_bytes(b"" if damage == "empty" else content[: len(content) // 2] if damage == "cut" else content)
    said: list[str] = []
    loaded = load(tmp_path, said)
    assert loaded is not None and loaded["step"] == 1
    assert LATEST in said[0] and "damaged" in said[0] and f"Falling back to {PREVIOUS}, saved at step 1." in said[0]


def test_missing_latest_falls_back(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    (tmp_path / LATEST).rename(tmp_path / PREVIOUS)
    loaded = load(tmp_path)
    assert loaded is not None and loaded["step"] == 1


def test_two_damaged_states_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for name in (LATEST, PREVIOUS):
        (tmp_path / name).write_bytes(b"PK nothing")
    with pytest.raises(StateError, match=r"No whole training state is left.*-pretrained_weights"):
        load(tmp_path)


def test_code_in_a_state_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"step": Evil()}, tmp_path / LATEST, pickle_module=pickle)
    with pytest.raises(StateError, match="tensors and plain values"):
        load(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_newer_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / LATEST)
    with pytest.raises(StateError, match="newer nnssl"):
        read_checked(tmp_path / LATEST)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX")
def test_full_disk_leaves_the_state_before_untouched(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    code = f"""
import resource, sys, torch
from pathlib import Path
from nnssl.engine.checkpoint import save_state
from nnssl.errors import StateError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_state(Path({str(tmp_path)!r}), {{"step": 2, "method": torch.zeros(100_000)}})
except StateError as error:
    print(error)
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "could not be written" in done.stdout and "Free on that disk" in done.stdout and "--c" in done.stdout
    loaded = load(tmp_path)
    assert loaded is not None and loaded["step"] == 1
    assert not list(tmp_path.glob(".*"))
