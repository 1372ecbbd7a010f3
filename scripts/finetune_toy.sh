#!/usr/bin/env bash
# Stage 1, toy size: fine-tunes the toy LLaVA on the toy world's conversations, two CPU processes under ZeRO-2.
# MODEL is what it starts from, by default the LLaVA that the toy world's flow has built.
#   bash scripts/finetune_toy.sh [more flags of python -m llava.train]
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
processes 2
use_env vllm
TOY=$RUN_ROOT/toy
DATA_ROOT=$TOY/data paths ego4d train

export DS_ACCELERATOR=cpu                          # DeepSpeed must not look for a GPU
export CUDA_VISIBLE_DEVICES=""
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"     # one core each: more threads than cores crawl
export TOKENIZERS_PARALLELISM=false

exec python -m torch.distributed.run --standalone --nproc_per_node "$NPROC" -m llava.train \
    --model_name_or_path "${MODEL:-$TOY/start/llava}" \
    --data_path "$CONVERSATIONS" \
    --image_folder "$FRAMES" \
    --output_dir "$TOY/vllm" \
    --deepspeed "configs/deepspeed/zero2_cpu.json" \
    --use_cpu True \
    --bf16 False \
    --num_train_epochs 2 \
    --per_device_train_batch_size 4 \
    --learning_rate 1e-3 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --logging_steps 10 \
    --save_steps 100 \
    --save_total_limit 2 \
    --model_max_length 2048 \
    --dataloader_num_workers 0 \
    "$@"
