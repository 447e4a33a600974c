"""One of two ranks is lost, hangs, computes rubbish or is asked to leave: all end, in bounded time, and say why."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nnssl.engine.distributed import patience
from nnssl.errors import UsageError
from tests.engine.processes import lines_written, wait_for
from tests.engine.workspace import command, environment
from tests.faults import checks_runs as checks

pytestmark = [pytest.mark.pipeline, pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")]


@pytest.mark.pipeline
@pytest.mark.parametrize("action", ["kill", "stop"])
def test_a_lost_or_hung_rank_takes_the_other_down_with_a_sentence(runs: Path, action: str) -> None:
    checks.check_rank(runs, action)


@pytest.mark.pipeline
def test_not_a_number_on_one_rank_stops_both(runs: Path) -> None:
    checks.check_nan_on_one_rank(runs)


@pytest.mark.pipeline
def test_a_signal_to_one_rank_makes_both_leave_after_the_same_step(runs: Path) -> None:
    checks.check_signal_on_one_rank(runs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_spawned_ranks_are_all_gone_when_one_is_lost(runs: Path, number: signal.Signals) -> None:
    name = checks.name_of("spawned", number.name)
    variables = environment(runs, NNSSL_RANK_TIMEOUT_MINUTES="0.1")
    words = command("--name", name, "-num_gpus", "2", "--set", "epochs=2000")
    with (runs / "spawned.txt").open("w") as log:
        process = subprocess.Popen(words, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: lines_written(runs, name) >= 3 or process.poll() is not None)
        os.kill(_members(process.pid)[-1], number)
        assert process.wait(90) != 0
        time.sleep(0.5)
        assert _members(process.pid) == []
    finally:
        for pid in [*_members(process.pid), process.pid]:
            if process.poll() is None or pid != process.pid:
                os.kill(pid, signal.SIGKILL)
    said = " ".join((runs / "spawned.txt").read_text().split())
    assert "start all ranks again with --c" in said, said


def _members(session: int) -> list[int]:
    """Processes of a session but its leader, the newest last; helpers of multiprocessing are none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            helper = "resource_tracker" in (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        pid = int(stat.parent.name)
        if int(fields[3]) == session and pid != session and fields[0] != "Z" and not helper:
            found.append(pid)
    return sorted(found)


@pytest.mark.parametrize("given", ["soon", "0", "-3", "inf", "nan"])
def test_a_waiting_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("NNSSL_RANK_TIMEOUT_MINUTES", given)
    with pytest.raises(UsageError, match="number of minutes over 0"):
        patience()
