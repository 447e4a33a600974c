"""The bar and the picture."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from nnssl.engine.progress import HEALTH_PANELS, EpochSummary, ProgressBar, draw_progress


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


def summaries(n: int) -> list[EpochSummary]:
    values = {"loss": 5.0, "loss/dense": 1.0, "lr": 1e-3, "weight_decay": 0.04}
    return [EpochSummary(epoch=epoch, values=values, seconds=3.0, wait_share=0.1) for epoch in range(n)]


def test_the_picture_grows_by_the_health_that_was_measured(tmp_path: Path) -> None:
    draw_progress(tmp_path / "plain.png", summaries(3), [])
    health = [{"epoch": 0.0, "health": {"dense_mm": 9.0, "rankme": None, "teacher_kl": 1.0}}]
    draw_progress(tmp_path / "more.png", summaries(3), health)
    assert size_of(tmp_path / "plain.png")[1] == 2 * 320
    assert size_of(tmp_path / "more.png")[1] == 4 * 320  # three panels, the rank's is empty, make two more rows


def test_a_picture_of_nothing_and_of_one_epoch_can_be_drawn(tmp_path: Path) -> None:
    draw_progress(tmp_path / "progress.png", [], [])
    draw_progress(tmp_path / "progress.png", summaries(1), [])
    assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]


def test_values_that_were_not_finite_leave_a_gap(tmp_path: Path) -> None:
    broken = EpochSummary(epoch=1, values={"loss": float("nan")}, seconds=1.0, wait_share=0.0)
    draw_progress(tmp_path / "progress.png", [*summaries(1), broken], [])
    assert (tmp_path / "progress.png").stat().st_size > 10_000


def test_every_health_value_has_one_panel() -> None:
    names = [name for _, panel in HEALTH_PANELS for name in panel]
    assert len(names) == len(set(names))


def test_the_bar_shows_loss_waiting_and_time_left_to_who_watches() -> None:
    stream = Terminal()
    bar = ProgressBar(total=10, done=4, stream=stream)
    bar._bar.mininterval = 0
    bar.advance(loss=1.2345, wait_share=0.25)
    bar.write("A sentence.")
    bar.close()
    shown = stream.getvalue()
    assert "5/10" in shown
    assert "waiting for data=25%" in shown
    assert "loss=1.23" in shown
    assert "A sentence.\n" in shown


def test_the_bar_is_silent_where_nobody_watches() -> None:
    stream = io.StringIO()
    bar = ProgressBar(total=10, done=0, stream=stream)
    bar.advance(loss=None, wait_share=0.0)
    bar.close()
    assert stream.getvalue() == ""
