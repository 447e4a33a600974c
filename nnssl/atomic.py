"""Files that appear whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read once, at import: asking means setting it, and two threads that ask at the same time could leave it at 0.
_UMASK = os.umask(0)
_NO_FOLDER_SYNC = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL, errno.ENOTSUP, errno.EBADF)
os.umask(_UMASK)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there takes the name `path` when the block ends well.

    The data are on the disk (fsync) before the name changes, and the name after. An exception leaves `path` as it was.

    Example:
        >>> import tempfile; folder = Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    final = Path(path)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files for the owner's eyes only; a results folder is shared as the umask says
        temporary.chmod(0o666 & ~_UMASK)
        _sync(temporary, os.O_RDWR)  # Windows flushes only what may be written
        temporary.replace(final)
        _sync_folder(final.parent)
    except OSError as error:
        if error.filename is None:  # a full disk, met while writing, does not say where
            error.filename = os.fspath(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write a torch file of tensors and plain values.

    Raises:
        OSError: what the system refused, as it said it. torch turns a refused write into a RuntimeError about positions
            in its file, under which the reason lies.
    """
    import torch

    try:
        with path.open("wb") as stream:
            torch.save(dict(content), stream)
    except RuntimeError as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__context__
        if reason is None:
            raise
        raise reason from None


def _sync_folder(path: Path) -> None:
    """Bring a new name to the disk, where folders can be synchronised: Windows opens none, some shared disks refuse."""
    try:
        _sync(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
