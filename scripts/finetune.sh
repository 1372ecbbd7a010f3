#!/usr/bin/env bash
# Stage 1: fine-tunes the 13B VLLM with the published settings of configs/finetune.yaml.
#   bash scripts/finetune.sh ego4d|epickitchen [more flags of python -m llava.train]
# DATA_ROOT holds EgoGen/; RUN_ROOT takes the result; LLAVA is the starting checkpoint; NPROC the number of GPUs;
# CONFIG another preset, such as configs/finetune_qlora_24gb.yaml.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
DATASET=${1:-}
shift || die "expected a data set, ego4d or epickitchen"
processes 8
use_env vllm
paths "$DATASET" train

# A plan needs one process, which is told how many there will be, and no GPU.
LAUNCH=(python -m torch.distributed.run --standalone --nproc_per_node "$NPROC")
[[ " $* " == *\ --dry[_-]run\ * && " $* " != *\ --dry[_-]run\ [Ff]alse\ * ]] &&
    LAUNCH=(env RANK=0 LOCAL_RANK=0 WORLD_SIZE="$NPROC" python)

set -- "${CONFIG:-configs/finetune.yaml}" \
    --model_name_or_path "${LLAVA:-$WEIGHTS_ROOT/llava-llama-2-13b-chat-lightning-preview}" \
    --data_path "$CONVERSATIONS" \
    --image_folder "$FRAMES" \
    --output_dir "$VLLM" \
    "$@"
# A mistake is told once and at once, and not by each process after its start.
python -c "from egogen import cli
from llava.tuning.train_flags import check_ours
cli.run(lambda: check_ours(None, None))" "$@"
exec "${LAUNCH[@]}" -m llava.train "$@"
