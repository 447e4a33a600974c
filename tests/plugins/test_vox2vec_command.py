"""vox2vec through the commands: two ranks equal one, the decoder is published, an FPN3d gets a file of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import nnssl
from nnssl.cli import doctor, features
from nnssl.data.index import read_index, write_index
from nnssl.data.sidecar import write_sidecar
from nnssl.data.store import read_box, write_array
from nnssl.needs import BodyMask, RawCase
from tests.engine.workspace import DATASET, command, environment, losses, make_workspace
from tests.tiny import write_image

pytestmark = pytest.mark.pipeline
TRAINER = "Vox2VecTrainer"
SMALL = ("--set", "precision=fp64", "batch_size=4", "epochs=1", "steps_per_epoch=3", "method.voxels=40", "threads=1")
FPN = ("method.network=fpn3d", "method.fpn_width=4", "method.fpn_levels=3")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's small workspace with raw values in HU and body masks, as `--for Vox2VecTrainer` makes them."""
    root = make_workspace(tmp_path_factory.mktemp("vox2vec"))
    folder = root / "nnUNet_preprocessed" / DATASET / "nnsslPlans_3d_fullres"
    index = read_index(folder)
    entries = {}
    for name, entry in index.entries.items():
        raw = np.round(read_box(entry.path, (0, 0, 0), entry.shape) * 300).astype(np.int16)
        raw[:, :6] = -1000
        write_array(folder / f"{name}_raw.b2nd", raw, (16, 16, 16))
        values = raw.astype(np.float32)
        world = np.array(entry.to_world)
        case = RawCase(
            case_id=name, modality=("ct",), image=values, to_world=world, original=values, original_to_world=world
        )
        write_sidecar(folder / f"{name}.body.npz", BodyMask, BodyMask.compute(case))
        entries[name] = replace(entry, raw_file=f"{name}_raw.b2nd", sidecars={"body": f"{name}.body.npz"})
    write_index(folder, replace(index, entries=entries))
    return root


def run(workspace: Path, name: str, *more: str, ranks: int = 1) -> str:
    arguments = command("-tr", TRAINER, "--name", name, *SMALL, *more)
    if ranks > 1:
        beside = Path(sys.executable).parent
        arguments = [
            str(beside / "torchrun"), "--standalone", "--nproc_per_node", str(ranks), str(beside / "nnssl_pretrain"),
            *arguments[3:],
        ]  # fmt: skip
    done = subprocess.run(
        arguments, env=environment(workspace), capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def folder_of(workspace: Path, name: str) -> Path:
    return workspace / "nnUNet_results" / DATASET / f"{TRAINER}__nnsslPlans__3d_fullres" / f"fold_all--{name}"


def test_two_ranks_give_the_losses_of_one_and_the_decoder_is_published(workspace: Path) -> None:
    said = run(workspace, "one")
    assert "encoder tensors and" in said and "decoder tensors; nnU-Net's own loader brought" in said
    run(workspace, "two", ranks=2)
    one, two = (losses(workspace, name, trainer=TRAINER) for name in ("one", "two"))
    assert len(one) == 3 and len(set(one)) == 3
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)
    counts = [losses(workspace, name, trainer=TRAINER, key="loss/voxels") for name in ("one", "two")]
    assert counts[0] == pytest.approx(counts[1])
    about = torch.load(folder_of(workspace, "one") / "checkpoint_final.pth", weights_only=True)["provenance"]
    assert about["raw_window"] == [-1350.0, 1000.0]
    assert about["transferred"]["decoder"] > 0


def test_an_fpn3d_trains_on_two_ranks_as_on_one_and_leaves_for_features_only(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(workspace, "fpn", *FPN)
    assert "nnU-Net cannot build this network; nnssl.load_pyramid and nnssl_features --decoder read the file" in said
    run(workspace, "fpn2", *FPN, ranks=2)
    one, two = (losses(workspace, name, trainer=TRAINER) for name in ("fpn", "fpn2"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)
    weights = folder_of(workspace, "fpn") / "checkpoint_final.pth"
    pyramid = nnssl.load_pyramid(weights)
    assert pyramid.channels == (4, 8, 16)
    norms = [module.running for module in pyramid.modules() if hasattr(module, "running")]
    assert norms and all(norm.mean.any() for norm in norms)

    scan = tmp_path / "scan.nii.gz"
    write_image(scan, np.random.default_rng(0).integers(-900, 900, (24, 26, 28)).astype(np.int16), (1.5, 1.25, 1.0))
    assert features.main([str(weights), str(scan), "-o", str(tmp_path / "out"), "--decoder"]) == 0
    with np.load(tmp_path / "out" / "scan.npz") as file:
        assert file["vector"].shape == (28,) and np.isfinite(file["vector"]).all()
    assert features.main([str(weights), str(scan), "-o", str(tmp_path / "out")]) == 1
    assert "nnssl_features --decoder" in " ".join(capsys.readouterr().err.split())
    said = run(workspace, "again", *FPN, "-pretrained_weights", str(weights))
    assert "every one that the method exports" in said
    assert doctor.main([str(weights), "-d", "701", "-p", "nnsslPlans", "--workspace", str(workspace)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "holds the network fpn3d. nnU-Net cannot build this network" in told and "--preset default" in told
