#!/usr/bin/env bash
# Stage 1: describes a split with the fine-tuned VLLM, writes the features for stage 2, merges the descriptions.
#   bash scripts/describe.sh ego4d|epickitchen [train|val] [more flags of python -m llava.describe]
# DATA_ROOT holds EgoGen/; RUN_ROOT takes the result; MODEL is the checkpoint; NPROC the number of GPUs, 1 by default.
# With --shard I/N or --num-chunks it describes that part only; merge when all parts are there.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { show_help && exit; }
DATASET=${1:-}
FRAMES=$(frames_folder "$DATASET")
shift
SPLIT=val
if [[ $# -gt 0 && $1 != -* ]]; then
    SPLIT=$1
    shift
fi
[[ $SPLIT == train || $SPLIT == val ]] || die "split '$SPLIT': expected train or val"
use_env vllm
EDITS=$DATA_ROOT/EgoGen/${DATASET}_$SPLIT.json
RUN=$RUN_ROOT/$DATASET

launch=(python)
[[ ${NPROC:-1} == 1 ]] || launch=(python -m torch.distributed.run --standalone --nproc_per_node "$NPROC")
"${launch[@]}" -m llava.describe \
    --model-path "${MODEL:-$RUN/vllm}" \
    --image-dir "$DATA_ROOT/EgoGen/$FRAMES/$SPLIT" \
    --action-label "$EDITS" \
    --dataset "$DATASET" \
    --save-path "$RUN/descriptions/$SPLIT" \
    --save-image-feature-path "$RUN_ROOT/features/$DATASET/$SPLIT/llava_image" \
    --save-text-feature-path "$RUN_ROOT/features/$DATASET/$SPLIT/llava_text" \
    "$@"

case " $* " in *" --shard"* | *" --num-chunks"*) exit 0 ;; esac
python -m llava.merge \
    --save-path "$RUN/descriptions/$SPLIT" \
    --edits "$EDITS" \
    --out "$RUN_ROOT/annotations/${DATASET}_$SPLIT.json" # where stage 2 looks first
