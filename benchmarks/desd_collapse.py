"""Does DeSD collapse on an instance-norm encoder? Short runs that differ in one number each, on real scans.

    python benchmarks/desd_collapse.py ../shared/data/Task04_Hippocampus [--steps 160] [--rows short "K 4096"]

Rows and measures are those of learning.py: every row changes what it names, and nothing else, of "short": the default
recipe with fewer prototypes, a teacher that follows within 50 steps, none frozen, and a rate for few steps. "as
shipped" is the recipe itself with fewer steps in its 300 epochs (--steps 300 or a multiple). About a minute a row of
160 steps on one thread.
"""

from __future__ import annotations

from functools import partial

from learning import Row, run, run_rows

SHORT = {
    "prototypes": 1024,
    "teacher_momentum": 0.98,
    "teacher_memory": 0.0,
    "teacher_warmup_epochs": 2,
    "frozen_epochs": 0,
}
PUBLISHED = {"head_norm": "hidden", "pooling": "mean"}
TRAINER = "DeSDTrainer"
RATES = (5e-4, 1e-3, 2e-3, 4e-3)

short = partial(Row.short, TRAINER, SHORT, batch_size=16, lr=2e-3)


def shipped(*, residual: bool = False, **changes: float) -> Row:
    """The default recipe, and what the row does to `lr` or keys of the method."""
    optimizer = {"lr": changes.pop("lr")} if "lr" in changes else {}
    return Row(trainer=TRAINER, method=changes, optimizer=optimizer, residual=residual, shipped=True)


ROWS = {
    "published head, tau .04-.07": short({**PUBLISHED, "teacher_temperature": (0.04, 0.07)}),
    "published head, tau .04": short(PUBLISHED),
    "no head norm": short({**PUBLISHED, "head_norm": "none"}),
    "short": short(),
    "tau .04-.07": short({"teacher_temperature": (0.04, 0.07)}),
    "pooling mean": short({"pooling": "mean"}),
    "pooling mean_max": short({"pooling": "mean_max"}),
    "K 4096": short({"prototypes": 4096}),
    "bottleneck 64": short({"bottleneck": 64}),
    "bottleneck 256": short({"bottleneck": 256}),
    "momentum .99": short({"teacher_momentum": 0.99}),
    "batch 8": short(batch_size=8),
    "batch 32": short(batch_size=32),
    "blur to 1.0": short({"blur_sigma": (0.1, 1.0)}),
    "lr 5e-4": short(lr=5e-4),
    "residual encoder": short(residual=True),
    "residual encoder, lr 5e-4": short(lr=5e-4, residual=True),
    "residual encoder, pooling mean": short({"pooling": "mean"}, residual=True),
    "residual encoder, pooling mean, lr 5e-4": short({"pooling": "mean"}, lr=5e-4, residual=True),
    "as shipped": shipped(),
    "as shipped, memory not bounded": shipped(teacher_memory=0.0),
    **{f"as shipped, lr {lr:g}": shipped(lr=lr) for lr in RATES},
    "residual encoder, as shipped": shipped(residual=True),
    **{f"residual encoder, as shipped, lr {lr:g}": shipped(lr=lr, residual=True) for lr in RATES},
}


if __name__ == "__main__":
    run_rows(ROWS, run, about=__doc__ or "", steps=160, trainers=[TRAINER])
