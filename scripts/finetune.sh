#!/usr/bin/env bash
# Stage 1: fine-tunes the 13B VLLM with the published settings of configs/finetune.yaml.
#   bash scripts/finetune.sh ego4d|epickitchen [more flags of python -m llava.train]
# DATA_ROOT holds EgoGen/; RUN_ROOT takes the result; LLAVA is the starting checkpoint; NPROC the number of GPUs;
# CONFIG another preset, such as configs/finetune_qlora_24gb.yaml. On several machines: NODES, how many; NODE_RANK,
# which, from 0; MASTER_ADDR, the address of machine 0 (docs/scale.md).
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
DATASET=${1:-}
shift || die "expected a data set, ego4d or epickitchen"
processes 8
use_env vllm
paths "$DATASET" train

NODES=${NODES:-1}
[[ $NODES =~ ^[1-9][0-9]{0,3}$ ]] || die "NODES=$NODES: expected the number of machines, 1 to 9999"
((NODES == 1)) || [[ -n ${NODE_RANK:-} && -n ${MASTER_ADDR:-} ]] ||
    die "NODES=$NODES: set NODE_RANK, from 0, and MASTER_ADDR, the address of machine 0, on each machine"

# A plan needs one process, which is told how many there will be, and no GPU.
WHERE=(--standalone)
((NODES == 1)) ||
    WHERE=(--nnodes "$NODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
LAUNCH=(python -m torch.distributed.run "${WHERE[@]}" --nproc_per_node "$NPROC")
if [[ " $* " == *\ --dry[_-]run\ * && " $* " != *\ --dry[_-]run\ [Ff]alse\ * ]]; then
    [[ $NPROC =~ ^[0-9]+$ ]] || die "NPROC=$NPROC: a plan needs the number of GPUs of a machine"
    LAUNCH=(env RANK=0 LOCAL_RANK=0 WORLD_SIZE="$((NPROC * NODES))" python)
fi

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
