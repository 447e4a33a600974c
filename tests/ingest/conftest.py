"""How the tests of ingest run it: the whole of it, on a source of a few small scans."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
