"""One workspace for all engine tests; runs lie beside each other under names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.workspace import make_workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("engine"))
