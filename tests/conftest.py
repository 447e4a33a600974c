"""Shared fixtures. Real scans are used where they are and skipped aloud where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnssl.paths import VARIABLES

os.environ.setdefault("nnUNet_compile", "f")
os.environ.setdefault("nnUNet_def_n_proc", "2")


@pytest.fixture
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's variables are empty, and restored afterwards whatever `--workspace` sets."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")


@pytest.fixture(scope="session")
def tiny_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two tiny data sets, raw and preprocessed; see `tests.tiny.write_workspace`. Read only."""
    from tests.tiny import write_workspace

    root = tmp_path_factory.mktemp("workspace")
    write_workspace(root)
    return root


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans: NNSSL_TEST_DATA, or ../shared/data beside the project."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NNSSL_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}; set NNSSL_TEST_DATA to run this test")
    return folder
