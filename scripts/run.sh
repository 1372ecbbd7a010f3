#!/usr/bin/env bash
# Runs a command in one of the two environments.
#   bash scripts/run.sh vllm|ldm COMMAND...
#   bash scripts/run.sh ldm python -m ldm.report runs/toy/samples/lego
# vllm is that of stage 1 (llava), ldm that of stage 2 (ldm, main.py); egogen works in both.
OWN_WORDS=2
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
(($# > 1)) || die "expected an environment and a command; usage: bash scripts/run.sh vllm|ldm COMMAND..."
use_env "$1"
shift
command -v "$1" >/dev/null || die "no command '$1' here"
exec "$@"
