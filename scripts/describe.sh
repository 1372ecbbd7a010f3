#!/usr/bin/env bash
# Stage 1: describes a split with the fine-tuned VLLM, writes the features for stage 2, merges the descriptions.
#   bash scripts/describe.sh ego4d|epickitchen [train|val] [more flags of python -m llava.describe]
# DATA_ROOT holds EgoGen/; RUN_ROOT takes the result; MODEL is the checkpoint; NPROC the number of GPUs, 1 by default.
# With --shard I/N or --num-chunks it describes that part only; merge when all parts are there.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
DATASET=${1:-}
shift || die "expected a data set, ego4d or epickitchen"
SPLIT=val
if [[ $# -gt 0 && $1 != -* ]]; then
    SPLIT=$1
    shift
fi
[[ $SPLIT == train || $SPLIT == val ]] || die "split '$SPLIT': expected train or val"
processes 1
use_env vllm
paths "$DATASET" "$SPLIT"

words=(
    --model-path "${MODEL:-$VLLM}"
    --image-dir "$FRAMES"
    --action-label "$ANNOTATIONS"
    --dataset "$DATASET"
    --save-path "$DESCRIPTIONS"
    --save-image-feature-path "$IMAGE_FEATURES"
    --save-text-feature-path "$TEXT_FEATURES"
    "$@"
)
launch=(python)
if [[ $NPROC != 1 ]]; then
    # A mistake is told once and at once, and not by each process after its start.
    python -c "from egogen import cli
from llava.describing.describe_options import DescribeOptions
cli.run(lambda: cli.options(DescribeOptions, None, 'python -m llava.describe', None))" "${words[@]}"
    launch=(python -m torch.distributed.run --standalone --nproc_per_node "$NPROC")
fi
"${launch[@]}" -m llava.describe "${words[@]}"

case " $* " in *" --shard"* | *" --num-chunks"*) exit 0 ;; esac
python -m llava.merge --save-path "$DESCRIPTIONS" --edits "$ANNOTATIONS" --out "$DESCRIBED" # where stage 2 looks first
