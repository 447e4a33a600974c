"""README and docs are true. How each kind of block is checked:

- every `nnssl_*` line, fenced or indented: parsed by the command's own parser; `--set` keys and trainers resolved;
- every `nnUNetv2_*` line: its flags are looked up in that command's -h (pipeline);
- `make X`: the target is in the Makefile;
- Python and JSON blocks: executed, parsed (pipeline where a block trains);
- the README's quick start: its `nnssl_*` lines run for real, in order, by bash, in a tiny workspace (pipeline). Only
  the pretraining is cut short, by recipe keys put behind its line; `tests/stock` runs the nnU-Net lines.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_reference import ROOT, commands, parse
from tests.tiny import make_raw_dataset

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?: {4}\S.*\n)+", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
SHORT = "--set epochs=1 steps_per_epoch=2 batch_size=2 -device cpu"
TRAINING = ("features", "write-a-plugin")
PAGES = sorted(
    path
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
    if path.name != "architecture.md"  # a sketch of interfaces, no instructions
)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of fenced blocks, and ("", text) of indented ones."""
    text = page.read_text()
    yield from FENCE.findall(text)
    yield from (("", found) for found in INDENTED.findall(FENCE.sub("", text)))


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every line that starts with a command of ours, of nnU-Net, or make."""
    for page in PAGES:
        for language, text in blocks(page):
            for line in text.replace("\\\n", " ").splitlines() if language in ("", "bash") else []:
                for part in re.split(r" ; | && ", line):
                    words = shlex.split(part, comments=True)
                    if words and re.match(r"(nnssl_\w+|nnUNetv2_\w+|make)$", words[0]):
                        yield page.relative_to(ROOT).as_posix(), words


LINES = sorted({(page, shlex.join(words)) for page, words in command_lines()})


@pytest.mark.parametrize(("page", "line"), [row for row in LINES if row[1].startswith("nnssl_")])
def test_our_commands_are_spelt_as_the_parser_wants(page: str, line: str) -> None:
    command, *words = shlex.split(line)
    assert command in commands(), f"{page} names a command that there is not: {command}"
    arguments = parse(command, words).arguments
    trainer = getattr(arguments, "trainer", None)
    if trainer is not None:
        from nnssl.engine.recipe import assignments, resolve
        from nnssl.registry import find_trainer

        resolve(
            find_trainer(trainer),
            getattr(arguments, "preset", None) or "default",
            assignments(getattr(arguments, "set", [])),
        )


@pytest.mark.parametrize(("page", "line"), [row for row in LINES if row[1].startswith("make")])
def test_make_targets_exist(page: str, line: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(shlex.split(line)[1:]) <= set(targets), page


@pytest.mark.pipeline
@pytest.mark.parametrize("command", sorted({shlex.split(line)[0] for _, line in LINES if line.startswith("nnUNetv2_")}))
def test_flags_of_nnunet_commands_exist(command: str) -> None:
    program = Path(sys.executable).with_name(command)
    help_text = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=120, check=True).stdout
    known = set(re.findall(r"(?<![\w-])--?\w+", help_text))
    for page, line in LINES:
        if shlex.split(line)[0] == command:
            flags = {word for word in shlex.split(line)[1:] if re.match(r"--?[a-zA-Z]", word)}
            assert flags <= known, (page, line)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.pipeline] if page.stem in TRAINING else []) for page in PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_python_blocks_run_and_json_blocks_parse(page: Path, tmp_path: Path) -> None:
    for language, text in blocks(page):
        if language == "json":
            json.loads(text)
        if language == "python":
            done = subprocess.run(
                [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page}:\n{text}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page} links to {target}"


def test_the_first_screen_has_the_three_commands_and_both_make_targets() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:24])
    for needed in ("nnssl_plan_and_preprocess", "nnssl_pretrain", "nnssl_plan_like", "make demo", "make test"):
        assert needed in screen


@pytest.mark.pipeline
def test_the_quick_start_runs(tmp_path: Path) -> None:
    """Every `nnssl_*` line of the README's quick start, in order, on tiny data sets of the same numbers."""
    text = (ROOT / "README.md").read_text().split("## Quick start", 1)[1].split("\n### ", 1)[0]
    quick_start = next(
        found for language, found in FENCE.findall(text) if "nnssl_plan_like" in found and language == "bash"
    )
    raw = tmp_path / "nnUNet_raw"
    unlabelled = make_raw_dataset(raw, 745, 4, kind="ct")
    make_raw_dataset(raw, 4, 4, kind="ct", labels=True)
    lines = [line for line in quick_start.splitlines() if line.startswith("nnssl_")]
    shorter = {"nnssl_pretrain": SHORT, "nnssl_estimate": "--steps 1 --set batch_size=2 -device cpu"}
    lines = [f"{line.split('#')[0]} {shorter.get(line.split()[0], '')}" for line in lines]
    script = "\n".join(lines).replace("Dataset745_Name", unlabelled.name)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        **{name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
    }
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-euo", "pipefail", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    promised = re.search(r"-p (\w+) -pretrained_weights", quick_start)
    assert promised is not None
    assert (next((tmp_path / "nnUNet_preprocessed").glob("Dataset004_*")) / f"{promised[1]}.json").is_file()
