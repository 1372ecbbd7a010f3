#!/usr/bin/env bash
# The authors' features, about 500 GB, to RUN_ROOT/features: see scripts/download.sh, whose further arguments are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/download.sh" features "$@"
