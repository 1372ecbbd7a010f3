#!/usr/bin/env bash
# Stage 1 on EPIC-KITCHENS: see scripts/finetune.sh, whose settings and flags are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" epickitchen --save_steps 140 "$@"
