#!/bin/bash
# Train on several nodes: sbatch --nodes 2 docs/train_slurm.sh mimic_eye/mdf_net_many_nodes.yaml OUTPUT_DIR /shared/run
# Data set and OUTPUT_DIR lie in folders that all nodes share. A job that was ended goes on when it is submitted again.
#SBATCH --job-name=mdf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --requeue
set -euo pipefail
config=$1
shift
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$((20000 + SLURM_JOB_ID % 20000))
export config head port
# srun does not take --cpus-per-task from sbatch (Slurm 22.05 and later): a task would get one core
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'mdf train --config-file "$config" --resume \
    --num-gpus "${SLURM_GPUS_ON_NODE:-2}" --num-machines "$SLURM_NNODES" --machine-rank "$SLURM_NODEID" \
    --dist-url "tcp://$head:$port" "$@"' mdf "$@"
