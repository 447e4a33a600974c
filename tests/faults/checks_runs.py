"""Whole runs under a fault. Each check ends well only if the promise held; its guard taken out, it must not.

A check takes a workspace in which the run `whole` (`LENGTH`, nothing happened to it) lies, and guards to be taken out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from nnssl.atomic import whole_file
from nnssl.engine.checkpoint import LATEST
from tests.engine.processes import lines_written, start, wait_for
from tests.engine.test_resume import LENGTH, assert_same, state_of
from tests.engine.workspace import FOLDER, losses
from tests.faults.blows import STORE, Blow
from tests.faults.boundaries import Fault
from tests.faults.world import (
    assert_goes_on,
    attempt,
    attempt_ranks,
    copy_run,
    count,
    prepared,
    run_folder,
)

WHOLE = "whole"
READS_ITSELF = ("-num_workers", "0")  # so that what a blow changes at a step is met at that step
Guards = Sequence[str]


def make_reference(root: Path) -> None:
    """The run that nothing happens to."""
    code, words = attempt(root, WHOLE)
    assert code == 0, words


def name_of(*parts: object) -> str:
    """A fresh name for a run."""
    return "-".join(str(part).replace(" ", "_") for part in (*parts, time.monotonic_ns()))


# ------------------------------------------------------------------------------------------- killed, or out of disk

WINDOWS = {
    "start": "nnssl.trainer:SSLTrainer.on_train_start:1",
    "save": "nnssl.trainer:SSLTrainer.save_checkpoint:6",
    "epoch": "nnssl.trainer:SSLTrainer.on_epoch_end:2",
    "end": "nnssl.trainer:SSLTrainer.on_train_end:1",
}


def window_size(root: Path, window: str) -> int:
    """How many file operations a part of a run has."""
    name = name_of("count", window)
    fault = Fault(kind="count", root=run_folder(root, name), window=WINDOWS[window])
    run_folder(root, name).parent.mkdir(parents=True, exist_ok=True)
    code, words = attempt(root, name, fault=fault)
    assert code == 0, words
    return count(fault)


def check_run_struck(
    root: Path, window: str, kind: Literal["kill", "full", "readonly", "foreign"], at: int, without: Guards = ()
) -> None:
    """A run is struck at one file operation; it goes on to the same end."""
    name = name_of(kind, window, at)
    fault = Fault(kind=kind, root=run_folder(root, name), at=at, window=WINDOWS[window])
    code, words = attempt(root, name, fault=fault, without=without)
    if kind == "kill":
        assert code == -signal.SIGKILL, words
    else:
        said = {"full": ("disk is full", "No space left"), "readonly": ("Read-only",), "foreign": ("denied",)}[kind]
        assert code == 1 and any(text in words for text in said), words
        assert "Traceback" not in words, words
    assert_goes_on(root, WHOLE, name)


def check_cut_state(root: Path, without: Guards = ()) -> None:
    """The latest state is cut off after a kill: the one before is used, and said."""
    name = name_of("cut")
    code, words = attempt(root, name, fault=Blow(action="kill", step=6), without=without)
    assert code == -signal.SIGKILL, words
    latest = run_folder(root, name) / LATEST
    latest.write_bytes(latest.read_bytes()[:-100])
    code, words = attempt(root, name, "--c", without=without)
    assert code == 0 and "Falling back to state_previous.pth" in words, words
    assert_same(root, WHOLE, name)


def check_lost_lines(root: Path, without: Guards = ()) -> None:
    """metrics.jsonl runs ahead of the state when a run is killed; the lines are not there twice afterwards."""
    name = name_of("ahead")
    code, words = attempt(root, name, "--set", "save_every_minutes=60", fault=Blow(action="kill"))
    assert code == -signal.SIGKILL and lines_written(root, name) >= 5, words
    code, words = attempt(root, name, "--c", without=without)
    assert code == 0, words
    assert_same(root, WHOLE, name)


# --------------------------------------------------------------------------------------------------- asked to leave


def check_signal(root: Path, action: str, without: Guards = ()) -> None:
    """SIGTERM and SIGUSR1 save the state of that very step and leave with 128 + their number."""
    number = {"term": signal.SIGTERM, "usr1": signal.SIGUSR1}[action]
    name = name_of(action)
    code, words = attempt(
        root, name, "--set", "save_every_minutes=60", fault=Blow(action=action, step=5), without=without
    )
    assert code == 128 + number, words
    assert state_of(root, name)["step"] == 7  # it came within the sixth step, and was told with the seventh
    assert "the state after step 7 is saved; go on with --c" in words
    assert_goes_on(root, WHOLE, name)


def check_time_limit(root: Path, without: Guards = (), *, grace: float = 60.0) -> None:
    """A batch system's way: a warning signal, some time, kill -9, and the job queued again until it ends with 0."""
    name, codes = name_of("limit"), []
    while len(codes) < 20 and 0 not in codes:
        more = ("--c",) if codes else (*LENGTH, "save_every_minutes=60")
        before = lines_written(root, name)
        process = start(root, "--name", name, *more, before=partial(prepared, None, tuple(without)))
        wait_for(
            lambda before=before, process=process: lines_written(root, name) >= before + 4 or not process.is_alive()
        )
        if process.is_alive():
            os.kill(process.pid, signal.SIGUSR1)
        process.join(grace)
        process.kill()
        process.join()
        codes.append(process.exitcode)
    assert codes[-1] == 0 and set(codes[:-1]) <= {128 + signal.SIGUSR1}, codes
    assert len(codes) > 1, "the job was done before its limit"
    assert_same(root, WHOLE, name)


# ------------------------------------------------------------------------------------------- what is read goes wrong


def check_case_lost(root: Path, action: str, without: Guards = ()) -> None:
    """Cases are truncated or deleted between two steps: the run names one and ends; put back, it goes on."""
    name, kept = name_of(action), root / "kept"
    shutil.copytree(root / STORE, kept, dirs_exist_ok=True)
    try:
        code, words = attempt(root, name, *READS_ITSELF, fault=Blow(action=action), without=without)
    finally:
        shutil.copytree(kept, root / STORE, dirs_exist_ok=True)
    assert code == 1, words
    assert "Case case_0" in words and ".b2nd" in words and "Traceback" not in words, words
    assert "preprocess" in words, words  # what to do
    assert state_of(root, name)["step"] == 5
    assert_goes_on(root, WHOLE, name)


def check_worker_fails(root: Path, without: Guards = ()) -> None:
    """A worker (a thread) fails: the run ends, and does not go on with what it has."""
    name = name_of("worker")
    code, words = attempt(root, name, "-num_workers", "2", fault=Blow(action="worker fails", step=3), without=without)
    assert code == 1 and "not enough memory" in words and "-num_workers" in words, words
    assert_goes_on(root, WHOLE, name)


def check_nan_batch(root: Path, without: Guards = ()) -> None:
    """One voxel is not a number: the run says step and cases, and has saved nothing of it."""
    name = name_of("nan")
    code, words = attempt(root, name, fault=Blow(action="nan"), without=without)
    assert code == 1 and "Training diverged at step 5" in words and "Cases in that step: case_0" in words, words
    state = state_of(root, name)
    assert state["step"] == 5 and all(value.isfinite().all() for value in state["method"].values())
    assert_goes_on(root, WHOLE, name)


# -------------------------------------------------------------------------------------------------------- two ranks


def check_rank(root: Path, action: str, without: Guards = (), *, seconds: float = 60.0) -> None:
    """The second of two ranks is killed, hangs or is stopped: the first says so in bounded time, and both are down."""
    name, began = name_of(action, "rank"), time.monotonic()
    codes, words = attempt_ranks(root, name, blow=Blow(action=action, rank=1), without=without, seconds=seconds)
    assert codes[0] == 1, (codes, words[0])
    assert time.monotonic() - began < seconds
    said = "lost another rank" if action == "kill" else "waited 0.1 minutes for another rank"
    assert said in words[0] and "start all ranks again with --c" in words[0] and "Traceback" not in words[0], words[0]
    assert_goes_on_alone(root, name)


def assert_goes_on_alone(root: Path, name: str) -> None:
    """One rank ends what two began, from step 5."""
    assert state_of(root, name)["step"] == 5
    code, words = attempt(root, name, "--c")
    assert code == 0 and "Continuing at step 5" in words, words
    assert len(losses(root, name)) == len(losses(root, WHOLE))


def check_nan_on_one_rank(root: Path, without: Guards = ()) -> None:
    """Not a number on the second of two ranks only: both stop after that step, for the same reason."""
    name = name_of("nan", "rank")
    alone = "method.coupled=false"  # a batch norm over all ranks would carry it to the first one
    codes, words = attempt_ranks(root, name, alone, blow=Blow(action="nan", rank=1), without=without)
    assert codes == [1, 1], (codes, words)
    assert all("Training diverged at step 5" in one and "Cases in that step" in one for one in words), words
    assert_goes_on_alone(root, name)


def check_signal_on_one_rank(root: Path, without: Guards = ()) -> None:
    """One of two ranks is asked to leave: both leave after the same step."""
    name = name_of("usr1", "rank")
    codes, words = attempt_ranks(root, name, blow=Blow(action="usr1", rank=1), without=without)
    assert codes == [128, 128 + signal.SIGUSR1], (codes, words)
    assert state_of(root, name)["step"] == 7
    code, words_alone = attempt(root, name, "--c")
    assert code == 0 and "Continuing at step 7" in words_alone, words_alone


# ---------------------------------------------------------------------------------------------- a folder, two runs


def check_two_runs(root: Path, without: Guards = ()) -> None:
    """A second process is refused while the first trains, and harms nothing."""
    name = name_of("held")
    process = start(root, "--name", name, "--set", "epochs=2000")
    try:
        wait_for(lambda: lines_written(root, name) >= 2)
        code, words = attempt(root, name, "--c", "--set", "epochs=5", without=without)
        assert code == 2 and "Another process (process" in words and "Traceback" not in words, words
        assert process.is_alive()
    finally:
        process.kill()
        process.join()


def check_taken_over(root: Path, without: Guards = ()) -> None:
    """On a disk that knows no locks a second run takes the folder: the first sees it at its next save, and stops."""
    name = name_of("taken")
    process = start(root, "--name", name, "--set", "epochs=2000", before=partial(prepared, None, tuple(without)))
    try:
        wait_for(lambda: lines_written(root, name) >= 2)
        with whole_file(run_folder(root, name) / ".lock") as theirs:
            theirs.write_text("process 1 on another machine, token 00")
        process.join(20)
        words = " ".join((root / "log.txt").read_text().split())
        assert process.exitcode == 1 and "was taken over by process 1 on another machine" in words, words
    finally:
        process.kill()
        process.join()


def check_started_twice(root: Path, without: Guards = ()) -> None:
    """A whole run passes between another one's look at the folder and its lock: the other does not start over."""
    name = name_of("twice")
    code, words = attempt(root, name, fault=Blow(action="another run"), without=without)
    assert code == 2 and "while this one was starting" in words, words
    assert state_of(root, name)["step"] == 77


# ------------------------------------------------------------------------------------------- going on with changes


def check_other_circumstances(root: Path, without: Guards = ()) -> None:
    """Other numbers of workers, and another number of threads in the environment, change nothing."""
    name = name_of("elsewhere")
    code, words = attempt(root, name, "-num_workers", "0", fault=Blow(action="usr1", step=2), without=without)
    assert code == 128 + signal.SIGUSR1, words
    code, words = attempt(
        root, name, "--c", "-num_workers", "3", fault=Blow(action="kill", step=7), without=without, OMP_NUM_THREADS="2"
    )
    assert code == -signal.SIGKILL, words
    code, words = attempt(root, name, "--c", "-num_workers", "1", without=without)
    assert code == 0, words
    assert_same(root, WHOLE, name)


def check_other_data(root: Path, without: Guards = ()) -> None:
    """A case of the data set is made from another scan now: the run is not continued."""
    index = root / STORE / "nnssl_index.json"
    content = index.read_text()
    try:
        index.write_text(content.replace('"source_hash": "3"', '"source_hash": "changed"'))
        _refused(root, "it cannot be continued on", without)
    finally:
        index.write_text(content)


def check_other_plans(root: Path, without: Guards = ()) -> None:
    """The plans file has another patch size now: the run is not continued."""
    file = root / "nnUNet_preprocessed" / FOLDER.parent.name / "nnsslPlans.json"
    content = file.read_text()
    try:
        plans = json.loads(content)
        plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 8]
        file.write_text(json.dumps(plans))
        words = _refused(root, "was trained with other plans", without)
        assert "configurations.3d_fullres.patch_size: [16, 16, 16] -> [16, 16, 8]" in words, words
    finally:
        file.write_text(content)


def check_other_recipe(root: Path, without: Guards = ()) -> None:
    """A key of the recipe is given another value: the run is not continued, and the key is named."""
    words = _refused(root, "has another recipe", without, "--set", "optimizer.lr=0.5", "threads=2")
    assert "optimizer.lr: 0.01 -> 0.5; threads: 1 -> 2" in words, words


def _refused(root: Path, sentence: str, without: Guards, *arguments: str) -> str:
    name = name_of("other")
    copy_run(root, WHOLE, name)
    before = (run_folder(root, name) / LATEST).read_bytes()
    code, words = attempt(root, name, "--c", *arguments, without=without)
    assert code == 1 and sentence in words and "--name" in words, words
    assert (run_folder(root, name) / LATEST).read_bytes() == before
    return words
