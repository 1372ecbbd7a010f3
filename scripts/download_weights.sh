#!/usr/bin/env bash
# Published weights, about 116 GB, to WEIGHTS_ROOT: see scripts/download.sh, whose further arguments are these too.
exec bash "$(dirname "${BASH_SOURCE[0]}")/download.sh" weights "$@"
