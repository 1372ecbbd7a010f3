#!/usr/bin/env bash
# Stage 1: fine-tunes the 13B VLLM with the published settings of configs/finetune.yaml.
#   bash scripts/finetune.sh ego4d|epickitchen [more flags of python -m llava.train]
# DATA_ROOT holds EgoGen/; RUN_ROOT takes the result; LLAVA is the starting checkpoint; NPROC the number of GPUs;
# CONFIG another preset, such as configs/finetune_qlora_24gb.yaml.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
DATASET=${1:-}
shift || die "expected a data set, ego4d or epickitchen"
use_env vllm
paths "$DATASET" train

exec python -m torch.distributed.run --standalone --nproc_per_node "${NPROC:-8}" -m llava.train \
    "${CONFIG:-configs/finetune.yaml}" \
    --model_name_or_path "${LLAVA:-$WEIGHTS_ROOT/llava-llama-2-13b-chat-lightning-preview}" \
    --data_path "$CONVERSATIONS" \
    --image_folder "$FRAMES" \
    --output_dir "$VLLM" \
    "$@"
