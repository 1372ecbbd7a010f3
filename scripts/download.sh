#!/usr/bin/env bash
# Fetches what was published; the same command goes on after an interruption.
#   bash scripts/download.sh dataset|weights|features|metrics [--dry-run] [--what NAME,...] [--dest DIR]
# Also as download_dataset.sh, download_weights.sh, download_features.sh and download_metric_weights.sh.
# The data set goes to DATA_ROOT, weights to WEIGHTS_ROOT, features to RUN_ROOT/features.
# --dry-run lists files, sizes and licences; HF_TOKEN is for private repositories. More flags:
#   python -m egogen.download --help
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case ${1:-} in
    dataset | weights | features | metrics) ;;
    *) die "'${1:-}': expected dataset, weights, features or metrics" ;;
esac
use_any_env

exec python -m egogen.download "$@"
