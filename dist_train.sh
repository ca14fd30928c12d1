#!/bin/sh
# Train or evaluate with several processes on this machine (or on several, one call on each).
#
#   sh dist_train.sh CONFIG GPUS [options of `tcformer train`...]
#   sh dist_train.sh configs/tcformer/tcformer.py 8 --data-path D
#   sh dist_train.sh configs/tcformer/tcformer.py 1 --data-path D --resume FILE --eval
#
# GPUS is the number of processes: one for each GPU, or that many on the CPU where there is no GPU.
#
# Environment:
#   PORT         where the processes meet (6666; a free one if that is taken or wanted and PORT is not set)
#   PYTHON       the interpreter (the active virtual environment's, else this clone's .venv,
#                else python or python3)
#   NNODES, NODE_RANK, MASTER_ADDR   for several machines
#   OMP_NUM_THREADS   threads of a process (cores / processes)
#
# SIGTERM, SIGUSR1 or Ctrl-C save a checkpoint and end with status 75; `--resume auto` continues.
set -eu
trap 'echo interrupted >&2; exit 130' INT # until Python deals with it

if [ "$#" -lt 2 ]; then
    echo 'usage: sh dist_train.sh CONFIG GPUS [options of `tcformer train`...]' >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ ! -e "$config" ] && [ -e "$here/$config" ]; then
    config=$here/$config # called from another folder
fi

if [ -z "${PYTHON:-}" ]; then
    if [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
        PYTHON=$VIRTUAL_ENV/bin/python
    elif [ -x "$here/.venv/bin/python" ]; then
        PYTHON=$here/.venv/bin/python
    elif command -v python >/dev/null 2>&1; then
        PYTHON=python
    else
        PYTHON=python3
    fi
fi
if ! command -v "$PYTHON" >/dev/null 2>&1; then
    echo "error: there is no $PYTHON here: run \`make demo\` once, or set PYTHON." >&2
    exit 2
fi

export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}" # this clone, installed or not
hold= # Ctrl-C back while Python starts, where env can do that
if env --block-signal=INT true 2>/dev/null; then
    hold='env --block-signal=INT'
fi
exec $hold "$PYTHON" -m tcformer.runtime.launch "$gpus" train --config "$config" "$@"
