"""Runs and their folders: what is written, what is refused, how a run is extended, started from weights, or fails."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from nnssl.engine.checkpoint import LATEST
from tests.engine.processes import lines_written, run, start, wait_for
from tests.engine.workspace import FOLDER, losses, make_workspace

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("trainer"))


@pytest.fixture(scope="module")
def finished(workspace: Path) -> Path:
    code, words = run(workspace, "--name", "done")
    assert code == 0, words
    (workspace / "done.txt").write_text(words)
    return workspace / FOLDER / "fold_all--done"


def words_of(root: Path, *arguments: str, code: int, **variables: str) -> str:
    """What a command said, on one line; it must end with `code`."""
    found, words = run(root, *arguments, **variables)
    assert found == code, words
    return " ".join(words.split())


def test_folder_holds_recipe_plans_state_weights_and_curves(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "recipe.json", "plans.json", "dataset.json", "metrics.jsonl", "health.json", "state_latest.pth",
        "state_previous.pth", "pretrained_latest.pth", "checkpoint_final.pth", "encoder.safetensors", "MODEL_CARD.md",
    }  # fmt: skip
    stored = json.loads((finished / "recipe.json").read_text())
    assert (stored["trainer"], stored["preset"], stored["recipe"]["epochs"]) == ("TinyTrainer", "default", 2)
    assert stored["data"]["cases"] == 7


def test_end_prints_the_commands_for_stock_nnunet(workspace: Path, finished: Path) -> None:
    words = (workspace / "done.txt").read_text()
    weights = finished / "checkpoint_final.pth"
    assert f"nnssl_plan_like {weights} -d 4" in words
    assert f"nnUNetv2_train 4 3d_fullres 0 -p nnsslPlansLike701 -pretrained_weights {weights}" in words


def test_final_weights_are_the_trained_encoder(finished: Path) -> None:
    state = torch.load(finished / LATEST, weights_only=True)["method"]
    weights = torch.load(finished / "checkpoint_final.pth", weights_only=True)["network_weights"]
    trained = {name: value for name, value in state.items() if name.startswith("encoder.")}
    assert trained and all(torch.equal(weights[name], value) for name, value in trained.items())


def test_second_start_in_a_used_folder_is_refused_and_changes_nothing(workspace: Path, finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    words = words_of(workspace, "--name", "done", code=2)
    assert "holds a run already" in words and "--c" in words and "--name" in words
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_changed_recipe_is_refused_with_the_differing_keys(workspace: Path, finished: Path) -> None:
    words = words_of(workspace, "--name", "done", "--c", "--set", "batch_size=2", "method.dropout=0.3", code=1)
    assert "batch_size: 4 -> 2; method.dropout: 0.2 -> 0.3" in words
    words = words_of(workspace, "--name", "done", "--c", "--preset", "sgd", code=1)
    assert "optimizer.name: adamw -> sgd" in words


def test_finished_run_can_be_extended_and_says_its_steps(workspace: Path, finished: Path) -> None:
    assert run(workspace, "--name", "longer")[0] == 0
    first = losses(workspace, "longer")
    words = words_of(workspace, "--name", "longer", "--c", "--set", "epochs=4", code=0)
    assert "Continuing at step 6 of 12." in words
    assert losses(workspace, "longer")[:6] == first
    assert len(losses(workspace, "longer")) == 12
    rates = losses(workspace, "longer", key="lr")
    assert abs(rates[6] - rates[5]) < 0.5 * max(rates)  # bridged, not a jump back to the middle of the cosine
    words = words_of(workspace, "--name", "longer", "--c", "--set", "epochs=2", code=1)
    assert "12 steps are done" in words and "epochs=4 or more" in words


def test_continuing_a_finished_run_changes_nothing(workspace: Path, finished: Path) -> None:
    before = losses(workspace, "done")
    words = words_of(workspace, "--name", "done", "--c", code=0)
    assert "Pretraining is done" in words and losses(workspace, "done") == before


def test_two_processes_cannot_share_a_folder(workspace: Path) -> None:
    process = start(workspace, "--name", "held", "--set", "epochs=2000")
    wait_for(lambda: lines_written(workspace, "held") >= 2)
    words = words_of(workspace, "--name", "held", "--c", code=2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert "Another process (process" in words


def test_continue_without_a_state_starts_from_the_beginning_and_says_so(workspace: Path) -> None:
    assert "There is no saved state" in words_of(workspace, "--name", "new", "--c", code=0)


def test_run_starts_from_exported_weights(workspace: Path, finished: Path) -> None:
    weights = finished / "checkpoint_final.pth"
    words = words_of(workspace, "--name", "onward", "-pretrained_weights", str(weights), "--set", "epochs=1", code=0)
    assert "24 encoder tensors loaded" in words
    words = words_of(workspace, "--name", "wrong", "-pretrained_weights", str(finished / LATEST), code=1)
    assert "holds no `network_weights`" in words
    other = torch.load(weights, weights_only=True)
    other["network_weights"]["encoder.stages.0.0.convs.0.conv.weight"] = torch.zeros(5)
    torch.save(other, workspace / "misfit.pth")
    words = words_of(workspace, "--name", "wrong", "-pretrained_weights", str(workspace / "misfit.pth"), code=1)
    assert "does not fit this plan's network" in words and "(5,) -> (4, 1, 3, 3, 3)" in words


def test_divergence_stops_the_run_and_saves_nothing_bad(workspace: Path) -> None:
    words = words_of(workspace, "--name", "poison", "--set", "method.poison_step=4", code=1)
    assert "Training diverged at step 4" in words and "loss nan" in words and "case_0" in words
    state = torch.load(workspace / FOLDER / "fold_all--poison" / LATEST, weights_only=True)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["method"].values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(workspace: Path, precision: str) -> None:
    words_of(workspace, "--name", precision, "--set", f"precision={precision}", code=0)
    single = losses(workspace, precision)
    assert all(value == value for value in single)  # none is NaN


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--set", "epoch=3"), 1, "Unknown key epoch. Did you mean epochs"),
        (("--set", "batch_size=64"), 1, "64"),
        (("--set", "patch_size=18,16,16"), 1, "must be divisible by the network's total stride (4, 4, 4)"),
        (("--set", "accumulate=2"), 1, "accumulate must be 1"),
        (("--preset", "papr"), 1, "has no preset 'papr'"),
        (("-p", "otherPlans"), 1, "Plans of Dataset701_Tiny: nnsslPlans"),
        (("--name", "a/b"), 2, "becomes part of a folder's name"),
        (("--c", "-pretrained_weights", "x"), 2, "Give one of them"),
        (("-pretrained_weights", "absent.pth"), 1, "there is no such file"),
    ],
)
def test_bad_input_gets_one_sentence(workspace: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    if "--name" not in arguments:
        arguments = ("--name", "bad", *arguments)
    words = words_of(workspace, *arguments, code=code)
    assert message in words and "Traceback" not in words


def test_weights_tell_the_hash_of_every_scan_they_saw(finished: Path) -> None:
    told = torch.load(finished / "checkpoint_final.pth", weights_only=True)["provenance"]["data"]
    assert len(told["sources"]) >= told["cases"] > 0
    assert all(name.startswith("Dataset") and digest for name, digest in told["sources"].items())
