"""One workspace for all runs under faults, with a run that nothing happens to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.workspace import make_workspace
from tests.faults.checks_runs import make_reference


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the finished run `whole`."""
    root = make_workspace(tmp_path_factory.mktemp("faults"))
    make_reference(root)
    return root
