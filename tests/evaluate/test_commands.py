"""Steps run once, fail with the end of their log, and stop their companions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnssl.errors import NnsslError, UsageError
from nnssl.evaluate.commands import Job, Runner, Slot, program

ROOT = Path(__file__).resolve().parents[2]


class Recorder:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, sentence: str) -> None:
        self.lines.append(sentence)

    def status(self, text: str) -> None:
        self.lines.append(text)


def python(name: str, code: str, **environment: str) -> Job:
    return Job(name=name, command=[sys.executable, "-c", code], environment=environment)


def test_a_finished_step_is_not_done_again_until_its_command_changes(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "logs", Recorder())
    append = f"open({str(tmp_path / 'out')!r}, 'a').write('x')"
    runner.run(python("one", append))
    runner.run(python("one", append))
    assert (tmp_path / "out").read_text() == "x"
    runner.run(python("one", append, VARIABLE="new"))
    assert (tmp_path / "out").read_text() == "xx"


def test_a_failure_names_the_step_and_shows_the_end_of_its_log(tmp_path: Path) -> None:
    runner = Runner(tmp_path, Recorder())
    with pytest.raises(NnsslError, match=r"(?s)code 3 in step broken.*the reason"):
        runner.run(python("broken", "print('the reason'); raise SystemExit(3)"))
    assert not runner.done("broken", python("broken", "").key)


def test_a_failure_stops_the_others(tmp_path: Path) -> None:
    runner = Runner(tmp_path, Recorder())
    wait = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    fail = (
        f"import os, time\nwhile not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.05)\nraise SystemExit(1)"
    )
    start = time.monotonic()
    with pytest.raises(NnsslError, match="step fail"):
        runner.run(python("wait", wait), python("fail", fail), at_once=2)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_progress_is_shown_while_a_step_runs(tmp_path: Path) -> None:
    screen = Recorder()
    job = Job(
        name="slow",
        command=[sys.executable, "-c", "import time; time.sleep(1.2)"],
        environment={},
        progress=lambda: "3/9",
    )
    Runner(tmp_path, screen).run(job)
    assert any("slow 3/9" in line for line in screen.lines)


def test_an_unknown_program_is_named() -> None:
    with pytest.raises(NnsslError, match="no_such_command"):
        program("no_such_command")


def test_words_that_resume_are_passed_and_do_not_make_another_job(tmp_path: Path) -> None:
    code = f"import sys; open({str(tmp_path / 'words')!r}, 'w').write(' '.join(sys.argv[1:]))"
    plain = Job(name="train", command=[sys.executable, "-c", code], environment={})
    going_on = Job(name="train", command=plain.command, resume=["--c"], environment={})
    runner = Runner(tmp_path / "logs", Recorder())
    runner.run(going_on)
    assert (tmp_path / "words").read_text() == "--c"
    assert runner.done("train", plain.key)


def test_a_stop_ends_what_was_started_with_its_own_children(tmp_path: Path) -> None:
    # the job starts a process of its own, which keeps writing while it lives
    noting = "import sys, time\nfor _ in range(1200):\n    open(sys.argv[1], 'a').write('x')\n    time.sleep(0.05)"
    job = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {noting!r}, {str(tmp_path / 'child')!r}])"
    parent = (
        "import pathlib, sys\n"
        "from nnssl.evaluate.commands import Job, Runner, Stopped\n"
        "from tests.evaluate.comparisons import Silent\n"
        f"runner = Runner(pathlib.Path({str(tmp_path / 'logs')!r}), Silent())\n"
        "try:\n"
        f"    runner.run(Job(name='job', command=[sys.executable, '-c', {job!r}], environment={{}}))\n"
        "except Stopped as stopped:\n"
        "    print(stopped)\n"
        "    raise SystemExit(stopped.exit_code)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (tmp_path / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM. What is finished is kept" in said
    written = (tmp_path / "child").stat().st_size
    time.sleep(0.5)
    assert (tmp_path / "child").stat().st_size == written
    assert (tmp_path / "logs" / "job.begun").is_file()
    assert not (tmp_path / "logs" / "job.done").exists()


def test_two_calls_do_not_write_to_one_folder(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "logs", Recorder())
    with runner._held(), pytest.raises(UsageError, match="Another call is at work in"):
        Runner(tmp_path / "logs", Recorder()).run(python("one", ""))
    runner.run(python("one", ""))
    with runner._held():
        Runner(tmp_path / "logs", Recorder()).run(python("one", ""))  # nothing is left to do


def test_places_differ_by_words_and_variables_and_make_no_other_job(tmp_path: Path) -> None:
    code = "import os, sys, time; time.sleep(0.3); print(sys.argv[1], os.environ.get('PLACE', '-'))"
    jobs = [python(f"job{number}", code) for number in range(3)]
    places = [Slot(words=["a"], environment={"PLACE": "1"}), Slot(words=["b"])]
    runner = Runner(tmp_path, Recorder())
    runner.run(*jobs, slots=places)
    said = [(tmp_path / f"job{number}.log").read_text().strip() for number in range(3)]
    assert said[:2] == ["a 1", "b -"]
    assert said[2] in ("a 1", "b -")
    runner.run(*jobs)  # all are done, wherever they ran


def test_a_job_knows_whether_it_was_started_before(tmp_path: Path) -> None:
    asked = []

    def prepare(again: bool) -> list[str]:
        asked.append(again)
        return [sys.executable, "-c", f"raise SystemExit({0 if again else 3})"]

    job = Job(name="job", command=[], environment={}, identity="one", prepare=prepare)
    runner = Runner(tmp_path, Recorder())
    with pytest.raises(NnsslError, match="code 3"):
        runner.run(Job(name="job", command=[], environment={}, identity="another", prepare=prepare))
    with pytest.raises(NnsslError, match="code 3"):
        runner.run(job)
    runner.run(job)
    assert asked == [False, False, True]
    assert runner.done("job", job.key)
