#!/usr/bin/env bash
# LEGO from a photo's data to a report, on a CPU: sets up, then every step of the flow on the toy world.
#   bash scripts/demo.sh [--from-scratch] [--size 64] [--seed 0] [--train 800] [--val 100]
# Both stages start from the small networks in assets/toy: stage 1 goes on with the tuned VLLM, whose tuning took 3,000
# updates, stage 2 begins with the editor. --from-scratch builds them too: quarter of an hour, frames of 48 pixels, blurred.
# Results go to $RUN_ROOT/toy, by default runs/toy; the page to open at the end is runs/toy/report/index.html.
# The settings may also come as TOY_SIZE (frame height in pixels), TOY_SEED, TOY_TRAIN and TOY_VAL (pairs).
# Ctrl-C ends it at any point; the same command goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

START=assets/toy FROM_SCRATCH=
while (($#)); do
    case $1 in
        --from-scratch) FROM_SCRATCH=yes && shift && continue ;;
        --size | --seed | --train | --val) (($# > 1)) || die "$1 needs a number" ;;
        *) die "argument '$1'; usage: bash scripts/demo.sh [--from-scratch] [--size N] [--seed N] [--train N] [--val N]" ;;
    esac
    name=TOY_${1#--}
    declare "${name^^}=$2"
    shift 2
done
if [[ -n $FROM_SCRATCH ]]; then usual_size=48 usual_train=1200; else usual_size=64 usual_train=800; fi
TOY_SIZE=${TOY_SIZE:-$usual_size} TOY_SEED=${TOY_SEED:-0} TOY_TRAIN=${TOY_TRAIN:-$usual_train} TOY_VAL=${TOY_VAL:-100}
for name in TOY_SIZE TOY_SEED TOY_TRAIN TOY_VAL; do
    [[ ${!name} =~ ^[0-9]+$ ]] || die "$name=${!name}: expected a whole number"
    export "${name?}"
done
((TOY_SIZE >= 32 && TOY_SIZE % 8 == 0)) || die "TOY_SIZE=$TOY_SIZE: expected a multiple of 8, at least 32"
[[ -n $FROM_SCRATCH || $TOY_SIZE == 64 ]] ||
    die "TOY_SIZE=$TOY_SIZE: the networks of $START draw 64 pixels; give --from-scratch for another size"

TOY=$RUN_ROOT/toy
# shellcheck disable=SC2034  # for steps.sh
WORK=$TOY COMMAND=demo
source scripts/steps.sh
export DATA_ROOT=$TOY/data

# --- the steps that are more than one command ------------------------------------------------------

# What both stages start from.
build_start() {
    START=$TOY/start
    use_env ldm
    step start-sd "build a toy Stable Diffusion, the diffusion model's starting point" \
        python -m ldm.toy --data-root "$DATA_ROOT" --out "$START/sd.ckpt" \
        --resolution "$TOY_SIZE" --seed "$TOY_SEED"
    use_env vllm
    step start-llava "build a toy LLaVA, the language model's starting point" \
        python -m llava.toy --data-root "$DATA_ROOT" --out "$START/llava" --seed "$TOY_SEED"
}

sample() {
    python -m ldm.sample --config configs/generate_toy.yaml "$@"
}

# What stage 2 starts from, told the bare action.
sample_untrained() {
    if [[ -n $FROM_SCRATCH ]]; then
        sample --ckpt "$START/sd.ckpt" --out "$TOY/samples/untrained" model.vllm_features=false
    else
        sample configs/methods/ip2p.yaml --method ip2p --ckpt "$START/ip2p.safetensors" --out "$TOY/samples/untrained"
    fi
}

evaluate() {
    python -m ldm.evaluate --dataset ego4d --gen_path "$@" \
        --gt_path "$METRIC_TARGETS" --edit_file "$DESCRIBED" --metadata "$METADATA" --metrics psnr,psnr_box,ssim,ssim_box,toy_success --published none
}

# --- the flow --------------------------------------------------------------------------------------

begin_steps "${FROM_SCRATCH:+from scratch, }size $TOY_SIZE, seed $TOY_SEED, train $TOY_TRAIN, val $TOY_VAL"

start=$SECONDS
run_group bash scripts/setup.sh all || die "the set-up failed; its message is above"
echo $((SECONDS - start)) >"$DONE/set-up"

use_env ldm
RUN_ROOT=$TOY paths ego4d val
step data "draw egocentric pairs of frames with labels and descriptions" \
    python -m egogen.toy --out "$DATA_ROOT" --train "$TOY_TRAIN" --val "$TOY_VAL" --size "$TOY_SIZE" --seed "$TOY_SEED"
settings=(configs/train_toy.yaml)
if [[ -n $FROM_SCRATCH ]]; then
    build_start
    tuned_from=$START/llava tuning=()
else
    settings+=(configs/toy_demo.yaml)
    tuned_from=$START/vllm tuning=(--num_train_epochs 1 --learning_rate 2e-4)
fi

use_env vllm
step finetune "stage 1: tune the toy LLaVA on the curated descriptions" \
    env MODEL="$tuned_from" bash scripts/finetune_toy.sh ${tuning[@]+"${tuning[@]}"}
step describe-train "stage 1: describe the train frames and keep the features" describe "$TOY" "$TOY/vllm" train
step describe-val "stage 1: describe the val frames and keep the features" describe "$TOY" "$TOY/vllm" val

use_env ldm
step train "stage 2: train the diffusion model on frames, descriptions and features" \
    python main.py --name lego_toy --base "${settings[@]}" --train --logdir "$TOY/logs"
step sample-lego "stage 2: draw the val frames" \
    sample --ckpt "$TOY/logs/train_toy_lego_toy/checkpoints/last.ckpt" --out "$TOY/samples/lego"
step sample-untrained "first yardstick: the same by the starting point" sample_untrained
step sample-copy "second yardstick: the source frame itself" \
    sample --method copy --out "$TOY/samples/copy"
step evaluate "measure all three against the true frames" evaluate "$TOY/samples/lego" "$TOY/samples/untrained" "$TOY/samples/copy"
step report "pictures, tables and curves on one page" \
    python -m ldm.report "$TOY/samples/lego" "$TOY/samples/untrained" "$TOY/samples/copy" --out "$TOY/report" \
    --title "LEGO on the toy world" --published none --annotations "$DESCRIBED" \
    --frames "$FRAMES" --logs "stage 2=$TOY/logs"

print_steps set-up "${STEPS[@]}"
printf '\nreport: %s\n' "$TOY/report/index.html"
printf 'Open the report in a browser; try LEGO on frames of your own by: %s\n' "bash scripts/run.sh ldm python app.py"
