"""A save, an export and a preprocessing that are killed, or run out of disk, at one of their file operations."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nnssl.data.index import read_index
from nnssl.data.sidecar import BodyMask, read_sidecar
from nnssl.data.store import read_box
from nnssl.engine.checkpoint import LATEST, PREVIOUS, load_state, read_checked, save_state
from nnssl.engine.run_folder import RunFolder
from nnssl.method import Exported
from nnssl.paths import Folders
from nnssl.planning.requirements import Required
from tests.engine.test_checkpoint import state
from tests.export.test_publish import publish_tiny, trained
from tests.faults.boundaries import Fault
from tests.faults.world import child, count
from tests.planning.test_folder import go
from tests.tiny import make_raw_dataset, tiny_plans, workspace_folders

NEEDED = Required(raw=True, sidecars=(BodyMask,))
Entry = dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Something that writes files, and how to look at them afterwards.

    Attributes:
        folder: where it happens.
        task: what is struck; called in a new process.
        arguments: its own.
        check: looks at the folder; called with whether the task ended well.
    """

    folder: Path
    task: Callable[..., None]
    arguments: tuple[Any, ...]
    check: Callable[[Path, bool], None]


def operations(scene: Scene, *, without: Sequence[str] = ()) -> int:
    """How many file operations the task of a scene has; the scene is over then."""
    fault = Fault(kind="count", root=scene.folder)
    code, words = child(scene.task, *scene.arguments, log=_log(scene), fault=fault, without=without)
    assert code == 0, words
    scene.check(scene.folder, True)
    return count(fault)


def check_strike(scene: Scene, fault: Fault, *, without: Sequence[str] = ()) -> bool:
    """Strike the task, look at what is left, do it again in peace, look again.

    Returns:
        Whether the task failed. It may end well: an index is written by the clock, so that there are not always equally
        many operations, and a full disk only refuses a hard link, without which a state is kept all the same.
    """
    code, words = child(
        scene.task, *scene.arguments, log=_log(scene), fault=replace(fault, root=scene.folder), without=without
    )
    if code != 0 and fault.kind == "kill":
        assert code == -9, words
    elif code != 0:
        assert code == 1, words
        assert "No space left" in words or "disk is full" in words, words
        assert "Traceback" not in words and len(words) < 900, words
    scene.check(scene.folder, code == 0)
    scene.task(*scene.arguments)
    scene.check(scene.folder, True)
    assert not [path for path in scene.folder.rglob(".*") if path.name != ".lock"]
    return code != 0


def _log(scene: Scene) -> Path:
    return scene.folder.parent / f"{scene.folder.name}.log"


# ---------------------------------------------------------------------------------------------------- training states


def saving(folder: Path) -> Scene:
    """States 1 and 2 are saved; state 3 is going to be."""
    folder.mkdir()
    save_state(folder, state(1))
    save_state(folder, state(2))
    return Scene(folder=folder, task=save_third, arguments=(folder,), check=_check_state)


def save_third(folder: Path) -> None:
    """As a run does: what a killed one left is swept when the folder is taken."""
    held = RunFolder(folder)
    held.hold()
    save_state(folder, state(3))
    held.release()


def _check_state(folder: Path, ended: bool) -> None:
    loaded = load_state(folder, say=lambda sentence: None)
    assert loaded is not None
    assert loaded["step"] in ((3,) if ended else (2, 3))
    assert torch.equal(loaded["method"]["w"], torch.full((2000,), float(loaded["step"])))
    found = [name for name in (LATEST, PREVIOUS) if (folder / name).exists()]
    for name in found:
        assert read_checked(folder / name)["step"] in (1, 2, 3), name
    assert not ended or len(found) == 2


# ------------------------------------------------------------------------------------------------------------ exports


def publishing(folder: Path) -> Scene:
    """Weights of seed 1 are published; those of seed 2 are going to be."""
    folder.mkdir()
    publish_seed(folder, 1)
    return Scene(folder=folder, task=publish_seed, arguments=(folder, 2), check=_check_export)


def publish_seed(folder: Path, seed: int) -> None:
    """As a run does: what a killed one left is swept when the folder is taken."""
    plans = tiny_plans("Dataset745_Tiny")
    encoder = trained(plans, seed=seed).encoder
    held = RunFolder(folder)
    held.hold()
    publish_tiny(folder / "new.pth", plans, Exported(encoder=encoder), provenance={"trainer": "T", "steps": seed})
    held.release()


def _check_export(folder: Path, ended: bool) -> None:
    name = "stages.0.0.convs.0.conv.weight"
    truth = {seed: trained(tiny_plans("Dataset745_Tiny"), seed=seed).encoder.state_dict() for seed in (1, 2)}
    content = _readable(partial(torch.load, weights_only=True), folder / "new.pth")
    generation = content["provenance"]["steps"]
    assert generation in ((2,) if ended else (1, 2))
    for key, value in truth[generation].items():
        assert torch.equal(content["network_weights"][f"encoder.{key}"], value), key
    encoder = _readable(load_file, folder / "encoder.safetensors")
    others = [seed for seed in (1, 2) if torch.equal(encoder[f"encoder.{name}"], truth[seed][name])]
    assert len(others) == 1
    for key, value in encoder.items():
        assert torch.equal(value, truth[others[0]][key.removeprefix("encoder.")]), key
    assert generation == 1 or others == [2], "the weights are new and the encoder's file is not"
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith("#") and card.endswith("\n")


def _readable(load: Callable[[Path], Any], file: Path) -> Any:
    try:
        return load(file)
    except Exception as error:
        raise AssertionError(f"{file.name} is half written") from error


# ------------------------------------------------------------------------------------------------------ preprocessing


@dataclass(frozen=True)
class Preprocessing:
    """One case of a source that then changes, and one that is new."""

    root: Path

    def before(self) -> None:
        """The first case from its first source."""
        where = workspace_folders(self.root)
        make_raw_dataset(where.raw, 745, 1, shape=(14, 15, 16))
        go(where, NEEDED, workers=1)

    def scene(self, folder: Path) -> Scene:
        """A copy of the workspace in which the source has changed and a case has come."""
        shutil.copytree(self.root, folder)
        where = workspace_folders(folder)
        make_raw_dataset(where.raw, 745, 2, shape=(14, 15, 16), seed=7)
        return Scene(folder=store(where), task=preprocess, arguments=(where,), check=self.check)

    def check(self, folder: Path, ended: bool) -> None:
        """Every listed case has the voxels, raw voxels and body mask of one and the same source."""
        entries = _entries(folder)
        assert not ended or len(entries) == 2
        for case, found in entries.items():
            assert found in self.truth[case], f"{case} is half one scan and half another"
        if ended:
            assert entries == {case: versions[-1] for case, versions in self.truth.items()}

    @property
    def truth(self) -> dict[str, list[Entry]]:
        """{case: what it may hold}."""
        old, new = (_entries(store(workspace_folders(root))) for root in (self.root, self.root.parent / "truth"))
        return {case: [old[case], found] if case in old else [found] for case, found in new.items()}


def preprocess(where: Folders) -> None:
    """As the command does, one case after the other."""
    go(where, NEEDED, workers=1)


def store(where: Folders) -> Path:
    """The configuration's folder."""
    return where.preprocessed / "Dataset745_Tiny" / "nnsslPlans_3d_fullres"


def _entries(folder: Path) -> dict[str, Entry]:
    try:
        listed = read_index(folder).entries
    except Exception as error:
        assert "holds no preprocessed cases" in str(error), error
        return {}
    found = {}
    for case, entry in listed.items():
        raw = entry.raw_path
        assert raw is not None
        mask = read_sidecar(entry, BodyMask)["mask"]
        whole = partial(read_box, lower=(0, 0, 0), upper=entry.shape)
        arrays = {"voxels": _readable(whole, entry.path), "raw": _readable(whole, raw)}
        found[case] = {name: np.asarray(array).tobytes() for name, array in {**arrays, "mask": mask}.items()}
        found[case]["source"] = entry.source_hash.encode()
    return found
