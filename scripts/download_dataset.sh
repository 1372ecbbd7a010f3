#!/usr/bin/env bash
# The published data set, about 6 GB, to DATA_ROOT: see scripts/download.sh, whose further arguments are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/download.sh" dataset "$@"
