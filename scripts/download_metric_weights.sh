#!/usr/bin/env bash
# What metrics need, about 8 GB, to WEIGHTS_ROOT: see scripts/download.sh, whose further arguments are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/download.sh" metrics "$@"
