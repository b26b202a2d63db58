#!/usr/bin/env bash
# Trains on 2 nodes with 4 GPUs each, one process for each GPU. Written against Slurm's documentation; not run by us.
#
#   sbatch experiments/cloud/slurm.sh
#SBATCH --job-name=gaejax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60        # a minute before the end: the run saves, and ends with status 143

srun --kill-on-bad-exit=0 uv run --extra cuda experiments/train.py \
    --num-seeds 8 --num-envs 2048 --num-steps 16 --num-minibatches 32 --total-steps 100000000 \
    --output "${RUNS:-runs}/run-1" --resume-if-there
status=$?

# Preempted or out of time: back into the queue, where the same command goes on.
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
