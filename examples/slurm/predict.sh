#!/usr/bin/env bash
# Predicts many images on many GPUs: sbatch examples/slurm/predict.sh TASK MODEL SOURCE OUT [OPTION ...]
# Each member of the array takes one share of the images; all write into OUT, and the last to finish makes
# OUT/predictions.jsonl. A member that is preempted, or whose machine fails, is started anew and goes on. To finish what is
# left after the time was up, submit again, with any --array=1-N, or run the same without --shard: nothing is done twice.
#SBATCH --job-name=vpd-predict
#SBATCH --array=1-16
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
set -euo pipefail

if (($# < 4)); then
    echo "usage: sbatch $0 segment|refer|depth MODEL SOURCE OUT [OPTION ...]" >&2
    exit 2
fi
task=$1 model=$2 source=$3 out=$4
shift 4

export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

# status 1 = done, but some images could not be read; each is named in the log
srun vpd predict "$task" "$source" --model "$model" --out "$out" --shard slurm --batch 16 --dtype bfloat16 "$@"
