#!/usr/bin/env bash
# Stage 1 on Ego4D: see scripts/describe.sh, whose arguments are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/describe.sh" ego4d "$@"
