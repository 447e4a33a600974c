"""Broken files through every reader path of ingest until no new line of code is reached for two minutes.

    python benchmarks/fuzz_readers.py [--flat 120] [--kinds nii dcm ...] [--data FOLDER] [--most 3600]

One child process a kind of file reads mutated seeds: those of tests/ingest/test_fuzz.py, and files below 60 kB of
FOLDER (the `nasty` ones) if it is given. Inputs that reach new lines of nnssl.ingest, planning/nifti.py,
planning/reading.py or planning/checks.py become seeds. A child that dies (a segmentation fault in a library), hangs for
20 seconds, or raises what is no refusal leaves its input in the folder `fuzz_crashes` in the temporary folder, and is
started again. A crash becomes a test: bytes made in tests/ingest/test_fuzz.py, below 10 kB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_HANG_SECONDS = 20.0
_SEED_BYTES = 60_000
_WATCHED = ("/nnssl/ingest/", "/nnssl/planning/nifti.py", "/nnssl/planning/reading.py", "/nnssl/planning/checks.py")
_COUNTS = ("inputs", "lines", "corpus", "taken", "refused", "reasons", "crashes")
_ENDINGS = {"nii": ".nii", "nii.gz": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "mgz": ".mgz", "dcm": ".dcm"}
_TOKENS = (
    b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\xc0\x7f", b"\xff\x7f", b"\x80\0", b"\0\0\x80\x7f", b"1e300", b"-1", b"nan",
    b"0 0 0", b"\n\n", b"../x", b"LIST", b"True", b"gzip", b"raw", b"(1,0,0)", b"9999999999", b"\x1f\x8b", b"DICM",
    b"null", b"[]", b"{}", b'"', b"$HOME/x", b"test", b";", b"\t", b"\xef\xbb\xbf", b"%03d", b"none", b"float",
)  # fmt: skip


def main() -> int:
    """Run and print a table and a JSON line; 1 if anything crashed."""
    sys.path.insert(0, str(ROOT))
    from tests.ingest.test_fuzz import FORMATS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flat", type=float, default=120.0, help="seconds without a new line (default 120)")
    parser.add_argument("--most", type=float, default=3600.0, help="seconds in all (default 3600)")
    parser.add_argument("--kinds", nargs="+", default=list(FORMATS), choices=FORMATS, help="default: all")
    parser.add_argument("--data", type=Path, help="folder with more seeds")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default 0)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _Child(arguments).run()
        return 0
    crashes = Path(tempfile.gettempdir()) / "fuzz_crashes"
    crashes.mkdir(exist_ok=True)
    rows = _until_flat(arguments, crashes)
    print("kind    " + "".join(f"{key:>9}" for key in _COUNTS))
    for kind, row in rows.items():
        print(f"{kind:<8}" + "".join(f"{row[key]:>9}" for key in _COUNTS))
    print(json.dumps({"benchmark": "fuzz_readers", "flat_s": arguments.flat, "kinds": rows}))
    return 1 if any(row["crashes"] for row in rows.values()) else 0


def _until_flat(arguments: argparse.Namespace, crashes: Path) -> dict[str, dict[str, int]]:
    """Children in turns of a few seconds, until all of them together reach nothing new."""
    children = {kind: _Parent(kind, arguments, crashes) for kind in arguments.kinds}
    seen: set[str] = set()
    began = newest = time.monotonic()
    while time.monotonic() - newest < arguments.flat and time.monotonic() - began < arguments.most:
        for child in children.values():
            if fresh := child.turn(seconds=3.0) - seen:
                seen |= fresh
                newest = time.monotonic()
    for child in children.values():
        child.close()
    flat = time.monotonic() - newest
    print(f"{len(seen)} lines reached in {time.monotonic() - began:.0f} s, nothing new for the last {flat:.0f} s")
    return {kind: child.row for kind, child in children.items()}


class _Parent:
    """One kind of file: talks to its child, and starts another when that dies."""

    def __init__(self, kind: str, arguments: argparse.Namespace, crashes: Path) -> None:
        self._kind, self._crashes = kind, crashes
        self._command = [sys.executable, __file__, "--child", kind, "--seed", str(arguments.seed)]
        self._command += ["--data", str(arguments.data)] if arguments.data else []
        self._child: subprocess.Popen[str] | None = None
        self._before = {"inputs": 0, "taken": 0, "refused": 0}
        self._last: dict[str, int] = {}
        self.row = dict.fromkeys(_COUNTS, 0)

    def turn(self, seconds: float) -> set[str]:
        """Let the child read for a while; the lines that it has reached so far."""
        if self._child is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "FUZZ_CURRENT": str(self._current)}
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment,
            )  # fmt: skip
        child = self._child
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a child without pipes")
        killer = threading.Timer(seconds + _HANG_SECONDS + 20, child.kill)  # the first turn imports libraries
        killer.start()
        try:
            child.stdin.write(f"{seconds}\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            killer.cancel()
        if not answer:
            self._died()
            return set()
        found = json.loads(answer)
        for key in ("inputs", "taken", "refused"):
            self.row[key] = self._before[key] + found[key]
        self.row.update(lines=max(self.row["lines"], len(found["lines"])), corpus=found["corpus"])
        self.row["reasons"] = max(self.row["reasons"], found["reasons"])
        for error, content in found["crashes"]:
            self._keep(bytes.fromhex(content), error)
        return set(found["lines"])

    @property
    def _current(self) -> Path:
        return self._crashes / f"current.{self._kind}"

    def _died(self) -> None:
        content = self._current.read_bytes() if self._current.is_file() else b""
        code = self._child.wait() if self._child else 0
        self._keep(content, f"the process ended with {code}")
        self._child = None
        self._before = {key: self.row[key] for key in self._before}
        self._command = [*self._command, "--seed", str(self.row["crashes"] + 1000)]

    def _keep(self, content: bytes, error: str) -> None:
        self.row["crashes"] += 1
        file = self._crashes / f"{self._kind}-{self.row['crashes']}"
        file.write_bytes(content)
        print(f"{self._kind}: {error.strip().splitlines()[-1][:200]}; {len(content)} bytes in {file}", flush=True)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._current.unlink(missing_ok=True)


class _Child:
    """Reads mutated files in this process, for as long as each line of standard input says."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from tests.ingest.test_fuzz import seed

        self._kind = arguments.child
        self._random = random.Random(f"{arguments.seed}{self._kind}")
        self._corpus = [seed(self._kind), *_more_seeds(self._kind, arguments.data)]
        self._fresh = list(self._corpus)
        self._lines: set[str] = set()
        self._now: set[tuple[CodeType, int]] = set()
        self._known: set[tuple[CodeType, int]] = set()
        self._current = Path(os.environ["FUZZ_CURRENT"])
        self._counts = {"inputs": 0, "taken": 0, "refused": 0}
        self._reasons: set[str] = set()
        self._errors: set[str] = set()
        self._crashes: list[tuple[str, str]] = []

    def run(self) -> None:
        """Answer every line of standard input with what was reached."""
        answers, sys.stdout = sys.stdout, sys.stderr
        for line in sys.stdin:
            until = time.monotonic() + float(line)
            while time.monotonic() < until:
                self._one()
            found: dict[str, Any] = {**self._counts, "lines": sorted(self._lines), "corpus": len(self._corpus)}
            found |= {"reasons": len(self._reasons), "crashes": self._crashes}
            self._crashes = []
            print(json.dumps(found), file=answers, flush=True)

    def _one(self) -> None:
        from tests.ingest.test_fuzz import ACCEPTED, check

        content = self._fresh.pop() if self._fresh else self._mutated()
        self._current.write_bytes(content)
        self._now = set()
        timer = threading.Timer(_HANG_SECONDS, os._exit, (99,))
        timer.start()
        sys.settrace(self._trace)
        try:
            records = check(self._kind, content, ACCEPTED if self._random.random() < 0.6 else frozenset())
            for record in records:
                self._counts["taken" if record.status == "taken" else "refused"] += 1
                self._reasons.add(record.reason)
        except Exception as error:  # whatever it is, it is what is looked for
            where = f"{type(error).__name__}: {error}"
            if where[:60] not in self._errors:
                self._errors.add(where[:60])
                self._crashes.append((where, content.hex()))
        finally:
            sys.settrace(None)
            timer.cancel()
        self._counts["inputs"] += 1
        if fresh := self._now - self._known:
            self._known |= fresh
            self._lines |= {f"{Path(code.co_filename).name}:{line}" for code, line in fresh}
            self._corpus.append(content)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """Lines of the files that are watched, in this thread; others are not traced at all."""
        return self._trace_line if any(part in frame.f_code.co_filename for part in _WATCHED) else None

    def _trace_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self._now.add((frame.f_code, frame.f_lineno))
        return self._trace_line

    def _mutated(self) -> bytes:
        """One of the corpus, newer ones more often, with a few changes."""
        draw = self._random
        content = bytearray(self._corpus[max(draw.randrange(len(self._corpus)), draw.randrange(len(self._corpus)))])
        for _ in range(draw.choice((1, 1, 2, 3, 6))):
            _change(content, draw, self._corpus)
        return bytes(content[: draw.randrange(len(content) + 1)] if draw.random() < 0.1 else content)


def _change(content: bytearray, draw: random.Random, corpus: Sequence[bytes]) -> None:
    size = len(content)
    place = draw.randrange(min(size, 420) + 1) if draw.random() < 0.6 else draw.randrange(size + 1)
    what = draw.randrange(7)
    if what == 0 and place < size:
        content[place] ^= 1 << draw.randrange(8)
    elif what == 1:
        del content[place : place + draw.randrange(1, 64)]
    elif what == 2:
        content[place:place] = draw.choice(_TOKENS)
    elif what == 3:
        token = draw.choice(_TOKENS)
        content[place : place + len(token)] = token
    elif what == 4:
        content[place : place + 1] = bytes([draw.randrange(256)])
    elif what == 5:
        start = draw.randrange(size + 1)
        content[place:place] = content[start : start + draw.randrange(1, 80)]
    else:
        other = draw.choice(corpus)
        start = draw.randrange(len(other) + 1)
        piece = other[start : start + draw.randrange(1, 400)]
        content[place : place + len(piece)] = piece


def _more_seeds(kind: str, data: Path | None) -> list[bytes]:
    """Small files of this kind below a folder."""
    ending = _ENDINGS.get(kind, f".{kind}")
    files = sorted(data.rglob("*")) if data else []
    return [
        file.read_bytes()
        for file in files
        if file.is_file() and file.name.endswith(ending) and file.stat().st_size <= _SEED_BYTES
    ]


if __name__ == "__main__":
    sys.exit(main())
