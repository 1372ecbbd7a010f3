#!/usr/bin/env bash
# Stage 1: describes a split with the fine-tuned VLLM, writes the features for stage 2, merges the descriptions.
# Usage: bash scripts/describe_epickitchen.sh [train|val] [more flags of python -m llava.describe]
# With --shard I/N or --num-chunks it describes that part only; merge when all parts are there.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
use_env vllm
DATA=$DATA_ROOT/EgoGen
RUN=$RUN_ROOT/epickitchen

SPLIT=val
if [[ $# -gt 0 && $1 != --* ]]; then
    SPLIT=$1
    shift
fi
[[ $SPLIT == train || $SPLIT == val ]] || die "split '$SPLIT': expected train or val"

python -m llava.describe \
    --model-path "${MODEL:-$RUN/vllm}" \
    --image-dir "$DATA/epickitchen/$SPLIT" \
    --action-label "$DATA/epickitchen_$SPLIT.json" \
    --save-path "$RUN/descriptions/$SPLIT" \
    --save-image-feature-path "$RUN/features/epickitchen/$SPLIT/llava_image" \
    --save-text-feature-path "$RUN/features/epickitchen/$SPLIT/llava_text" \
    "$@"

case " $* " in *" --shard"* | *" --num-chunks"*) exit 0 ;; esac
python -m llava.merge \
    --save-path "$RUN/descriptions/$SPLIT" \
    --edits "$DATA/epickitchen_$SPLIT.json" \
    --out "$RUN/annotations/epickitchen_$SPLIT.json"
