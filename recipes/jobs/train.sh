#!/bin/bash
# bash recipes/jobs/train.sh YOU/BUCKET recipes/pretrain.py recipes/configs/gpt2-124m/pretrain.yaml \
#     --dataset /runs/gpt2-124m/data --output_dir /runs/gpt2-124m/base
# JOB_OPTIONS="--flavor cpu-xl" bash recipes/jobs/train.sh YOU/BUCKET recipes/prepare_data.py ...
# JOB_OPTIONS=--dry-run bash recipes/jobs/train.sh ...                           (shows the job, starts nothing, needs no network)
#
# Runs a recipe on Hugging Face Jobs, from the checkout. Machine, time limit, packages and hfgpt's code are given at the top of each
# recipe. What it writes below /runs goes to your bucket (`hf buckets create YOU/BUCKET`), which outlives the job: a machine that breaks
# down is replaced (--attempts), and after a time limit or a cancelled job, the same command resumes.
set -euo pipefail
bucket=$1
shift
# shellcheck disable=SC2086     # several options are several words
exec hf jobs uv run --attempts 3 --volume "hf://buckets/$bucket:/runs" ${JOB_OPTIONS:-} "$@"
