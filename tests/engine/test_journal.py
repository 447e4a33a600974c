"""The journal: same lines with and without an interruption, torn files, sentences, silence off rank 0."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from nnssl.engine import journal as journal_module
from nnssl.engine.journal import Journal
from nnssl.engine.metrics import TIMINGS, read_metrics
from nnssl.errors import StateError


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where pictures were drawn; a real one takes half a second."""
    drawn: list[Path] = []
    monkeypatch.setattr(journal_module, "draw_progress", lambda path, epochs, health: drawn.append(path))
    return drawn


def journal(folder: Path, *, start_step: int = 0, stream: io.StringIO | None = None, enabled: bool = True) -> Journal:
    return Journal(
        folder,
        total_steps=12,
        steps_per_epoch=4,
        start_step=start_step,
        stream=stream or io.StringIO(),
        enabled=enabled,
    )


def run(diary: Journal, first: int, last: int) -> None:
    """Steps `first` to `last` - 1 as a trainer logs them, health after every epoch and before the first step."""
    if first == 0:
        diary.health(0, {"dense_mm": 9.0})
    for index in range(first, last):
        values: dict[str, torch.Tensor | float] = {
            "loss": torch.tensor(5.0 - 0.1 * index),
            "loss/dense": torch.tensor(0.1),
            "lr": 1e-3,
        }
        diary.step(index, values, seconds=0.5, waited_seconds=0.1)
        if index % 4 == 3:
            diary.health(index + 1, {"dense_mm": 8.0 - index})
            diary.epoch_end(index // 4)


def untimed(folder: Path) -> list[dict[str, object]]:
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def test_a_slow_first_step_is_told_with_what_it_means(tmp_path: Path) -> None:
    for name, seconds in (("slow", 43.2), ("fast", 0.5)):
        stream = io.StringIO()
        diary = journal(tmp_path / name, start_step=2, stream=stream)
        for index in (2, 3):
            diary.step(index, {"loss": torch.tensor(1.0)}, seconds=seconds, waited_seconds=0.0)
        told = "The first step took 43 s; 9 more like it take 0:06:29." if name == "slow" else ""
        assert stream.getvalue().count("first step") == bool(told) and told in stream.getvalue(), stream.getvalue()


def test_a_step_becomes_one_line_of_plain_numbers(tmp_path: Path) -> None:
    run(journal(tmp_path), 0, 2)
    health, first, _second = (json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first == {
        "step": 0, "epoch": 0, "loss": 5.0, "loss/dense": pytest.approx(0.1), "lr": 1e-3, "seconds": 0.5,
        "wait_share": 0.2,
    }  # fmt: skip
    assert health == {"step": 0, "epoch": 0.0, "health": {"dense_mm": 9.0}, "light": "green"}


@pytest.mark.parametrize("saved", [0, 1, 4, 6, 8, 11])
@pytest.mark.parametrize("lost", [0, 1, 3])
def test_an_interrupted_run_leaves_the_same_lines(tmp_path: Path, saved: int, lost: int) -> None:
    """The state is saved at step `saved`; `lost` further steps are logged before the run is killed and continued."""
    run(journal(tmp_path / "straight"), 0, 12)
    broken = tmp_path / "broken"
    diary = journal(broken)
    run(diary, 0, saved)
    if saved == 0:
        diary.health(0, {"dense_mm": 9.0})
    position = diary.state_dict()
    run(diary, max(saved, 1), min(12, saved + lost))
    diary = journal(broken, start_step=saved)
    diary.load_state_dict(position)
    if saved:
        run(diary, saved, 12)
    else:
        run(diary, 0, 12)
    assert untimed(broken) == untimed(tmp_path / "straight")


def test_the_curves_go_on_after_an_interruption(tmp_path: Path) -> None:
    run(journal(tmp_path), 0, 6)
    diary = journal(tmp_path, start_step=6)
    run(diary, 6, 12)
    diary.close()
    assert [summary.epoch for summary in diary._epochs] == [0, 1, 2]
    assert diary._epochs[1].values["loss"] == pytest.approx(5 - 0.1 * 5.5)
    assert diary._epochs[1].wait_share == pytest.approx(0.2)
    assert diary._epochs[1].seconds == pytest.approx(2.0)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run(journal(tmp_path), 0, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    assert [line["step"] for line in read_metrics(path)] == [0, 0, 1]
    run(journal(tmp_path, start_step=2), 2, 4)
    assert [line["step"] for line in read_metrics(path)] == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["{]", "3", '{"loss": 1}'])
def test_another_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0}}\n{damage}\n{{"step": 1}}\n')
    with pytest.raises(StateError, match=r"Line 2 of .*metrics\.jsonl"):
        journal(tmp_path, start_step=2)


def test_lines_lost_since_the_state_was_saved_are_told(tmp_path: Path) -> None:
    diary = journal(tmp_path)
    run(diary, 0, 3)
    position = diary.state_dict()
    (tmp_path / "metrics.jsonl").unlink()
    stream = io.StringIO()
    journal(tmp_path, start_step=3, stream=stream).load_state_dict(position)
    assert "lacks 4 lines" in stream.getvalue()


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    diary = journal(tmp_path)
    diary.step(0, {"loss": float("nan"), "gradient_norm": torch.tensor(float("inf"))}, seconds=1.0, waited_seconds=0.0)
    diary.epoch_end(0)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert line["loss"] is None
    assert line["gradient_norm"] is None


def test_a_fresh_run_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    run(journal(tmp_path), 0, 12)
    run(journal(tmp_path), 0, 1)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 0]


def test_sentences_go_to_the_stream_and_with_the_time_to_the_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    diary = journal(tmp_path, stream=stream)
    diary.say("Pretraining starts.")
    diary.health(0, {}, sentences=("All is well.",))
    assert stream.getvalue() == "Pretraining starts.\nAll is well.\n"
    (log,) = tmp_path.glob("training_log_*.txt")
    row = log.read_text().splitlines()[0]
    assert row.endswith(": Pretraining starts.")
    assert row[:2] == "20"


def test_an_epoch_is_told_in_one_line_where_nobody_watches(tmp_path: Path) -> None:
    stream = io.StringIO()
    run(journal(tmp_path, stream=stream), 0, 12)
    first, *_rest = rows = stream.getvalue().splitlines()
    assert len(rows) == 3
    assert first == "Epoch 1 of 3: loss 4.85, lr 0.001, 2.0 s, 20% of it waiting for data; about 0:00:04 left."


def test_nnunets_own_log_file_is_used_where_one_is_given(tmp_path: Path) -> None:
    log = tmp_path / "training_log_of_nnunet.txt"
    diary = Journal(tmp_path, total_steps=1, steps_per_epoch=1, stream=io.StringIO(), log_file=log)
    diary.say("Here.")
    assert "Here." in log.read_text()
    assert list(tmp_path.glob("training_log_*.txt")) == [log]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    diary = journal(tmp_path / "rank1", stream=stream, enabled=False)
    run(diary, 0, 12)
    diary.say("Hello.")
    assert diary.state_dict() == {"lines": 0}
    diary.load_state_dict({"lines": 5})
    diary.close()
    assert not (tmp_path / "rank1").exists()
    assert stream.getvalue() == ""


def test_pictures_are_drawn_now_and_then_and_at_the_end(tmp_path: Path, pictures: list[Path]) -> None:
    diary = journal(tmp_path)
    run(diary, 0, 12)
    assert len(pictures) == 1  # three epochs within half a minute
    diary.close()
    assert pictures == [tmp_path / "progress.png"] * 2
    assert {path.name.split("_log_")[0] for path in tmp_path.iterdir()} == {"metrics.jsonl", "training"}
