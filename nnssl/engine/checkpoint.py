"""The training state on disk: whole or not there, checked when read, kept twice, never unpickled.

`state_latest.pth` and `state_previous.pth` are torch zip files of tensors and plain values. Every member carries a
CRC-32, which is checked before anything is used; a damaged latest falls back to the one before.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nnssl.archive import FAULTS, damaged_member
from nnssl.atomic import whole_file, write_tensors
from nnssl.errors import StateError

LATEST = "state_latest.pth"
PREVIOUS = "state_previous.pth"
FORMAT = 1  # raised when an older program could not read the state

State = dict[str, Any]


def save_state(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write `state` as the latest; the latest so far becomes the previous one.

    Args:
        folder: the run's folder.
        state: tensors and plain values, nested in dicts and lists.

    Raises:
        StateError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    latest = folder / LATEST
    try:
        with whole_file(latest) as temporary:
            write_tensors(temporary, {"format": FORMAT, **state})
            _keep_previous(folder)
    except (OSError, RuntimeError) as error:  # torch reports other failures of its writer as RuntimeErrors
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "see that the folder can be written"
        raise StateError(
            f"The training state could not be written to {latest} ({error}). Free on that disk: {_free(folder)}. The "
            f"states saved before are whole; {remedy} and continue with --c."
        ) from error
    return latest


def load_state(folder: Path, *, say: Callable[[str], None]) -> State | None:
    """The newest whole state in `folder`, on the CPU; None when there is none at all.

    Args:
        folder: the run's folder.
        say: told, in a sentence, when the latest was damaged and the one before is used.

    Raises:
        StateError: states are there but none is whole, or it was written by a newer program.
    """
    reasons = []
    for name in (LATEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = read_checked(path)
        except StateError as error:
            reasons.append(str(error))
            continue
        if reasons:
            say(f"{reasons[0]} Falling back to {name}, saved at step {state.get('step')}.")
        return state
    if reasons:
        raise StateError(
            " ".join(reasons) + f" No whole training state is left in {folder}. Start anew under another --name, or "
            f"from the weights in pretrained_latest.pth with -pretrained_weights."
        )
    return None


def read_checked(path: Path) -> State:
    """Read a torch zip file after checking every member's checksum; tensors on the CPU, plain values, no pickled code.

    Raises:
        StateError: the file is cut off or damaged, would grow when read, holds more than tensors and plain values, or
            has a newer format.
    """
    try:
        damaged = damaged_member(path, refusal=StateError)
    except FAULTS as error:
        raise StateError(f"{path} is damaged or cut off ({error}).") from error
    if damaged is not None:
        raise StateError(f"{path} is damaged: the checksum of its member {damaged} is wrong.")
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's own message says how to run the code
        raise StateError(
            f"{path} holds more than tensors and plain values; what might be code is never loaded. Get it from where "
            f"it was written by nnssl."
        ) from error
    except Exception as error:  # torch raises many kinds; all mean that the file cannot be used
        raise StateError(f"{path} cannot be read as tensors and plain values ({error}).") from error
    if not isinstance(state, dict):
        raise StateError(f"{path} holds a {type(state).__name__}; a dict of tensors and plain values was needed.")
    if int(state.get("format", FORMAT)) > FORMAT:
        raise StateError(f"{path} was written by a newer nnssl (format {state['format']}); update this one.")
    return state


def _keep_previous(folder: Path) -> None:
    """Give the latest a second name, so that no moment is without a whole state."""
    latest, previous, spare = folder / LATEST, folder / PREVIOUS, folder / f".{PREVIOUS}.link"
    if not latest.exists():
        return
    spare.unlink(missing_ok=True)
    try:
        os.link(latest, spare)
    except OSError:  # a file system without hard links: for a moment only the previous state is there
        latest.replace(previous)
        return
    spare.replace(previous)
    spare.unlink(missing_ok=True)  # a rename leaves both names where they are one file: a save was killed


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**30:.2f} GiB"
    except OSError:  # the disk itself may be gone
        return "unknown"
