"""Files that are not ours are refused in one sentence, and nothing in them is ever run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnssl.errors import DataError
from nnssl.export.read import read_weights
from tests.export.weights import write_weights
from tests.tiny import tiny_plans


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "w.pth"
    write_weights(path, tiny_plans("Dataset745_Tiny", residual=True))
    return path


def test_a_published_file_tells_its_network_plan_and_origin(good: Path) -> None:
    weights = read_weights(good)
    plans = tiny_plans("Dataset745_Tiny", residual=True)
    assert weights.architecture == plans["configurations"]["3d_fullres"]["architecture"]
    assert weights.configuration == plans["configurations"]["3d_fullres"]
    assert weights.plans == plans
    assert weights.channels == 1
    assert weights.provenance["transferred"] == {"encoder": 90, "decoder": 30}
    assert weights.provenance["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04K\x01."], ids=["empty", "text", "pickle"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(DataError, match=r"w\.pth is no weights file"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(DataError, match="is a folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_called_so(tmp_path: Path, good: Path, share: float) -> None:
    content = good.read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"w\.pth is cut short or damaged"):
        read_weights(tmp_path / "w.pth")


def test_a_flipped_bit_is_found(tmp_path: Path, good: Path) -> None:
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "w.pth").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"does not match its checksum"):
        read_weights(tmp_path / "w.pth")


def test_a_pickle_bomb_does_not_go_off(tmp_path: Path) -> None:
    torch.save({"network_weights": {}, "bomb": Bomb(tmp_path / "boom")}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="without running code"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no 'network_weights'"),
        ({"state_dict": {}}, "no 'network_weights'"),
        ({"network_weights": {}, "init_args": {}}, "not 'architecture_plans' in 'nnssl_adaptation_plan'"),
        ({"network_weights": {}, "nnssl_adaptation_plan": 3}, "not 'architecture_plans'"),
    ],
    ids=["list", "other", "stock nnU-Net", "no mapping"],
)
def test_a_torch_file_of_another_maker_is_told_what_it_lacks(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match=message):
        read_weights(tmp_path / "w.pth")
