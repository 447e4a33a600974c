"""Scripts of benchmarks/ as modules: a default that was found with a script is tested by the same script."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")


def benchmark(name: str) -> ModuleType:
    """The script benchmarks/NAME.py, imported as Python would when running it."""
    if BENCHMARKS not in sys.path:
        sys.path.insert(0, BENCHMARKS)
    return importlib.import_module(name)
