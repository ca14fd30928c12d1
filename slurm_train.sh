#!/usr/bin/env bash
# Train or evaluate on a Slurm cluster.
#
#   ./slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of `tcformer train`...]
#
# Environment:
#   GPUS            processes in all, one for each GPU (8)
#   GPUS_PER_NODE   GPUs and processes of each node (8, or GPUS if that is less);
#                   0 on a cluster without GPUs: no --gres, Slurm spreads the processes
#   CPUS_PER_TASK   cores of each process, for loading data (5)
#   SRUN_ARGS       further options of srun, e.g. '--time=2:00:00 --exclude=node7'
#   SBATCH          1: submit as a batch job that Slurm can queue again, see below
#   SBATCH_ARGS     further options of sbatch, e.g. '--time=8:00:00 --signal=USR1@300'
#   PYTHON          the interpreter on the nodes (as for dist_train.sh)
#
# As it stands the job runs in the foreground and ends with this terminal. A SIGTERM (scancel) or a
# SIGUSR1 (`SRUN_ARGS=--signal=USR1@120`) saves a checkpoint, and the same call with `--resume auto`
# continues; Slurm cannot queue such a job again.
#
# With SBATCH=1 the same job is submitted with `--requeue --signal=USR1@120`: two minutes before
# its time limit, or when it is preempted, it saves, is queued again, and resumes by itself. Its
# output is appended to WORK_DIR/slurm-JOBID.out. docs/slurm.md tells more.
set -euo pipefail
trap 'echo interrupted >&2; exit 130' INT # until srun deals with it

if [ "$#" -lt 4 ]; then
    echo 'usage: ./slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of `tcformer train`...]' >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4

fail() {
    echo "error: $1" >&2
    exit 2
}

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK; do
    [[ ${!name} =~ ^[0-9]+$ ]] || fail "$name must be a whole number, got '${!name}'."
done
((GPUS > 0)) || fail "GPUS must be 1 or more; for processes without a GPU set GPUS_PER_NODE=0."
((CPUS_PER_TASK > 0)) || fail "CPUS_PER_TASK must be 1 or more."
((GPUS_PER_NODE > GPUS)) && GPUS_PER_NODE=$GPUS

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [[ ! -e $config && -e $here/$config ]]; then
    config=$here/$config # called from another folder
fi

resources=(--partition="$partition" --job-name="$job_name" --ntasks="$GPUS" --cpus-per-task="$CPUS_PER_TASK")
((GPUS_PER_NODE == 0)) || resources+=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")

if [[ -z ${PYTHON:-} ]]; then
    if [[ -n ${VIRTUAL_ENV:-} && -x $VIRTUAL_ENV/bin/python ]]; then
        PYTHON=$VIRTUAL_ENV/bin/python
    elif [[ -x $here/.venv/bin/python ]]; then
        PYTHON=$here/.venv/bin/python
    elif command -v python >/dev/null; then
        PYTHON=python
    else
        PYTHON=python3
    fi
fi

if [[ ${SBATCH:-0} == 1 ]]; then
    command -v sbatch >/dev/null || fail "there is no sbatch here: run this on a machine of the cluster."
    mkdir -p -- "$work_dir"
    # The job calls this script once more, without SBATCH, inside its allocation. It is handed what
    # that needs, for `--export=NONE` leaves it nothing else.
    printf -v again '%q ' env -u SBATCH PYTHON="$PYTHON" GPUS="$GPUS" GPUS_PER_NODE="$GPUS_PER_NODE" \
        CPUS_PER_TASK="$CPUS_PER_TASK" SRUN_ARGS="${SRUN_ARGS:-}" \
        "$here/slurm_train.sh" "$partition" "$job_name" "$config" "$work_dir" "$@"
    # SBATCH_ARGS is meant to be split into words.
    # shellcheck disable=SC2086
    exec sbatch "${resources[@]}" --requeue --open-mode=append --signal=USR1@120 \
        --output="${work_dir//%/%%}/slurm-%j.out" ${SBATCH_ARGS:-} \
        < <(printf '#!/bin/bash\nexec %s\n' "$again") # bash reads what its printf has quoted
fi

command -v srun >/dev/null || fail "there is no srun here: run this on a machine of the cluster, or use dist_train.sh."
export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}" # this clone, installed or not

# SRUN_ARGS is meant to be split into words.
# shellcheck disable=SC2086
exec srun "${resources[@]}" --export=ALL --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "$PYTHON" -u -m tcformer train --config "$config" --output_dir "$work_dir" "$@"
