"""What a user says of single scans by patterns of their paths: leave this one out, take that one all the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from nnssl.errors import UsageError
from nnssl.ingest.names import shown
from nnssl.ingest.scan import Scan
from nnssl.planning.checks import Finding
from nnssl.planning.refusal import checked_reasons

EXCLUDED = "excluded"  # the reason's name


def checked_accept(words: Iterable[str]) -> frozenset[str]:
    """What was given to `--accept`: names of reasons, each with = and a pattern if it is not for all scans.

    Raises:
        UsageError: a name that is none, one that leaves nothing to accept, or = without a pattern.
    """
    given = frozenset(words)
    for word in sorted(given):
        name, sign, pattern = word.partition("=")
        checked_reasons([name])
        if sign and not pattern:
            raise UsageError(f"--accept {word} needs a pattern of paths behind =, as in --accept {name}='A1/*'.")
    return given


class Patterns:
    """What a request says of the scans that are found.

    Args:
        accepted: "REASON" for all scans, "REASON=PATTERN" for some.
        excluded: patterns of scans to be left out.
        hide_names: patterns are written nowhere: they name files.
    """

    def __init__(self, accepted: Collection[str], excluded: Sequence[str], *, hide_names: bool) -> None:
        self._accepted = sorted(word.partition("=")[::2] for word in accepted)
        self._excluded, self._hide_names = list(dict.fromkeys(excluded)), hide_names
        self._unused = {*self._excluded, *(pattern for _, pattern in self._accepted if pattern)}

    def applied(self, scan: Scan, root: Path) -> Scan:
        """The scan with what is allowed of it, or refused as excluded.

        Args:
            scan: as found.
            root: folder of its source.
        """
        allowed = {reason for reason, pattern in self._accepted if not pattern or self._fits(pattern, scan, root)}
        scan = replace(scan, allowed=tuple(sorted(allowed)))
        for pattern in self._excluded:
            if self._fits(pattern, scan, root):
                by = "--exclude" if self._hide_names else f"--exclude {pattern}"
                return replace(scan, refused=Finding(EXCLUDED, f"the command says so: {by}"))
        return scan

    def unused(self) -> list[str]:
        """Patterns that have fitted nothing."""
        return sorted(self._unused)

    def _fits(self, pattern: str, scan: Scan, root: Path) -> bool:
        """Whether a pattern fits all files of a part of the scan, or folders they lie in."""
        files = [[shown(file, root) for file in part.files] for part in scan.parts]
        for part in scan.parts if scan.above else ():  # as reports show what a list names, and as the list does
            files += [[shown(file, Path(scan.above)) for file in part.files], [each.as_posix() for each in part.files]]
        fits = any(all(_fits_path(pattern, path) for path in paths) for paths in files or [[scan.shown]])
        if fits:
            self._unused.discard(pattern)
        return fits


def is_excluded(scan: Scan) -> bool:
    """Whether the request leaves a scan out."""
    return scan.refused is not None and scan.refused.reason == EXCLUDED


def _fits_path(pattern: str, path: str) -> bool:
    """Whether a pattern fits a path below the source, or that of a folder above it; * also stands for /."""
    wanted = pattern.removeprefix("./").rstrip("/")
    return any(fnmatchcase(str(each), wanted) for each in (path, *PurePosixPath(path).parents))
