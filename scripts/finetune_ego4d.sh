#!/usr/bin/env bash
# Stage 1 on Ego4D: see scripts/finetune.sh, whose settings and flags are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" ego4d --save_steps 150 "$@"
