"""Values are plain before they are written, or refused with their place."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.errors import ExportError
from nnssl.export.plain import plain


class Mode(enum.Enum):
    FAST = "fast"


@dataclass
class Point:
    where: tuple[int, ...]
    folder: Path


def test_numpy_paths_enums_and_dataclasses_become_plain(tmp_path: Path) -> None:
    value = {
        "f": np.float32(0.5),
        "i": np.int64(3),
        "b": np.bool_(True),
        "a": np.arange(4).reshape(2, 2),
        1: {np.int64(2), 1},
        "p": Point((1, 2), Path("x")),
        "m": Mode.FAST,
        "n": None,
    }
    made = plain(value)
    assert made == {
        "f": 0.5, "i": 3, "b": True, "a": [[0, 1], [2, 3]], "1": [1, 2], "p": {"where": [1, 2], "folder": "x"},
        "m": "fast", "n": None,
    }  # fmt: skip
    json.dumps(made)
    torch.save(made, tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth", weights_only=True) == made


def test_what_has_no_plain_form_is_named_with_its_place() -> None:
    with pytest.raises(ExportError, match=r"recipe\.steps\[1\] is a object"):
        plain({"steps": [1, object()]}, where="recipe")
