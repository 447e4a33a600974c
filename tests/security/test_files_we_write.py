"""Nothing we write needs pickle: torch files hold tensors and plain values, arrays no objects, the rest is text."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnssl.data.sidecar import BodyMask, write_sidecar
from nnssl.engine.checkpoint import LATEST, save_state
from nnssl.errors import NnsslError
from tests.engine.processes import run
from tests.engine.workspace import FOLDER, make_workspace

PLAIN = (str, int, float, bool, bytes, type(None))
TORCH_NAMES = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch serialization"}
TEXT = {".json", ".jsonl", ".txt", ".md", ".csv", ".html", ".log", ".lock", ""}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every file of a workspace after a whole run."""
    root = make_workspace(tmp_path_factory.mktemp("written"))
    code, words = run(root, "--name", "whole")
    assert code == 0, words
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {"checkpoint_final.pth", "encoder.safetensors", LATEST} <= {path.name for path in files}
    return files


@pytest.mark.pipeline
def test_files_are_of_known_kinds_only(written: list[Path]) -> None:
    assert {path.suffix for path in written} <= {".pth", ".safetensors", ".b2nd", ".npz", ".png", *TEXT}
    for path in written:
        if path.suffix in TEXT:
            path.read_text(encoding="utf-8")
    assert not [path for path in written if path.read_bytes()[:1] == b"\x80"]  # a bare pickle begins like this


@pytest.mark.pipeline
def test_torch_files_load_with_weights_only_and_hold_tensors_and_plain_values(written: list[Path]) -> None:
    files = [path for path in written if path.suffix == ".pth"]
    assert {path.name for path in files} >= {"checkpoint_final.pth", "pretrained_latest.pth", LATEST}
    assert (FOLDER / "fold_all--whole").as_posix() in files[0].parent.as_posix()
    for path in files:
        kinds = {type(leaf) for leaf in leaves(torch.load(path, weights_only=True))}
        assert torch.Tensor in kinds and kinds <= {torch.Tensor, *PLAIN}, path


@pytest.mark.pipeline
def test_their_pickles_name_nothing_but_what_makes_tensors(written: list[Path]) -> None:
    for path in written:
        if path.suffix == ".pth":
            with zipfile.ZipFile(path) as archive:
                (member,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
                names = globals_of(archive.read(member))
            assert all(name in TORCH_NAMES or name.endswith("Storage") for name in names), (path, names)


def leaves(value: Any) -> list[Any]:
    """Everything in nested dicts, lists and tuples, keys too."""
    if isinstance(value, dict):
        return [leaf for pair in value.items() for each in pair for leaf in leaves(each)]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]


def globals_of(pickled: bytes) -> set[str]:
    """What a pickle imports, "module name", without unpickling it."""
    found: set[str] = set()
    texts: list[str] = []
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL":
            found.add(str(argument))
        elif code.name == "STACK_GLOBAL":
            found.add(" ".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
    return found


def test_a_state_with_an_object_in_it_would_be_noticed(tmp_path: Path) -> None:
    """The checks above can fail."""
    save_state(tmp_path, {"path": Path("x")})
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / LATEST, weights_only=True)
    with zipfile.ZipFile(tmp_path / LATEST) as archive:
        member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        assert any("Path" in name for name in globals_of(archive.read(member)))


def test_a_sidecar_of_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match="bool, integer or float"):
        write_sidecar(tmp_path / "case.body.npz", BodyMask, {"mask": np.array([{}], dtype=object)})
    assert not list(tmp_path.iterdir())
