#!/usr/bin/env bash
# LEGO from nothing to a report, on a CPU: sets up, then every step of the flow on the toy world.
#   bash scripts/demo.sh [--size 48] [--seed 0] [--train 1200] [--val 100]
# Results go to $RUN_ROOT/toy, by default runs/toy; the page to open at the end is runs/toy/report/index.html.
# The settings may also come as TOY_SIZE (frame height in pixels), TOY_SEED, TOY_TRAIN and TOY_VAL (pairs).
# Ctrl-C ends it at any point; the same command goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

TOY_SIZE=${TOY_SIZE:-48} TOY_SEED=${TOY_SEED:-0} TOY_TRAIN=${TOY_TRAIN:-1200} TOY_VAL=${TOY_VAL:-100}
while (($#)); do
    case $1 in
        --size | --seed | --train | --val) (($# > 1)) || die "$1 needs a number" ;;
        *) die "argument '$1'; usage: bash scripts/demo.sh [--size N] [--seed N] [--train N] [--val N]" ;;
    esac
    name=TOY_${1#--}
    declare "${name^^}=$2"
    shift 2
done
for name in TOY_SIZE TOY_SEED TOY_TRAIN TOY_VAL; do
    [[ ${!name} =~ ^[0-9]+$ ]] || die "$name=${!name}: expected a whole number"
    export "${name?}"
done

((TOY_SIZE >= 32 && TOY_SIZE % 8 == 0)) || die "TOY_SIZE=$TOY_SIZE: expected a multiple of 8, at least 32"

TOY=$RUN_ROOT/toy
# shellcheck disable=SC2034  # for steps.sh
WORK=$TOY COMMAND=demo
source scripts/steps.sh
export DATA_ROOT=$TOY/data

# --- the steps that are more than one command ------------------------------------------------------

sample() {
    python -m ldm.sample --config configs/generate_toy.yaml "$@"
}

evaluate() {
    python -m ldm.evaluate --dataset ego4d --gen_path "$@" \
        --gt_path "$METRIC_TARGETS" --edit_file "$DESCRIBED" --metadata "$METADATA" --metrics psnr,psnr_box,ssim,ssim_box,toy_success --published none
}

# --- the flow --------------------------------------------------------------------------------------

begin_steps "size $TOY_SIZE, seed $TOY_SEED, train $TOY_TRAIN, val $TOY_VAL"

start=$SECONDS
run_group bash scripts/setup.sh all || die "the set-up failed; its message is above"
echo $((SECONDS - start)) >"$DONE/set-up"

use_env ldm
RUN_ROOT=$TOY paths ego4d val
step data "draw egocentric pairs of frames with labels and descriptions" \
    python -m egogen.toy --out "$DATA_ROOT" --train "$TOY_TRAIN" --val "$TOY_VAL" --size "$TOY_SIZE" --seed "$TOY_SEED"
step start-sd "build a toy Stable Diffusion, the diffusion model's starting point" \
    python -m ldm.toy --data-root "$DATA_ROOT" --out "$TOY/start/sd.ckpt" \
    --resolution "$TOY_SIZE" --seed "$TOY_SEED"
use_env vllm
step start-llava "build a toy LLaVA, the language model's starting point" \
    python -m llava.toy --data-root "$DATA_ROOT" --out "$TOY/start/llava" --seed "$TOY_SEED"

step finetune "stage 1: tune the toy LLaVA on the curated descriptions" bash scripts/finetune_toy.sh
step describe-train "stage 1: describe the train frames and keep the features" describe "$TOY" "$TOY/vllm" train
step describe-val "stage 1: describe the val frames and keep the features" describe "$TOY" "$TOY/vllm" val

use_env ldm
step train "stage 2: train the diffusion model on frames, descriptions and features" \
    python main.py --name lego_toy --base configs/train_toy.yaml --train --logdir "$TOY/logs"
step sample-lego "stage 2: draw the val frames" \
    sample --ckpt "$TOY/logs/train_toy_lego_toy/checkpoints/last.ckpt" --out "$TOY/samples/lego"
step sample-untrained "first yardstick: the same by the starting point" \
    sample --ckpt "$TOY/start/sd.ckpt" --out "$TOY/samples/untrained" model.vllm_features=false
step sample-copy "second yardstick: the source frame itself" \
    sample --method copy --out "$TOY/samples/copy"
step evaluate "measure all three against the true frames" evaluate "$TOY/samples/lego" "$TOY/samples/untrained" "$TOY/samples/copy"
step report "table, pictures and curves on one page" \
    python -m ldm.report "$TOY/samples/lego" "$TOY/samples/untrained" "$TOY/samples/copy" --out "$TOY/report" \
    --title "LEGO on the toy world" --published none --annotations "$DESCRIBED" \
    --frames "$FRAMES" --logs "stage 2=$TOY/logs"

print_steps set-up "${STEPS[@]}"
printf '\nreport: %s\n' "$TOY/report/index.html"
