"""What every command shares: the parser, the workspace option, and errors as one clear paragraph.

Nothing heavy is imported here, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from nnssl.compat import refuse_other_nnssl
from nnssl.errors import NnsslError, UsageError

INTERRUPTED = 130  # what a shell reports for a command that was ended with Ctrl-C
_WIDTH = 110
_WAYS_OUT = {
    errno.EACCES: "Give yourself the right to read and write there, or choose another folder.",
    errno.EPERM: "Give yourself the right to read and write there, or choose another folder.",
    errno.EROFS: "It lies on a read-only disk; choose a folder that can be written.",
    errno.ENOTDIR: "A folder is needed where a file lies; check the path.",
    errno.EEXIST: "Something else lies there already; check the path.",
    errno.EISDIR: "A file is needed where a folder lies; check the path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its links lead in a circle; mend them.",
    errno.EIO: "The disk fails; check it, then run the same command again.",
    errno.ESTALE: "The network disk has gone away; run the same command again once it is back.",
    errno.EMFILE: "Too many files are open; raise the limit (ulimit -n) or use fewer workers.",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One paragraph instead of argparse's usage block: it names the mistake and where to look."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        near = [name for word in unknown for name in self._near(word)]
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        _say(f"{message[:1].upper()}{message[1:]}.{meant} Run {self.prog} -h for all options and examples.", self.prog)
        raise SystemExit(2)

    def _near(self, word: str) -> list[str]:
        """The option that a misspelt one comes closest to."""
        return difflib.get_close_matches(word, list(self._option_string_actions), n=1) if word[:1] == "-" else []

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """No guesses: with `allow_abbrev=False` argparse still completes flags of one dash (-target_plan)."""
        return []


def parser(prog: str, description: str, *, examples: Sequence[str], workspace: bool = True) -> argparse.ArgumentParser:
    """A parser that refuses abbreviated flags and shows examples under `-h`.

    Args:
        prog: the command's name.
        description: one or two sentences.
        examples: whole command lines.
        workspace: offer `--workspace`; not where a command reads none of nnU-Net's folders.
    """
    made = _Parser(
        prog=prog,
        description=textwrap.fill(description, _WIDTH),
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if workspace:
        made.add_argument(
            "--workspace",
            metavar="DIR",
            help="folder that holds nnUNet_raw, nnUNet_preprocessed and nnUNet_results (else the variables of these "
            "names)",
        )
    return made


def add_device(made: argparse.ArgumentParser, *, mps: bool = True) -> None:
    """Add `-device`; without it the command chooses.

    Args:
        made: the command's parser.
        mps: offer Apple's devices; not where a comparison rests on stock nnU-Net's trainings.
    """
    kinds = ("cuda", "cpu", "mps") if mps else ("cuda", "cpu")
    made.add_argument("-device", choices=kinds, help="default: cuda where there is a GPU, else cpu")


def apply_workspace(arguments: argparse.Namespace, *, make: bool = True) -> None:
    """Set nnU-Net's variables from `--workspace`, and `make` its folders. Call before nnU-Net is imported."""
    if arguments.workspace is not None:
        from nnssl.paths import use_workspace

        use_workspace(arguments.workspace, make=make)


def run(main: Callable[[], int | None], *, prog: str) -> int:
    """Run a command's body and turn what a user can cause into one paragraph on stderr and an exit code.

    Args:
        main: the body; its return value is the exit code, None for 0.
        prog: the command's name, put before the message.

    Returns:
        The exit code: 0, the error's own `exit_code`, 130 after Ctrl-C, 1 when the disk is full or refuses. Faults of
        ours are not caught: they show their traceback.
    """
    try:
        refuse_other_nnssl()
        return main() or 0
    except NnsslError as error:
        _say(str(error), prog)
        return error.exit_code
    except KeyboardInterrupt:
        _say("Stopped by Ctrl-C.", prog)
        return INTERRUPTED
    except OSError as error:
        sentence = os_error(error)
        if sentence is None:
            raise
        _say(sentence, prog)
        return 1


def check_plans_name(name: str) -> None:
    """Refuse a name that could not be a plans file's and a part of folders' names.

    Raises:
        UsageError: with what is not allowed.
    """
    if not name or "__" in name or any(sign in name for sign in "/\\") or name.endswith(".json") or name[0] in ".-":
        raise UsageError(
            f"A plans name names folders: it must have no '__', no slash, no '.json' and begin with a letter or digit, "
            f"unlike {name!r}."
        )


def os_error(error: OSError) -> str | None:
    """A sentence for what the system refused and the user can mend; None for what points to a fault of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(error)
    way_out = _WAYS_OUT.get(error.errno or 0)
    if way_out is None or error.filename is None:
        return None
    return f"{os.fsdecode(error.filename)} cannot be used ({error.strerror}). {way_out}"


def disk_full(error: OSError) -> str:
    """A sentence for a write that found no space."""
    where = f" while writing {os.fspath(error.filename)}" if error.filename else ""
    return (
        f"The disk is full{where}. Nothing half-written was left in place; free some space and run the same command "
        f"again (a training with --c), it goes on where it stopped."
    )


def _say(message: str, prog: str) -> None:
    """Write one paragraph to stderr; lines of a message that has several (a list of files) are kept."""
    lines = f"{prog}: {message}".splitlines()
    wrapped = [textwrap.fill(line, _WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines]
    print("\n".join(wrapped), file=sys.stderr)
