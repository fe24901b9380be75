#!/usr/bin/env bash
# Trains on several machines: sbatch examples/slurm/train.sh TASK SETTINGS.yaml RUN [-s KEY=VALUE ...]
# Two machines with 8 GPUs each; change --nodes and --gpus-per-node alone. Settings, data and RUN must be on a disk that
# all machines see. Five minutes before the time is up the run is told to save a checkpoint and stop, and the job is put
# back into the queue; it goes on from there. So it does when SLURM starts it anew because a machine failed.
#SBATCH --job-name=vpd-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

if (($# < 3)); then
    echo "usage: sbatch $0 segment|refer|depth SETTINGS.yaml RUN [-s KEY=VALUE ...]" >&2
    exit 2
fi
task=$1 settings=$2 run=$3
shift 3

# the first machine is where the processes of all machines meet
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

is_time_up=0 running=
# SIGTERM to srun reaches all processes; scancel, which sends another signal than USR1, ends the job for good
trap 'is_time_up=1; kill -TERM "$running" || true' USR1

# When a process dies, all others end, and everything is started anew. torchrun's own --max-restarts is left out: restarted
# processes may wait for each other for ever.
for attempt in 1 2 3; do
    # --resume also starts a run that has no checkpoint yet; --shutdown-timeout leaves time to write one
    srun --kill-on-bad-exit=1 torchrun \
        --nnodes "$SLURM_JOB_NUM_NODES" \
        --nproc-per-node "$SLURM_GPUS_ON_NODE" \
        --rdzv-id "$SLURM_JOB_ID-$attempt" \
        --rdzv-backend c10d \
        --rdzv-endpoint "$first:29500" \
        --shutdown-timeout 240 \
        -m vpd train "$task" --config "$settings" --out "$run" --resume "$@" &
    running=$!
    status=0
    wait "$running" || status=$?
    if ((is_time_up)); then
        wait "$running" || true # the first wait ended with the signal
        scontrol requeue "$SLURM_JOB_ID"
        exit "$status"
    fi
    if ((status == 0)); then
        break
    fi
done
exit "$status"
