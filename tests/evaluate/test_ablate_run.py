"""`nnssl_ablate`: the commands it prints, what it keeps, its one table, and the whole of it on tiny data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnssl.cli.ablate import main
from nnssl.engine.recipe import resolve
from nnssl.errors import NnsslError, StateError
from nnssl.evaluate.ablate.plan import Factor, plan_runs
from nnssl.evaluate.ablate.report import in_words, make_report
from nnssl.evaluate.ablate.run import Ablation, Request
from nnssl.evaluate.commands import Job, Runner
from nnssl.paths import folders
from nnssl.registry import find_trainer
from tests.engine.workspace import DATASET, make_workspace
from tests.evaluate.labelled import blocks, write_case
from tests.evaluate.test_commands import Recorder

SHORT = {"epochs": "1", "steps_per_epoch": "2", "batch_size": "2"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An unlabelled and a labelled data set of one plan."""
    make_workspace(tmp_path, cases=7)
    home = tmp_path / "nnUNet_preprocessed"
    target = home / "Dataset004_Tiny"
    for index in range(4):
        write_case(target / "nnsslPlans_3d_fullres", f"c{index}", *blocks(index, (16, 18, 16)))
    (target / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "one": 1, "two": 2}}))
    (target / "nnsslPlans.json").write_text((home / DATASET / "nnsslPlans.json").read_text())
    return tmp_path


def ablation(root: Path, **changed: Any) -> Ablation:
    factors = [Factor("optimizer.lr", ("1e-3", "1e-2")), Factor("method.ratio", ("(0.4,0.5)",))]
    runs = plan_runs(find_trainer("MAETrainer"), factors, overrides=SHORT, seeds=changed.pop("seeds", 1))
    request = Request(
        datasets=[DATASET], configuration="3d_fullres", trainer="MAETrainer", plans_name="nnsslPlans", preset=None,
        runs=runs, out=root / "out", **changed,
    )  # fmt: skip
    return Ablation(request, folders(root), Recorder())


def finish(made: Ablation, *, gains: dict[str, float] | None = None) -> None:
    """What finished runs and probes leave, without running them."""
    rng = np.random.default_rng(0)
    for index, run in enumerate(made.request.runs):
        folder = made.folder(run)
        folder.mkdir(parents=True)
        (folder / "checkpoint_final.pth").touch()
        recipe = {"recipe": run.recipe.to_json()}
        (folder / "recipe.json").write_text(json.dumps(recipe))
        values = {"dense_mm": 5.0 + index, "retrieval_recall": 0.25, "rankme": 4.0, "feature_std": 0.05}
        light, said = ("yellow", ["It decays."]) if index == 1 else ("green", [])
        history = [{"step": 2, "light": light, "sentences": ["Health.", *said], "values": values}]
        (folder / "health.json").write_text(json.dumps({"start": {"dense_mm": 9.0}, "history": history}))
        made.judged(run).mkdir(parents=True)
        gain = (gains or {}).get(run.factor, 0.0)
        means = {f"s{subject}": 0.5 + gain + 0.02 * float(rng.standard_normal()) for subject in range(12)}
        report = {"subjects": {"pretrained": {"linear": means, "non_linear": means}}}
        (made.judged(run) / "report.json").write_text(json.dumps(report))


def test_the_commands_are_those_of_single_runs_and_their_judges(workspace: Path) -> None:
    made = ablation(workspace, target="Dataset004_Tiny", judge_options=["--folds", "0"], device="cpu")
    lines = made.commands()
    assert len(lines) == 6
    assert lines[1] == (
        "nnssl_pretrain 701 3d_fullres -tr MAETrainer -p nnsslPlans --name ablate-optimizer.lr-1e-2 -device cpu "
        "--set epochs=1 steps_per_epoch=2 batch_size=2 optimizer.lr=1e-2"
    )
    assert "'method.ratio=(0.4,0.5)'" in lines[2]
    probes = [shlex.split(line) for line in lines[3:]]
    assert [words[0] for words in probes] == ["nnssl_probe"] * 3
    assert ["--no_untrained" in words for words in probes] == [False, True, True]
    assert all(words[1].endswith(f"fold_all--{run.name}/checkpoint_final.pth")
               for words, run in zip(probes, made.request.runs, strict=True))  # fmt: skip
    (compare,) = ablation(workspace, target="4", judge="compare").commands()[3:]
    assert compare.startswith("nnssl_compare 4 3d_fullres -w ")
    assert compare.count("checkpoint_final.pth") == 3


def test_a_judges_progress_is_its_own_last_line(workspace: Path) -> None:
    made = ablation(workspace, target="Dataset004_Tiny")
    (job, *_) = made._judges()
    assert job.progress() == "starting"
    (workspace / "out" / "logs").mkdir(parents=True)
    (workspace / "out" / "logs" / f"{job.name}.log").write_text("first\n   pretrained, fold 0: step 3/9\n")
    assert job.progress() == "pretrained, fold 0: step 3/9"


def test_finished_runs_are_kept_and_begun_ones_go_on(workspace: Path) -> None:
    made = ablation(workspace)
    finish(made)
    (made.folder(made.request.runs[1]) / "checkpoint_final.pth").rename(
        made.folder(made.request.runs[1]) / "state_latest.pth"
    )
    (line,) = ablation(workspace).commands()
    assert "--name ablate-optimizer.lr-1e-2" in line
    assert line.endswith(" --c")
    assert "2 of them are finished" in made.describe()


def test_a_run_of_another_recipe_is_not_taken_for_ours(workspace: Path) -> None:
    made = ablation(workspace)
    finish(made)
    file = made.folder(made.request.runs[0]) / "recipe.json"
    other = resolve(find_trainer("MAETrainer"), "default", {**SHORT, "epochs": "9"})
    file.write_text(json.dumps({"recipe": other.to_json()}))
    with pytest.raises(StateError, match=r"holds a run of another recipe \(epochs: 9 -> 1\)\. Give .* a --prefix"):
        ablation(workspace)


def test_one_table_has_signals_and_what_the_labelled_cases_say(workspace: Path) -> None:
    made = ablation(workspace, target="Dataset004_Tiny")
    finish(made, gains={"optimizer.lr": 0.1})
    report = make_report(made)
    json.dumps(report, allow_nan=False)
    text = in_words(report)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| setting", "| base", "| optimizer.lr=1e-2", "| method.ratio=(0.4,0.5)"]
    assert [row[1] for row in rows] == ["health", "green", "yellow", "green"]
    assert rows[2][2] == "6.00 (9.00)"
    assert rows[2][4] == "-", "position was not measured"
    assert "- optimizer.lr=1e-2, linear probe, against the base: gain" in text
    assert text.count(": a gain.") == 2
    assert text.count("no difference can be claimed") == 2
    assert "- optimizer.lr=1e-2: It decays." in text
    assert "one run with one seed" in text


def test_several_seeds_show_their_range(workspace: Path) -> None:
    made = ablation(workspace, seeds=2)
    finish(made)
    text = in_words(make_report(made))
    assert "| base | green | 6.50 (5.00 to 8.00) |" in text
    assert "2 seed(s) a setting" in text
    assert "one run with one seed" not in text


def test_a_comparison_is_read_by_the_checkpoints_of_its_arms(workspace: Path) -> None:
    made = ablation(workspace, target="Dataset004_Tiny", judge="compare")
    finish(made)
    made.comparison.mkdir()
    names = ["MAETrainer", "MAETrainer_2", "MAETrainer_3"]
    counted = {
        "arms": {name: {"dice": {"mean": 0.5 + index / 10}} for index, name in enumerate(names)},
        "differences": {
            name: {"against": "scratch", "dice": {"gain": 0.1, "low": 0, "high": 0.2, "sentence": "S"}}
            for name in names
        },
    }
    arms = {
        "scratch": {"weights": None},
        **{name: {"weights": str(made.folder(run) / "checkpoint_final.pth")}
           for name, run in zip(names, made.request.runs, strict=True)},
    }  # fmt: skip
    content = {"arms": arms, "targets": {"Dataset004_Tiny": {"labels": {"5": counted}}}}
    (made.comparison / "report.json").write_text(json.dumps(content))
    text = in_words(make_report(made))
    assert "Dataset004_Tiny, 5 label(s) |" in text
    assert "0.600; +0.100 (+0.000 to +0.200) |" in text
    assert "- base, Dataset004_Tiny, 5 label(s), against scratch: S." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "method.ratoi=1"], "Did you mean ratio"),
        (["--over", "epochs=1,2"], "would change how much a run sees"),
        (["--over", "optimizer.lr=1e-2", "--compare"], "need --target"),
        (["--over", "optimizer.lr=1e-2", "--target", "4", "--judge_options=-o x"], "-o is set by nnssl_ablate itself"),
        (["--over", "optimizer.lr=1e-2", "--target", "99"], "no data set with id 99"),
        (["--over", "optimizer.lr=1e-2", "-p", "other"], "other.json is needed"),
        (["--over", "optimizer.lr=1e-2", "--prefix", "a/b"], "becomes part of a folder's name"),
        (["--over", "optimizer.lr=1e-2", "--seeds", "0"], "must be at least 1"),
        (["--over", "optimizer.lr=1e-2", "-j", "0"], "must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_runs(
    workspace: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    out = workspace / "out"
    given = ["701", "3d_fullres", "-tr", "MAETrainer", "--workspace", str(workspace), "-o", str(out), *words]
    assert main(given) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    assert not out.exists()


def test_a_slip_in_the_judges_options_shows_at_once(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["701", "3d_fullres", "-tr", "MAETrainer", "--over", "optimizer.lr=1e-2", "--target", "4"]
    for judge, slip in (([], "--fold 0"), (["--compare"], "--label 1")):
        with pytest.raises(SystemExit) as stopped:
            main([*given, *judge, f"--judge_options={slip}", "--workspace", str(workspace)])
        assert stopped.value.code == 2
        assert slip.split()[0] in capsys.readouterr().err


def test_a_dry_run_prints_the_commands_and_writes_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["701", "3d_fullres", "-tr", "MAETrainer", "--over", "optimizer.lr=1e-2", "--dry_run"]
    assert main([*given, "--workspace", str(workspace), "-o", str(workspace / "out")]) == 0
    said = capsys.readouterr().out
    assert "2 settings (the base among them), 2 pretrainings" in said
    assert said.count("nnssl_pretrain 701 3d_fullres") == 2
    assert not (workspace / "out").exists()


@pytest.mark.parametrize(("words", "at_once"), [((), 1), (("-j", "3"), 3)])
def test_so_many_pretrainings_run_at_a_time(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], at_once: int
) -> None:
    asked: list[tuple[int, int]] = []

    def stop(self: Runner, *jobs: Job, at_once: int = 1) -> None:
        asked.append((len(jobs), at_once))
        raise NnsslError("Far enough.")

    monkeypatch.setattr(Runner, "run", stop)
    given = ["701", "3d_fullres", "-tr", "MAETrainer", "--over", "optimizer.lr=1e-2", "--workspace", str(workspace)]
    assert main([*given, "-o", str(workspace / "out"), *words]) == 1
    assert asked == [(2, at_once)]


@pytest.mark.pipeline
def test_the_command_pretrains_probes_and_goes_on(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = workspace / "out"
    options = "-p nnsslPlans --folds 0 --set steps=1 patches=1"
    given = ["701", "3d_fullres", "-tr", "MAETrainer", "--over", "optimizer.lr=1e-2", "--workspace", str(workspace)]
    given += ["--set", *(f"{key}={value}" for key, value in SHORT.items()), "-device", "cpu", "-o", str(out)]
    assert main(given) == 0
    assert json.loads((out / "ablation.json").read_text())["judge"] is None
    assert main([*given, "--target", "4", f"--judge_options={options}"]) == 0
    said = capsys.readouterr().out
    assert "2 of them are finished" in said, "labelled cases were added later; nothing was pretrained again"
    report = json.loads((out / "ablation.json").read_text())
    assert [row["setting"] for row in report["rows"]] == ["base", "optimizer.lr=1e-2"]
    assert set(report["rows"][1]["judged"]) == {"linear probe", "non-linear probe"}
    assert all(row["runs"][0]["light"] in ("green", "yellow", "red") for row in report["rows"])
