#!/usr/bin/env bash
# Figures that need a GPU, row by row. A row that is done is kept, so that the next call goes on; a comparison goes on
# within itself.
#
#   bash benchmarks/gpu_session.sh OUT [DEVICE [SOURCE]]
#
# OUT keeps workspace and rows. DEVICE: cuda (default) or cpu. SOURCE: the task's folder.
#
# 1. Every trainer with its own recipe on nnU-Net's plan for hippocampus: OUT/estimate_TRAINER.json has seconds a step,
#    share of waiting, peak memory, TFLOP/s (nnssl_estimate).
# 2. Pretraining and few-label fine-tuning with that plan: OUT/real/compare/report.html (compare_real.py).
set -euo pipefail

out=$(mkdir -p "$1" && cd "$1" && pwd)
device=${2:-cuda}
source=${3:-../shared/data/Task04_Hippocampus}
here=$(cd "$(dirname "$0")" && pwd)
trainers=(MAETrainer Vox2VecTrainer DeSDTrainer DINO3DTrainer CADSTrainer AnatEmbedTrainer AliceTrainer)
compare=(python "$here/compare_real.py" "$source" --out "$out/real" --plan nnUNetPlans -device "$device" -j 1)

"${compare[@]}" --trainers "${trainers[@]}" --only_prepare
for trainer in "${trainers[@]}"; do
    row=$out/estimate_$trainer.json
    [[ -s $row ]] && continue
    nnssl_estimate 745 3d_fullres -tr "$trainer" -device "$device" --workspace "$out/real" --json >"$row.part" &&
        mv "$row.part" "$row"
    cat "$row"
done
"${compare[@]}" --trainers Vox2VecTrainer MAETrainer DeSDTrainer --labels 1 5 all --replicates 2
