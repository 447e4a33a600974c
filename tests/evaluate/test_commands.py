"""Steps run once, fail with the end of their log, and stop their companions."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.commands import Job, Runner, program


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
