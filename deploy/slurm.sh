#!/usr/bin/env bash
#SBATCH --job-name=pbt
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:INT@300
#
# A Ray cluster inside of a Slurm job, and one command of pbt_flow on it. Five minutes before the time limit the
# turns under way finish and the population ends in order; the next job goes on with it.
#
#   export MLFLOW_TRACKING_URI=http://HOST:5000     # which every node reaches
#   sbatch deploy/slurm.sh run --task rl --turns 200
#   sbatch deploy/slurm.sh resume RUN_ID
#
# RAY_PORT names the port of the head (6379 unless it is set), where two jobs may share a node.
set -euo pipefail

: "${MLFLOW_TRACKING_URI:?set it to a tracking server that every node reaches}"
: "${SLURM_JOB_NODELIST:?start this with sbatch}"
if [[ $# -eq 0 ]]; then
    echo "usage: sbatch $0 run --task TASK ... | sbatch $0 resume RUN_ID ..." >&2
    exit 2
fi

cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
port=${RAY_PORT:-6379}
# This script runs on the first node of the job.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_ADDRESS="$head:$port" RAY_USAGE_STATS_ENABLED=0
# Whoever else is on these nodes has no token. Slurm hands the environment on to each step.
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# The steps end with the job; where the command ends first, they end here.
steps=()
trap 'kill "${steps[@]}" 2> /dev/null || true' EXIT

resources=(--num-cpus="$cpus" --num-gpus="$gpus")
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$head" --port="$port" --include-dashboard=false \
    "${resources[@]}" --block &
steps+=($!)
for _ in {1..60}; do
    ray health-check --address="$RAY_ADDRESS" > /dev/null 2>&1 && break
    sleep 2
done
if [[ $SLURM_JOB_NUM_NODES -gt 1 ]]; then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
        --exclude="$head" ray start --address="$RAY_ADDRESS" "${resources[@]}" --block &
    steps+=($!)
fi

# In the background, since a shell that waits for a command in the foreground hears no signal.
command=$1
shift
pbt-flow "$command" "$@" --engine ray --workers "$((SLURM_JOB_NUM_NODES * cpus))" &
population=$!
trap 'kill -INT "$population"' INT TERM
status=0
wait "$population" || status=$?
# The signal has ended the wait, and not the population.
while kill -0 "$population" 2> /dev/null; do
    status=0
    wait "$population" || status=$?
done
exit "$status"
