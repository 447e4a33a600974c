"""Damaged weights, states, plans, indices and recipes load as they were, or are refused in a sentence; nothing else.

Bytes are changed in the file, or in a member of a torch file whose checksums are then made right again, so that what
lies behind the checksums is reached too. The short run is part of the fast tests; the long one is marked slow.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnssl.data.index import INDEX_FILE, read_index
from nnssl.engine.checkpoint import LATEST, read_checked, save_state
from nnssl.engine.recipe import resolve
from nnssl.engine.run_folder import RECIPE, RunFolder
from nnssl.errors import NnsslError
from nnssl.export.load import load_encoder
from nnssl.export.read import read_weights
from nnssl.export.sources import read_any
from nnssl.export.target_plan import read_target_plan
from nnssl.launch import Request, read_plans
from nnssl.paths import Folders
from nnssl.planning.grid import case_plan
from nnssl.registry import find_trainer
from tests.engine.workspace import DATASET, make_workspace
from tests.export.weights import write_weights
from tests.tiny import tiny_plans

LONG = int(os.environ.get("NNSSL_FUZZ_EXAMPLES", "1000"))
SHORT = 12
NAMES = {
    "weights": "w.pth", "encoder": "encoder.safetensors", "state": LATEST, "plans": "nnsslPlans.json",
    "index": INDEX_FILE, "recipe": RECIPE,
}  # fmt: skip
TORCH = ("weights", "state")
TEXTS = ("plans", "index", "recipe")


@lru_cache
def seed(kind: str) -> bytes:
    """A sound file of this kind."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if kind in ("weights", "encoder"):
            plans = tiny_plans("Dataset745_Pre")
            arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
            arguments["features_per_stage"] = [2, 2, 2, 2]
            write_weights(folder / "w.pth", plans)
        elif kind == "state":
            save_state(folder, {"step": 3, "method": {"a": torch.arange(6.0), "b": [1, None, "x"]}, "epoch": 1.5})
        elif kind == "recipe":
            recipe = resolve(find_trainer("MAETrainer"))
            content = {
                "trainer": "MAETrainer",
                "preset": "default",
                "hash": "x",
                "data": {},
                "recipe": recipe.to_json(),
            }
            (folder / RECIPE).write_text(json.dumps(content))
        else:
            home = make_workspace(folder, cases=2) / "nnUNet_preprocessed" / DATASET
            return (home / NAMES[kind] if kind == "plans" else home / "nnsslPlans_3d_fullres" / INDEX_FILE).read_bytes()
        return (folder / NAMES[kind]).read_bytes()


def _weights(file: Path) -> Any:
    found = [read_weights(file), read_any(file)]
    load_encoder(file)
    return [(each.tensors, each.plans, each.channels, each.architecture) for each in found]


def _encoder(file: Path) -> Any:
    found = read_any(file)
    load_encoder(file)
    return found.tensors, found.plans


def _plans(file: Path) -> Any:
    home = file.parent / "home" / DATASET
    home.mkdir(parents=True, exist_ok=True)
    file.replace(home / file.name)
    where = Folders(file.parent / "home", file.parent / "home", file.parent / "home")
    request = Request(trainer="T", dataset=DATASET, configuration="3d_fullres", plans_name="nnsslPlans")
    plans = read_plans(where, request)
    case_plan(plans, "3d_fullres")
    read_target_plan(DATASET, where, plans_name="nnsslPlans", configuration="3d_fullres")
    return plans


def _index(file: Path) -> Any:
    found = read_index(file.parent)
    return [(entry.shape, entry.to_world, entry.file) for entry in found.entries.values()]


def _recipe(file: Path) -> Any:
    stored = RunFolder(file.parent).stored
    return resolve(find_trainer("MAETrainer"), "default", stored["recipe"]).to_json() if stored else None


READERS: dict[str, Callable[[Path], Any]] = {
    "weights": _weights, "encoder": _encoder, "state": read_checked, "plans": _plans, "index": _index,
    "recipe": _recipe,
}  # fmt: skip


def _broken(draw: st.DrawFn, content: bytearray) -> bytes:
    """Bytes overwritten, flipped, cut out, put in; mostly near start and end, where formats keep their tables."""
    for _ in range(draw(st.integers(1, 4))):
        size = len(content)
        near = st.one_of(st.integers(0, min(600, size)), st.integers(max(0, size - 600), size), st.integers(0, size))
        place, what = draw(near), draw(st.sampled_from(("overwrite", "flip", "cut", "insert", "number")))
        if what == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif what == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "insert":
            content[place:place] = draw(st.binary(max_size=12))
        elif what == "number":
            content[place : place + 4] = draw(st.sampled_from((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"9999", b"-1.e")))
        else:
            fresh = draw(st.binary(min_size=1, max_size=6))
            content[place : place + len(fresh)] = fresh
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 4)) == 0 else content)


@st.composite
def broken_file(draw: st.DrawFn, kind: str) -> bytes:
    """The seed with broken bytes."""
    return _broken(draw, bytearray(seed(kind)))


@st.composite
def broken_member(draw: st.DrawFn, kind: str) -> bytes:
    """A torch file with a broken member and sound checksums: what a person who means harm would send."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed(kind))) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        pickled = next(name for name in names if name.endswith("data.pkl"))
        chosen = draw(st.sampled_from((pickled, pickled, pickled, *names)))
        for name in names:
            content = old.read(name)
            new.writestr(name, _broken(draw, bytearray(content)) if name == chosen else content)
    return made.getvalue()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed_json(draw: st.DrawFn, kind: str) -> bytes:
    """A JSON file in which one value, anywhere, is another one, or missing."""
    content = json.loads(seed(kind))
    here = content
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = draw(st.sampled_from(keys))
        deeper = here[key]
        if not isinstance(deeper, dict | list) or not deeper or draw(st.integers(0, 3)) == 0:
            break
        here = deeper
    if draw(st.integers(0, 4)) == 0:
        del here[key]
    else:
        here[key] = draw(JSON)
    return json.dumps(content).encode()


def same(one: Any, other: Any) -> bool:
    """Equality that knows tensors, and that a NaN is itself."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def check(kind: str, content: bytes, *, may_differ: bool) -> None:
    """Read, and accept the sound content or a sentence."""
    with TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers in a spoilt plan that overflow
        file = Path(name) / NAMES[kind]
        file.write_bytes(seed(kind))
        sound = READERS[kind](file)
        file.write_bytes(content)
        try:
            found = READERS[kind](file)
        except NnsslError as error:
            assert len(str(error).split()) > 5, str(error)
        else:
            assert may_differ or same(found, sound)
        assert {path.name for path in Path(name).iterdir()} <= {NAMES[kind], "home"}


def fuzz(strategy: st.SearchStrategy[bytes], kind: str, examples: int, *, may_differ: bool, fixed: bool) -> None:
    """Run `check` on many contents."""

    @settings(
        max_examples=examples, deadline=None, derandomize=fixed, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(content: bytes) -> None:
        check(kind, content, may_differ=may_differ)

    run()


@pytest.mark.parametrize("kind", NAMES)
def test_the_seeds_are_sound(kind: str) -> None:
    check(kind, seed(kind), may_differ=False)
    with TemporaryDirectory() as name:
        file = Path(name) / NAMES[kind]
        file.write_bytes(seed(kind))
        assert READERS[kind](file)


@pytest.mark.parametrize("kind", NAMES)
def test_broken_bytes_are_refused_or_change_nothing(kind: str) -> None:
    """Torch files have checksums; text and safetensors have none, so that another value may be read from them."""
    fuzz(broken_file(kind), kind, SHORT, may_differ=kind not in TORCH, fixed=True)


@pytest.mark.parametrize("kind", TORCH)
def test_broken_members_behind_sound_checksums_are_read_or_refused(kind: str) -> None:
    fuzz(broken_member(kind), kind, 2 * SHORT, may_differ=True, fixed=True)


@pytest.mark.parametrize("kind", TEXTS)
def test_other_values_in_json_are_read_or_refused(kind: str) -> None:
    fuzz(changed_json(kind), kind, 3 * SHORT, may_differ=True, fixed=True)


def test_what_once_broke_a_reader_stays_mended() -> None:
    with zipfile.ZipFile(io.BytesIO(seed("state"))) as archive:
        name = archive.namelist()[0].encode()
    latin = name[:-1] + b"\xe1"  # a member's name that is no UTF-8, though the file says it is
    flagged = seed("state").replace(name, latin)
    content = bytearray(flagged)
    place = content.find(b"PK\x01\x02")
    content[place + 9] |= 0x08
    check("state", bytes(content), may_differ=False)
    content = bytearray(seed("weights"))
    place = content.rfind(b"PK\x01\x02", 0, content.rfind(b"/data/0"))
    content[place + 38] = 0x10  # a tensor marked as a folder, which torch would not read
    check("weights", bytes(content), may_differ=False)
    content = bytearray(seed("weights"))
    content[content.rfind(b"PK\x01\x02") + 46] = 0  # a member whose name is empty, since it begins with a NUL
    check("weights", bytes(content), may_differ=True)
    check("index", json.dumps({**json.loads(seed("index")), "entries": None}).encode(), may_differ=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_broken_bytes_however_long_one_tries(kind: str) -> None:
    fuzz(broken_file(kind), kind, LONG, may_differ=kind not in TORCH, fixed=False)
    if kind in TORCH:
        fuzz(broken_member(kind), kind, LONG, may_differ=True, fixed=False)
    if kind in TEXTS:
        fuzz(changed_json(kind), kind, LONG, may_differ=True, fixed=False)
