"""What is said about a probe: subjects are the units, a lack of evidence is called one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nnssl.evaluate.probe.report import ALL_CLASSES, in_words, table
from nnssl.evaluate.probe.train import HEADS


def scores(gain: float, *, seed: int, cases: int = 12, absent: str | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        f"case_{index}": {
            head: {name: None if name == absent else 0.5 + gain + 0.02 * rng.standard_normal() for name in ("a", "b")}
            for head in HEADS
        }
        for index in range(cases)
    }


def own_subject(cases: int = 12) -> dict[str, str]:
    return {f"case_{index}": f"s{index}" for index in range(cases)}


def report(networks: dict[str, Any], subject_of: dict[str, str]) -> dict[str, Any]:
    return {
        "question": {
            "weights": "x/checkpoint.pth", "dataset": "Dataset004_X", "maps": "the encoder",
            "folds": {"0": {}, "1": {}}, "settings": {"steps": 5},
        },
        "parameters": {"linear": 3, "non_linear": 4},
        "table": table(networks, ["a", "b"], subject_of),
        "warnings": ["Test case case_0 was pretrained on."],
        "notes": ["A note."],
        "networks": {name: {"folds": {"0": {}}, "cases": cases} for name, cases in networks.items()},
    }  # fmt: skip


def test_a_clear_gain_a_loss_and_no_evidence_are_called_what_they_are() -> None:
    low, high = scores(0.0, seed=0), scores(0.1, seed=1)
    for pair, words in (((low, high), ": a gain"), ((high, low), ": a loss"), ((low, scores(0, seed=2)), "no differ")):
        text = in_words(report({"untrained": pair[0], "pretrained": pair[1]}, own_subject()))
        assert text.count(words) == 2, text
        assert "Warning: Test case case_0 was pretrained on." in text
        assert "over 12 subjects" in text
        assert "Maps of the encoder, frozen; folds 0; 5 steps" in text, (
            "the folds of the report, not all of the folder's"
        )


def test_the_table_has_every_head_and_class_with_paired_differences() -> None:
    rows = table({"untrained": scores(0, seed=0), "pretrained": scores(0.1, seed=1)}, ["a", "b"], own_subject())
    assert [(row["head"], row["class"]) for row in rows] == [
        (head, name) for head in HEADS for name in (ALL_CLASSES, "a", "b")
    ]
    for row in rows:
        assert row["difference"]["gain"] == pytest.approx(row["pretrained"]["mean"] - row["untrained"]["mean"])
        assert row["difference"]["low"] < row["difference"]["gain"] < row["difference"]["high"]


def test_cases_of_one_subject_are_one_unit() -> None:
    found = scores(0, seed=0, cases=4)
    (row, *_) = table({"pretrained": found}, ["a", "b"], {case: "twin" if case < "case_2" else case for case in found})
    assert row["pretrained"]["subjects"] == 3
    mean = {case: np.mean(list(heads["linear"].values())) for case, heads in found.items()}
    expected = np.mean([np.mean([mean["case_0"], mean["case_1"]]), mean["case_2"], mean["case_3"]])
    assert row["pretrained"]["mean"] == pytest.approx(float(expected))


def test_a_class_that_is_nowhere_has_no_figure() -> None:
    networks = {"untrained": scores(0, seed=0, absent="b"), "pretrained": scores(0, seed=1, absent="b")}
    row = next(row for row in table(networks, ["a", "b"], own_subject()) if row["class"] == "b")
    assert row["pretrained"] is None and row["difference"] is None
    assert "| b | - | - | - |" in in_words(report(networks, own_subject()))


def test_without_a_baseline_nothing_is_compared() -> None:
    text = in_words(report({"pretrained": scores(0, seed=0)}, own_subject()))
    assert "gain" not in text
    assert not math.isnan(table({"pretrained": scores(0, seed=0)}, ["a"], own_subject())[0]["pretrained"]["mean"])
