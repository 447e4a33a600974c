"""Numbers and sentences of a comparison's report, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnssl.data.index import read_index
from nnssl.evaluate.compare_page import write_page
from nnssl.evaluate.compare_plan import smallest_effects
from nnssl.evaluate.compare_report import difference, gap_closed, mean_ranks, table_of
from nnssl.evaluate.leakage import leaks, scan_hashes
from nnssl.evaluate.runs import Arm
from nnssl.evaluate.statistics import bootstrap_interval, two_way_interval
from nnssl.nnunet import build_network
from nnssl.paths import VARIABLES, Folders
from tests.tiny import tiny_architecture, tiny_plans


def counts(scratch: float, pretrained: float, full: float) -> dict[str, Any]:
    """Results with 1 and with all labels."""

    def arm(mean: float) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "curve": [[0, 0.0], [5, mean]]}

    return {
        "1": {"arms": {"scratch": arm(scratch), "M": arm(pretrained)}, "differences": {}},
        "all": {"arms": {"scratch": arm(full), "M": arm(full)}, "differences": {}},
    }


def test_the_share_of_the_gap_that_is_closed() -> None:
    assert gap_closed(counts(0.2, 0.5, 0.8)) == {"1": {"M": pytest.approx(0.5)}}
    assert gap_closed(counts(0.8, 0.5, 0.8)) == {"1": {"M": None}}


def test_ranks_are_averaged_over_targets() -> None:
    targets = {"A": {"labels": {"1": counts(0.2, 0.5, 0.8)["1"]}}, "B": {"labels": {"1": counts(0.6, 0.5, 0.8)["1"]}}}
    assert mean_ranks(targets) == {"scratch": 1.5, "M": 1.5}


def test_draws_are_rows_and_folds_share_them() -> None:
    arms = {
        (draw, fold): Arm(curve=(), final={f"case{fold}": draw + fold / 10}, organs=())
        for draw in (0, 1)
        for fold in (0, 1)
    }
    assert table_of(arms, ["case0", "case1"]).tolist() == [[0.0, 0.1], [1.0, 1.1]]


def test_one_run_has_the_interval_over_cases() -> None:
    values = np.random.default_rng(1).normal(0, 1, 30)
    assert two_way_interval(values[None]) == pytest.approx(bootstrap_interval(values), abs=0.06)


def test_runs_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    same = np.tile(rng.normal(0, 1, 30), (5, 1))
    shifted = same + rng.normal(0, 2, (5, 1))
    narrow, wide = two_way_interval(same, resamples=1000), two_way_interval(shifted, resamples=1000)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_a_gain_is_claimed_only_where_draws_agree() -> None:
    scratch = np.full((4, 20), 0.5) + np.linspace(0, 0.01, 20)
    steady = difference(scratch, scratch + 0.05, all_labels=False)
    torn = difference(scratch, scratch + np.array([[0.4], [-0.1], [-0.1], [0.0]]), all_labels=False)
    assert steady["verdict"] == "gain"
    assert torn["gain"] == pytest.approx(0.05)
    assert torn["verdict"] == "none"
    assert "no difference can be claimed" in torn["sentence"]


def test_not_worse_with_all_labels_needs_the_interval() -> None:
    scratch = np.full((2, 20), 0.8)
    assert difference(scratch, scratch - 0.002, all_labels=True)["not_worse"] is True
    assert difference(scratch, scratch - 0.02, all_labels=True)["not_worse"] is False
    assert "not_worse" not in difference(scratch, scratch, all_labels=False)


def test_what_the_cases_can_show_is_said_before() -> None:
    assert "cannot show any difference" in smallest_effects(5)[0]
    assert "vary by 10 points between cases, 25 test cases show a gain of 5.6 points" in smallest_effects(25)[2]


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    target = {"test_cases": 3, "warnings": ["<b>"], "labels": counts(0.2, 0.5, 0.8), "gap_closed": {"1": {"M": 0.5}}}
    report = {
        "arms": {"scratch": None, "M": "m.pth"},
        "targets": {"Dataset004_X": target},
        "mean_rank": {"scratch": 1.0, "M": 2.0},
        "caveats": ["careful"],
        "before_the_first_training": ["planned"],
    }
    text = write_page(tmp_path, report).read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "&lt;b&gt;" in text
    assert "50% of the gap" in text
    assert "http" not in text


def test_scans_are_hashed_as_preprocessing_hashes_them(tiny_workspace: Path) -> None:
    where = Folders(*(tiny_workspace / variable for variable in VARIABLES))
    index = read_index(where.preprocessed / "Dataset745_Tiny" / "nnsslPlans_3d_fullres")
    known = {case: entry.source_hash for case, entry in index.entries.items()}
    assert scan_hashes("Dataset745_Tiny", ["case_02"], "SimpleITKIO", where) == {"case_02": known["case_02"]}


def test_a_scan_that_was_pretrained_on_is_found(tiny_workspace: Path, tmp_path: Path) -> None:
    where = Folders(*(tiny_workspace / variable for variable in VARIABLES))
    hashes = scan_hashes("Dataset004_Tiny", ["case_00", "case_01"], "SimpleITKIO", where)
    weights = tmp_path / "w.pth"
    plans = tiny_plans("Dataset745_Tiny")
    adaptation = {
        "architecture_plans": {},
        "pretrain_plan": plans,
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [32, 32, 32],
    }
    network = build_network(tiny_architecture(), channels=1, classes=2)
    for sources, found in (({"D/x": hashes["case_01"]}, 1), ({"D/x": "another"}, 0)):
        content = {
            "network_weights": network.state_dict(),
            "nnssl_adaptation_plan": adaptation,
            "provenance": {"data": {"sources": sources}},
        }
        torch.save(content, weights)
        said = leaks(weights, hashes)
        assert len(said) == found
        assert all("Test case case_01 was pretrained on as D/x" in sentence for sentence in said)
