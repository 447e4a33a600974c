"""How the tests of ingest run it: the whole of it, on a source of a few small scans."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnssl.cli.plan_and_preprocess import main
from nnssl.data.index import read_index
from nnssl.ingest import apart
from nnssl.ingest.run import Outcome, Request, ingest

Ingest = Callable[..., Outcome]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that read scans are copies of this one, with what a test has replaced in it."""
    monkeypatch.setattr(apart, "_context", lambda: multiprocessing.get_context("fork"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty folder for scans."""
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Where the data set will be."""
    return tmp_path / "nnUNet_raw" / "Dataset745_Test"


@pytest.fixture
def run(source: Path, dataset: Path) -> Ingest:
    """Ingest `source`, or the sources given, into `dataset`."""

    def go(*sources: Path, **options: Any) -> Outcome:
        options["accepted"] = frozenset(options.get("accepted", ()))
        request = Request(sources=sources or (source,), folder=dataset, workers=1, **options)
        return ingest(request, lambda sentence: None)

    return go


@pytest.fixture
def preprocessed_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """Plan and preprocess a data set 745 that was ingested into a folder; the cases that then can be trained on."""

    def go(folder: Path) -> list[str]:
        monkeypatch.setenv("nnUNet_raw", str(folder.parent))
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
        monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
        assert main(["-d", "745", "-np", "1"]) == 0
        return sorted(read_index(tmp_path / "preprocessed" / folder.name / "nnsslPlans_3d_fullres").entries)

    return go
