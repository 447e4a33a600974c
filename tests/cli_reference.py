"""Writes docs/reference/cli.md from the commands' own parsers: `python -m tests.cli_reference`. A test compares."""

from __future__ import annotations

import argparse
import importlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Commands

Written by `python -m tests.cli_reference` from what `-h` says; a test compares. Every command ends with 0 or says in
one paragraph what was needed, what was found and what to do. Flags are never guessed from their beginning.
"""


class Parsed(Exception):
    """Stops a command behind its parser.

    Attributes:
        parser: the command's.
        arguments: what it made of the command line.
    """

    def __init__(self, parser: argparse.ArgumentParser, arguments: argparse.Namespace | None) -> None:
        super().__init__()
        self.parser, self.arguments = parser, arguments


def commands() -> dict[str, str]:
    """{command: "module:function"} of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(project["scripts"])


def parse(command: str, words: Sequence[str] | None) -> Parsed:
    """What a command's parser makes of `words`; None: only the parser. Nothing of the command itself runs.

    Raises:
        SystemExit: the parser refused.
    """
    module, function = commands()[command].split(":")
    original = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        raise Parsed(parser, None if words is None else original(parser, list(words)))

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            getattr(importlib.import_module(module), function)([])
        except Parsed as parsed:
            return parsed
    raise AssertionError(f"{command} did not parse its command line")


def sections() -> Iterator[str]:
    """One section a command."""
    for command in commands():
        parser = parse(command, None).parser
        lines = [f"## {command}", "", " ".join((parser.description or "").split()), "", "| option | |", "|---|---|"]
        lines += [_row(action) for action in parser._actions if "-h" not in action.option_strings]
        lines += ["", *map(_example, (parser.epilog or "").splitlines()[1:])]
        yield "\n".join(lines) + "\n"


def _row(action: argparse.Action) -> str:
    shown = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    value = " ".join(shown) if isinstance(shown, tuple) else shown
    if action.choices and not action.metavar:
        value = " \\| ".join(map(str, action.choices))
    many = " .." if action.nargs in ("+", "*") else ""
    names = ", ".join(action.option_strings)
    needed = " (needed)" if action.required and action.option_strings else ""
    text = (action.help or "").replace("|", "\\|")
    return f"| `{' '.join(filter(None, (names, value)))}{many}`{needed} | {text} |"


def _example(line: str) -> str:
    """A command line; what stands behind two spaces or more explains it."""
    return "    " + re.sub(r" {2,}", "    # ", line.strip())


def reference() -> str:
    """The whole file."""
    return HEAD + "\n" + "\n".join(sections())


if __name__ == "__main__":
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    REFERENCE.write_text(reference())
