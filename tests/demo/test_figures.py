"""The picture is written whole, whatever the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnssl.report.figures import Comparison, Example, draw_comparison


def test_a_comparison_becomes_one_picture(tmp_path: Path) -> None:
    runs = [(labels, arm) for labels in (1, 5) for arm in ("scratch", "pretrained")]
    comparison = Comparison(
        trainer="MAETrainer",
        probe={"untrained": (0.4, 0.3, 0.5), "pretrained": (0.6, 0.5, 0.7)},
        curves={run: [(0, 0.0), (10, 0.5)] for run in runs},
        final={run: (0.5, 0.4, 0.6) for run in runs},
    )
    labels = np.zeros((8, 9), np.uint8)
    labels[2:4, 3:5] = 1
    image = np.arange(72, dtype=np.float32).reshape(8, 9)
    example = Example(
        case="a", image=image, truth=labels, scratch=labels, pretrained=labels * 0, labels=1, organs=("liver",)
    )
    draw_comparison(tmp_path / "comparison.png", comparison, example)
    content = (tmp_path / "comparison.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.png"]
