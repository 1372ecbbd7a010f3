#!/usr/bin/env bash
# Stage 1: fine-tunes the 13B VLLM with the published settings: 8 GPUs, 16 records each, 3 epochs.
# Usage: bash scripts/finetune_ego4d.sh [more flags of python -m llava.train]
# DATA_ROOT holds EgoGen/; RUN_ROOT takes the result; LLAVA is the starting checkpoint; NPROC the number of GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
use_env vllm
DATA=$DATA_ROOT/EgoGen

exec python -m torch.distributed.run --standalone --nproc_per_node "${NPROC:-8}" -m llava.train \
    --model_name_or_path "${LLAVA:-$RUN_ROOT/start/llava-llama-2-13b-chat-lightning-preview}" \
    --data_path "$DATA/curation_from_gpt/ego4d_for_tuning_forecasting.json" \
    --image_folder "$DATA/ego4d.fho/train" \
    --output_dir "$RUN_ROOT/ego4d/vllm" \
    --deepspeed "configs/deepspeed/zero3_offload.json" \
    --bf16 True \
    --tf32 True \
    --num_train_epochs 3 \
    --per_device_train_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --learning_rate 2e-5 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --logging_steps 1 \
    --save_steps 150 \
    --save_total_limit 4 \
    --model_max_length 2048 \
    --gradient_checkpointing True \
    --dataloader_num_workers 4 \
    "$@"
