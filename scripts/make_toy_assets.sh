#!/usr/bin/env bash
# Makes the toy start that ships, assets/toy: an editor, a LLaVA and a finished LEGO for frames of 64 pixels.
#   bash scripts/make_toy_assets.sh [--out assets/toy] [--seed 0]
# Hours on two CPU cores. Ctrl-C ends it at any point; the same command goes on where it stopped, within a training
# too. What it makes on the way is in $RUN_ROOT/toy_assets, by default runs/toy_assets.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

OUT=assets/toy SEED=0
while (($#)); do
    case $1 in
        --out | --seed) (($# > 1)) || die "$1 needs a value" ;;
        *) die "argument '$1'; usage: bash scripts/make_toy_assets.sh [--out DIR] [--seed N]" ;;
    esac
    name=${1#--}
    declare "${name^^}=$2"
    shift 2
done
[[ $SEED =~ ^[0-9]+$ ]] || die "--seed $SEED: expected a whole number"
OUT=$(from_root "$OUT")

SIZE=64                                  # of the frames, and of the squashed squares that the networks draw
TRAIN=8000 VAL=150                       # pairs
VAE_STEPS=2500 TEXT_STEPS=800 SD_STEPS=400 # the toy Stable Diffusion
EDIT_STEPS=${EDIT_STEPS:-12000}          # the editor, in steps of 32 pairs
VISION_STEPS=1500 TALK_STEPS=400 EPOCHS=3 # the toy LLaVA, and tuning it
GUIDE_STEPS=${GUIDE_STEPS:-1000} PHASE_STEPS=${PHASE_STEPS:-450} # its distillations, in steps of 12 pairs
GUIDANCE=1.5 DRAW_STEPS=10               # by text and features: two passes a step, 20 a frame

WORK=$RUN_ROOT/toy_assets COMMAND="toy assets"
source scripts/steps.sh
export RUN_ROOT=$WORK DATA_ROOT=$WORK/toy/data
START=$WORK/toy/start
world=(--data-root "$DATA_ROOT" --seed "$SEED")

# --- the parts of the flow -------------------------------------------------------------------------

# An autoencoder, a text encoder, a text-to-image model, and from it an editor.
editor() {
    use_env ldm
    export OMP_NUM_THREADS=$half
    step start-sd "build a toy Stable Diffusion" python -m ldm.toy "${world[@]}" --resolution "$SIZE" \
        --out "$START/sd.ckpt" --shape sharp --vae-steps "$VAE_STEPS" --text-steps "$TEXT_STEPS" --unet-steps "$SD_STEPS"
    step start-editor "tune it to a toy InstructPix2Pix" python -m ldm.toy.editor "${world[@]}" --resolution "$SIZE" \
        --start "$START/sd.ckpt" --out "$START/ip2p.ckpt" --steps "$EDIT_STEPS" --hold
}

# The language model: built, tuned, and what it says of every frame.
stage_1() {
    local split
    use_env vllm
    export OMP_NUM_THREADS=$half
    step start-llava "build a toy LLaVA" python -m llava.toy "${world[@]}" --out "$START/llava" \
        --vision-steps "$VISION_STEPS" --language-steps "$TALK_STEPS" --seconds 86400
    step finetune "stage 1: tune the toy LLaVA on the curated descriptions" env NPROC=1 MODEL="$START/llava" \
        bash scripts/finetune_toy.sh --num_train_epochs "$EPOCHS" --per_device_train_batch_size 8
    for split in val train; do
        step "describe-$split" "stage 1: describe the $split frames and keep the features" \
            describe "$WORK/toy" "$WORK/toy/vllm" "$split"
    done
}

train_lego() {
    python main.py --train --name lego --logdir "$WORK/logs" --seed "$SEED" \
        --base configs/train_toy.yaml configs/toy_assets.yaml
}

# distill NAME CONFIG STEPS TEACHER WORD...: one distillation of the LEGO.
distill() {
    local name=$1 config=$2 steps=$3 teacher=$4
    shift 4
    step "distill-$name" "distil: $name" python -m ldm.distill --train --name "$name" --logdir "$WORK/logs" \
        --base "configs/$config.yaml" --teacher "$teacher" --seed "$SEED" "$@" "data.resolution=$SIZE" \
        "trainer.max_steps=$steps" trainer.validate_every_epochs=1 trainer.threads=0 \
        "sampling.scales_txt=[$GUIDANCE]"
}

ship() {
    use_env vllm
    python -m llava.toy.ship --start "$START/llava" --tuned "$WORK/toy/vllm" --out "$OUT"
    use_env ldm
    python -m ldm.toy.ship --data-root "$DATA_ROOT" --editor "$START/ip2p.ckpt" --out "$OUT" \
        --lego "$LEGO" "$FEW" --names lego lego-4 \
        --described "$DESCRIBED" "${DESCRIBED/_val/_train}"
}

# draw NAME WORD...: frames of the val split by a shipped file.
draw() {
    local name=$1
    shift
    python -m ldm.sample --config configs/generate_toy.yaml --ckpt "$OUT/$name.safetensors" --out "$WORK/samples/$name" \
        "data.resolution=$SIZE" "sampling.height=$SIZE" "sampling.seed=$SEED" "sampling.scales_txt=[$GUIDANCE]" "$@"
}

evaluate() {
    python -m ldm.evaluate --dataset ego4d --gen_path "$@" --gt_path "$METRIC_TARGETS" \
        --edit_file "$DESCRIBED" --metadata "$METADATA" --metrics psnr,ssim,toy_success --published none
}

# The log of stage 1's training, which its checkpoints keep.
newest_state() {
    local states=("$WORK/toy/vllm"/checkpoint-*/trainer_state.json)
    echo "${states[-1]}"
}

# --- the flow --------------------------------------------------------------------------------------

begin_steps "seed $SEED, out $OUT, steps $EDIT_STEPS $GUIDE_STEPS $PHASE_STEPS"
run_group bash scripts/setup.sh all || die "the set-up failed; its message is above"
cores=$(getconf _NPROCESSORS_ONLN)
half=$((cores > 1 ? cores / 2 : 1))

use_env ldm
RUN_ROOT=$WORK/toy paths ego4d val
step data "draw egocentric pairs of frames with labels and descriptions" \
    python -m egogen.toy --out "$DATA_ROOT" --train "$TRAIN" --val "$VAL" --size "$SIZE" --seed "$SEED"
side_by_side editor stage_1

use_env ldm
export OMP_NUM_THREADS=$cores
step train "stage 2: train LEGO on frames, descriptions and features" train_lego
LEGO=$WORK/logs/train_toy_lego/checkpoints/last.ckpt
guided=$WORK/logs/distill_guidance_toy_guidance/checkpoints/best.ckpt
eight=$WORK/logs/distill_phases_toy_8/checkpoints/best.ckpt
FEW=$WORK/logs/distill_phases_toy_4/checkpoints/best.ckpt
distill guidance distill_guidance_toy "$GUIDE_STEPS" "$LEGO"
distill 8 distill_phases_toy "$PHASE_STEPS" "$guided" distill.phases=8
distill 4 distill_phases_toy "$PHASE_STEPS" "$guided" distill.phases=4 "distill.student=$eight"
step ship "write all in 16 bits" ship
step sample-lego "draw the val frames by the shipped LEGO" draw lego "sampling.steps=$DRAW_STEPS"
step sample-lego-4 "the same in four passes" draw lego-4 sampling.adapt=true
step evaluate "measure them" evaluate "$WORK/samples/lego" "$WORK/samples/lego-4"
step seal "write the manifest" python -m egogen.assets --folder "$OUT" --seal "$DATA_ROOT" --seed "$SEED" \
    --losses "$(newest_state)" --scores "lego=$WORK/samples/lego/metric/metric.json" "lego-4=$WORK/samples/lego-4/metric/metric.json"
python -m egogen.assets --folder "$OUT" --verify
print_steps
