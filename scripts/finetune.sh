#!/usr/bin/env bash
# Stage 1: fine-tunes the 13B VLLM with the published settings of configs/finetune.yaml.
#   bash scripts/finetune.sh ego4d|epickitchen [more flags of python -m llava.train]
# DATA_ROOT holds EgoGen/; RUN_ROOT takes the result; LLAVA is the starting checkpoint; NPROC the number of GPUs;
# CONFIG another preset, such as configs/finetune_qlora_24gb.yaml.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { show_help && exit; }
DATASET=${1:-}
FRAMES=$(frames_folder "$DATASET")
shift
use_env vllm

exec python -m torch.distributed.run --standalone --nproc_per_node "${NPROC:-8}" -m llava.train \
    "${CONFIG:-configs/finetune.yaml}" \
    --model_name_or_path "${LLAVA:-$WEIGHTS_ROOT/llava-llama-2-13b-chat-lightning-preview}" \
    --data_path "$DATA_ROOT/EgoGen/curation_from_gpt/${DATASET}_for_tuning_forecasting.json" \
    --image_folder "$DATA_ROOT/EgoGen/$FRAMES/train" \
    --output_dir "$RUN_ROOT/$DATASET/vllm" \
    "$@"
