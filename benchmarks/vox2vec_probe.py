"""Does vox2vec learn in minutes? Short runs that differ in one number each, on real scans, with a frozen linear probe.

    python benchmarks/vox2vec_probe.py ../shared/data/Task04_Hippocampus [--steps 150] [--rows short "no window"]

Rows and measures are those of learning.py: every row changes what it names, and nothing else, of "short": the default
recipe with smaller crops and fewer voxels. About two minutes a row of 150 steps on one thread.
"""

from __future__ import annotations

from functools import partial

from learning import Row, run, run_rows

TRAINER = "Vox2VecTrainer"
# what one thread can do
SHORT = {"voxels": 512, "view_voxels": 24 * 32 * 32}


short = partial(Row.short, TRAINER, SHORT, batch_size=4, lr=1e-3)

ROWS = {
    "short": short(),
    "lr 3e-4": short(lr=3e-4),
    "lr 3e-3": short(lr=3e-3),
    "batch 8": short(batch_size=8),
    "batch 2": short(batch_size=2),
    "256 voxels": short({"voxels": 256}),
    "tau .2": short({"temperature": 0.2}),
    "tau .05": short({"temperature": 0.05}),
    "no sharpening or blur": short({"shape_probability": 0.0}),
    "mild sharpening": short({"sharpen": (1.0, 5.0)}),
    "noise x 5": short({"noise": 0.0638}),
    "jitter .3": short({"percentile_jitter": 0.3}),
    "jitter 0": short({"percentile_jitter": 0.0}),
    "two pairs a volume": short({"pairs_per_volume": 2}),
    "residual encoder": short(residual=True),
    "vicreg": short({"loss": "vicreg", "projection": 512}),
}


if __name__ == "__main__":
    run_rows(ROWS, run, about=__doc__ or "", steps=150, trainers=[TRAINER])
