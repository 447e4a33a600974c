"""A whole report from saved predictions: figures that these confirm, a page that needs nothing else."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnssl.cli.compare import main
from nnssl.evaluate.compare.run import Comparison
from nnssl.evaluate.statistics import dice_per_class, mean_dice
from nnssl.paths import VARIABLES
from tests.evaluate.comparisons import CONFIGURATION, Silent, finish, labels_of, make_workspace, request

LABELS = ["1", "all"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_workspace: Path) -> Path:
    """Two targets, two folds, two checkpoints, two label draws; all trainings are done."""
    folder = tmp_path_factory.mktemp("compared")
    where = make_workspace(folder, tiny_workspace, numbers=(4, 5))
    asked = request(
        folder, targets=["4", "5"], weights=[folder / "a" / "w.pth", folder / "b" / "w.pth"], labels=LABELS,
        folds=(0, 1), replicates=2, settings={"epochs": "2", "threads": "1"},
    )  # fmt: skip
    comparison = Comparison(asked, where, Silent())
    comparison.notes.say(["planned"])
    finish(comparison)
    return folder


@pytest.fixture(scope="module")
def compare(root: Path) -> Iterator[Callable[..., int]]:
    """Run the command on it; pictures are small."""

    def run(*more: str) -> int:
        words = ["4", "5", CONFIGURATION, "-w", str(root / "a" / "w.pth"), str(root / "b" / "w.pth"), "--labels"]
        words += [*LABELS, "--folds", "0", "1", "--replicates", "2", "--set", "epochs=2", "threads=1", "-device", "cpu"]
        return main([*words, "-o", str(root / "out"), *more])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnssl.report.canvas._DPI", 30)
        for variable in VARIABLES:
            patch.setenv(variable, str(root / variable))
        yield run


@pytest.fixture(scope="module")
def report(root: Path, compare: Callable[..., int]) -> dict[str, Any]:
    """What the command writes; the page is kept as page.html."""
    assert compare() == 0
    shutil.copy(root / "out" / "report.html", root / "page.html")
    content: dict[str, Any] = json.loads((root / "out" / "report.json").read_text())
    return content


def recomputed(root: Path, dataset: str, arm: str, labels: str, draw: int) -> dict[str, dict[int, float]]:
    """Dice of each saved prediction of a draw, both folds."""
    truth = root / "nnUNet_preprocessed" / dataset / "gt_segmentations"
    found = {}
    for fold in (0, 1):
        results = root / "out" / arm / f"{dataset}_{arm}_labels{labels}_fold{fold}_draw{draw}"
        for file in results.glob("*/*/fold_0/validation/*.nii.gz"):
            case, there = file.name.removesuffix(".nii.gz"), labels_of(truth / file.name)
            found[case] = dice_per_class(labels_of(file), there, [1, 2])
    return found


def test_the_figures_are_those_of_the_saved_predictions(root: Path, report: dict[str, Any]) -> None:
    for dataset in ("Dataset004_Tiny", "Dataset005_Tiny"):
        for labels in LABELS:
            for arm, value in report["targets"][dataset]["labels"][labels]["arms"].items():
                draws = [recomputed(root, dataset, arm, labels, draw) for draw in (0, 1)]
                means = [np.mean([mean_dice(row) for row in draw.values()]) for draw in draws]
                assert value["dice"]["draws"] == pytest.approx(means, abs=1e-9)
                assert value["dice"]["mean"] == pytest.approx(np.mean(means), abs=1e-9)
                for case, scores in value["cases"].items():
                    of_case = np.mean([draw[case][1] for draw in draws])
                    assert scores["dice"]["organ"] == pytest.approx(of_case, abs=1e-9)
                assert 0 <= value["nsd"]["low"] <= value["nsd"]["mean"] <= value["nsd"]["high"] <= 1


def test_gains_are_paired_and_named_after_the_better_control(report: dict[str, Any]) -> None:
    found = report["targets"]["Dataset004_Tiny"]["labels"]["all"]
    arms = found["arms"]
    assert set(found["differences"]) == {"w", "w_2"}
    for arm, value in found["differences"].items():
        assert value["against"] == "scratch"
        assert value["dice"]["gain"] == pytest.approx(arms[arm]["dice"]["mean"] - arms["scratch"]["dice"]["mean"])
        assert value["dice"]["not_worse"] is False  # four subjects are too few for any claim
        assert "too few subjects" in value["dice"]["sentence"]
        assert value["reach"]["reached"] == 4
    assert report["mean_rank"]["scratch"] == 3.0


def test_every_score_is_in_the_table(root: Path, report: dict[str, Any]) -> None:
    with (root / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2 * 2 * 2 * 2 * 2  # targets, arms, labels, folds, draws, cases a fold, classes
    chosen = [float(row["dice"]) for row in rows if row["arm"] == "w" and row["labels"] == "1"]
    per_target = [report["targets"][name]["labels"]["1"]["arms"]["w"]["dice"]["mean"] for name in report["targets"]]
    assert np.mean(chosen) == pytest.approx(np.mean(per_target), abs=1e-5)


class Reader(HTMLParser):
    """Counts what a page is made of; complains about tags that do not match."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_other_file(root: Path, report: dict[str, Any]) -> None:
    text = (root / "page.html").read_text()
    page = Reader()
    page.feed(text)
    assert page.open == []
    assert len(page.sources) == 2 * (4 + len(LABELS))
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "<script" not in text and "url(" not in text
    for found in report["targets"].values():
        for counted in found["labels"].values():
            for arm in counted["arms"].values():
                assert f"{100 * arm['dice']['mean']:.1f} [" in text
                assert f"{100 * arm['nsd']['mean']:.1f} [" in text
    assert "saw all labelled cases of the target in every arm" in text
    assert "Of 8 comparisons in Dice, <b>0</b> show a gain, <b>0</b> a loss, and <b>8</b> allow no claim." in text
    pictures = sorted(path.name for path in (root / "out").glob("Dataset004_Tiny_*.png"))
    assert pictures == [
        f"Dataset004_Tiny_{name}.png"
        for name in ("classes", "epochs", "gains", "labels", "overlays_labels1", "overlays_labelsall")
    ]


def test_the_same_command_renders_again_and_trains_nothing(
    root: Path, report: dict[str, Any], compare: Callable[..., int], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("nnssl.evaluate.compare.pictures.draw_pictures", lambda *every: {})  # they take their time
    before = (root / "out" / "report.json").read_text()
    (root / "out" / "report.html").unlink()
    assert compare() == 0
    said = capsys.readouterr().out
    assert "All 48 trainings are done" in said
    assert "Dataset005_Tiny, 1 label, w_2 against scratch: gain" in said
    after = json.loads((root / "out" / "report.json").read_text())
    assert after["targets"] == json.loads(before)["targets"]
    assert after["said"][0]["sentences"] == ["planned"]


def test_a_missing_prediction_is_named(
    root: Path, report: dict[str, Any], compare: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    file = next((root / "out" / "w_2").glob("Dataset005*labelsall_fold1_draw0/*/*/fold_0/validation/case_01.nii.gz"))
    kept = file.read_bytes()
    file.unlink()
    assert compare() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search("The prediction of test case case_01 is missing in .*Remove Dataset005_Tiny_w_2_labelsall", said)
    file.write_bytes(kept)


def test_other_settings_are_refused_and_more_labels_are_not(
    root: Path, report: dict[str, Any], compare: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--set", "peak_lr=1", "--dry_run") == 2
    assert "settings differ in peak_lr" in " ".join(capsys.readouterr().err.split())
    assert compare("--labels", "1", "2", "--dry_run") == 0
    assert "24 of 48 trainings are done" in capsys.readouterr().out


def test_the_page_says_that_one_draw_is_one_draw(root: Path, report: dict[str, Any], tmp_path: Path) -> None:
    from nnssl.evaluate.compare.page import write_page

    found = report["targets"]["Dataset004_Tiny"]["labels"]["all"]["differences"]["w"]
    changed = {**found, "dice": {**found["dice"], "verdict": "none", "not_worse": True}}
    report = json.loads(json.dumps(report).replace(json.dumps(found), json.dumps(changed)))
    for draws, times in ((2, 0), (1, 8)):
        page = write_page(tmp_path, {**report, "replicates": draws}, {}).read_text()
        assert page.count("for this one draw") == times
        assert ("All are about one draw of labels and seed" in page) == (draws == 1)
        assert "no worse by 0.5 points: yes" in page


def test_text_is_escaped(root: Path, report: dict[str, Any], tmp_path: Path) -> None:
    from nnssl.evaluate.compare.page import write_page

    text = json.dumps(report).replace("case_00", "<script>case").replace("Dataset005_Tiny", "<i>&Tiny")
    page = write_page(tmp_path, json.loads(text), {}).read_text()
    assert "<script" not in page and "<i>" not in page
    assert "&lt;script&gt;case" in page and "&lt;i&gt;&amp;Tiny" in page


def test_the_page_opens_in_a_browser_without_an_error(root: Path, report: dict[str, Any], tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-quic", "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'user'}"]
    done = subprocess.run(
        [browser, *flags, "--enable-logging=stderr", "--dump-dom", (root / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<figure>") == 2 * (4 + len(LABELS))
