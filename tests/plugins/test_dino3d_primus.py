"""DINO3D on Primus: the contract, views of whole tokens, the learned token of the dense term, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.method import DINO3D
from nnssl_dino3d.trainer import DINO3DTrainer
from nnssl_dino3d.views import GLOBAL, LOCAL

import nnssl
from nnssl.cli import export, features, pretrain
from nnssl.engine.plan import check_views
from nnssl.engine.probe_set import probe_views
from nnssl.errors import PlanError, RecipeError
from nnssl.nnunet import primus_trainer
from nnssl.paths import VARIABLES
from nnssl.testing import check_method
from nnssl.testing_world import local_step, noise_batch, small_networks
from tests.engine.workspace import DATASET, make_workspace
from tests.primus import tiny_networks
from tests.tiny import tiny_plans, write_image

SMALL: dict[str, Any] = {
    "network": "primus_s", "pooling": "mean", "prototypes": 24, "hidden": 16, "bottleneck": 8, "local_views": 2,
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"dense": 1.0, "koleo": 0.1, "local_views": 0, "head_norm": "none"}])
def test_it_keeps_the_contract(more: dict[str, Any]) -> None:
    check_method(DINO3D, DINO3DConfig(**(SMALL | more)), networks=tiny_networks)


@pytest.mark.parametrize("stages", [4, 6])
def test_views_are_whole_tokens_whatever_the_plans_stride_is(stages: int) -> None:
    networks = small_networks(patch_size=(96, 96, 96), case_shape=(160, 128, 160), features=(4,) * stages)
    config = DINO3DConfig(**SMALL)
    spec = DINO3D.views(config, networks.plan, networks.data)
    sizes = {group.name: group.size for group in spec.groups}
    assert sizes == {GLOBAL: (96, 96, 96), LOCAL: (48, 48, 48)}
    assert spec.stride == (8, 8, 8)
    check_views(spec, networks.plan, DINO3D.needs(config))
    with pytest.raises(PlanError, match="total stride"):  # the U-Net's, which would have 64
        check_views(replace(spec, stride=(32, 32, 32)), networks.plan, DINO3D.needs(config))


def test_a_patch_that_has_no_whole_tokens_is_refused_before_anything_is_built() -> None:
    plan = replace(small_networks().plan, patch_size=(20, 32, 32))
    with pytest.raises(PlanError, match=r"tokens of \(8, 8, 8\).*Use \(16, 32, 32\)"):
        DINO3D.views(DINO3DConfig(**SMALL), plan, small_networks().data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mean_std"}, r"network=primus_s needs method\.pooling=mean \(it is mean_std\)"),
        ({"published_views": True}, "12 x 24 x 24 voxels, which Primus cannot"),
        ({"dense": 1.0, "dense_fill": "noise"}, "a learned token in hidden places"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        DINO3DConfig(**(SMALL | change))


def test_the_preset_is_this_network_at_nnunets_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = primus_trainer("s")
    monkeypatch.setattr(trainer.__mro__[2], "__init__", lambda *_: None)  # nnU-Net's folders and data are not there
    theirs = trainer({}, "3d_fullres", 0, {}, torch.device("cpu"))
    recipe = DINO3DTrainer.presets["primus"]
    assert (recipe.method.network, recipe.method.pooling) == ("primus_s", "mean")
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (theirs.initial_lr, theirs.weight_decay)


def test_the_dense_term_trains_the_hidden_token_and_the_student_does_not_see_what_is_hidden() -> None:
    networks = tiny_networks()
    config = DINO3DConfig(**(SMALL | {"dense": 1.0, "dense_views": 1.0, "local_views": 0, "head_norm": "none"}))
    spec = DINO3D.views(config, networks.plan, networks.data)
    batch = noise_batch(spec, networks)
    view = batch.views[GLOBAL]
    assert view.mask is not None
    method = DINO3D(config, networks)
    method(batch, local_step()).total.backward()
    token = method.student.hidden_token
    assert token is not None and token.grad is not None and float(token.grad.abs().max()) > 0

    changed = replace(view, image=torch.where(view.mask, view.image + 1, view.image))
    views = {**batch.views, GLOBAL: changed}
    hidden = method._hidden(batch, local_step())
    with torch.no_grad():
        one, two = (method._student(b, hidden, local_step())[2] for b in (batch, replace(batch, views=views)))
        seen, moved = (method._teacher(v)[1] for v in (view, changed))
    assert one is not None and two is not None and torch.equal(one, two)
    assert seen is not None and moved is not None and not torch.equal(seen, moved)


def test_features_are_the_teachers_tokens_and_their_mean() -> None:
    networks = tiny_networks()
    method = DINO3D(DINO3DConfig(**SMALL), networks).eval()
    image = torch.randn(2, 1, 16, 16, 32)
    with torch.no_grad():
        found = method.features(image)
        (wanted,) = method.teacher.network.encoder(image)
    assert len(found.pyramid) == 1 and torch.equal(found.pyramid[0], wanted)
    torch.testing.assert_close(found.vector, wanted.mean((2, 3, 4)))


@pytest.mark.pipeline
def test_a_run_from_the_command_to_a_file_that_nnunets_primus_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_workspace(tmp_path)
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(root / variable))
    small = ["batch_size=4", "epochs=1", "steps_per_epoch=2", "method.prototypes=16", "method.hidden=12", "threads=1"]
    run = ["701", "3d_fullres", "-tr", "DINO3DTrainer", "--preset", "primus", "-device", "cpu"]
    assert pretrain.main([*run, "--set", *small]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tensors of the network 'primus_s', read back equal; nnssl_export fits it" in said
    assert "-tr nnUNet_Primus_S_Trainer -pretrained_weights FILE" in said
    assert "Health after 0 steps" in said
    weights = (
        root / "nnUNet_results" / DATASET / "DINO3DTrainer__nnsslPlans__3d_fullres" / "fold_all/checkpoint_final.pth"
    )
    assert "nnssl_export checkpoint_final.pth -d 4" in weights.with_name("MODEL_CARD.md").read_text()
    encoder = nnssl.load_encoder(weights)
    assert encoder.channels == (396,) and encoder.patch_size == (16, 16, 16)

    target = root / "nnUNet_preprocessed" / "Dataset004_T"
    target.mkdir()
    (target / "nnUNetPlans.json").write_text(json.dumps(tiny_plans("Dataset004_T", patch_size=(16, 24, 16))))
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 1}
    (target / "dataset.json").write_text(json.dumps({**about, "file_ending": ".nii.gz"}))
    fitted = tmp_path / "fitted.pth"
    assert export.main([str(weights), "-d", "4", "-o", str(fitted)]) == 0
    assert "promised tensors back equal" in capsys.readouterr().out

    scan = tmp_path / "scan.nii.gz"
    rng = torch.Generator().manual_seed(0)
    write_image(scan, (torch.randn(24, 26, 28, generator=rng) * 300).short().numpy(), (1.5, 1.25, 1.0))
    assert features.main([str(weights), str(scan), "-o", str(tmp_path / "out")]) == 0
    assert "1 vectors of 396 features" in capsys.readouterr().out
    again = ["--name", "again", "-pretrained_weights", str(weights)]
    assert pretrain.main([*run, *again, "--set", *small]) == 0
    assert "every one that the method exports" in " ".join(capsys.readouterr().out.split())


def test_health_is_measured_on_whole_tokens() -> None:
    networks = small_networks(patch_size=(24, 24, 24), case_shape=(40, 40, 40), features=(4, 8))
    plan = replace(networks.plan, strides=((8, 8, 8),))
    (group,) = probe_views(plan, networks.data).groups
    assert all(side % 8 == 0 for side in group.size)
