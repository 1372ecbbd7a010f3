#!/usr/bin/env bash
# Stage 1 on EPIC-KITCHENS: see scripts/describe.sh, whose arguments are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/describe.sh" epickitchen "$@"
