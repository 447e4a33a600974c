"""One workspace for all stock tests; data sets are made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stock.stock import Stock, copy_labelled, write_split
from tests.tiny import make_raw_dataset

HIPPOCAMPUS, HEAD_NECK, TINY = "Dataset004_Hippocampus", "Dataset007_HeadNeck", "Dataset005_Tiny"


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    workspace = Stock(tmp_path_factory.mktemp("stock"))
    for folder in (workspace.raw, workspace.preprocessed, workspace.results):
        folder.mkdir()
    return workspace


@pytest.fixture(scope="session")
def hippocampus(stock: Stock, shared_data: Path) -> str:
    source = shared_data / "Task04_Hippocampus"
    cases = json.loads((source / "splits.json").read_text())["few_shot_5"]
    about: dict[str, Any] = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}}
    copy_labelled(stock, source, HIPPOCAMPUS, cases, about)
    return HIPPOCAMPUS


@pytest.fixture(scope="session")
def head_neck(stock: Stock, shared_data: Path) -> str:
    source = shared_data / "OpenKBP_HN"
    splits = json.loads((source / "splits.json").read_text())
    about: dict[str, Any] = {"channel_names": {"0": "CT"}, "labels": splits["labels"]}
    copy_labelled(stock, source, HEAD_NECK, splits["labelled"][:3], about)
    return HEAD_NECK


@pytest.fixture(scope="session")
def tiny(stock: Stock) -> str:
    folder = make_raw_dataset(stock.raw, 5, 3, kind="two", labels=True)
    write_split(folder, [f"case_{index:02d}" for index in range(3)])
    return TINY
