#!/usr/bin/env bash
# Fewer UNet passes a frame, on one strong toy LEGO: how far down, and what it costs.
#   bash scripts/toy_fast.sh [--budget small|full] [--seeds "0 1 2"] [--teacher FILE] [--vllm DIR] [--students DIR]
# small: one seed, a look at every row; full: three seeds, 150 frames, distillations of an hour or more.
# The teacher is the LEGO that ships with its VLLM, assets/toy, unless flags name others. --students: logs of
# make_toy_assets.sh, whose distillations of guidance and into 8 and 4 phases are taken in place of new ones.
# TRAIN and VAL (pairs) and PHASE_STEPS change the budget.
# Results go to $RUN_ROOT/toy_fast/<budget>; the page to open at the end is report/index.html there.
# Ctrl-C ends it at any point; the same command goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

BUDGET=small SEEDS= TEACHER=assets/toy/lego.safetensors VLLM=assets/toy/vllm STUDENTS=
while (($#)); do
    case $1 in
        --budget | --seeds | --teacher | --vllm | --students) (($# > 1)) || die "$1 needs a value" ;;
        *) die "argument '$1'; usage: bash scripts/toy_fast.sh [--budget small|full] [--seeds LIST] [--teacher FILE] [--vllm DIR] [--students DIR]" ;;
    esac
    name=${1#--}
    declare "${name^^}=$2"
    shift 2
done
TUNED=$VLLM # `paths` has a VLLM of its own
# What a budget buys: pairs, and steps of each distillation.
case $BUDGET in
    small) train=500 val=24 classifier=400 guidance=300 phases=150 validate=3 seeds=0 ;;
    full) train=4000 val=150 classifier=1000 guidance=5000 phases=2000 validate=1 seeds="0 1 2" ;;
    *) die "--budget $BUDGET: allowed are small and full" ;;
esac
SEEDS=${SEEDS:-$seeds} train=${TRAIN:-$train} val=${VAL:-$val} phases=${PHASE_STEPS:-$phases}
[[ $SEEDS =~ ^[0-9]+(\ [0-9]+)*$ ]] || die "--seeds '$SEEDS': expected whole numbers, such as \"0 1 2\""
read -ra seed_list <<<"$SEEDS"

SIZE=64
SCALES=(1.5 1.2) # by text and features, by the frame: three passes a step
WORK=$RUN_ROOT/toy_fast/$BUDGET COMMAND="toy fast"
source scripts/steps.sh
export RUN_ROOT=$WORK DATA_ROOT=$WORK/toy/data

# --- what is drawn ---------------------------------------------------------------------------------

# The rows: SYSTEM/PASSES, whose checkpoint, settings. The first is the teacher's long way, which others are held to.
interval="interval_txt=[0.28,5.42] interval_img=[0.28,5.42]" # of SDXL (Kynkaanniemi et al. 2024)
ROWS=(
    "teacher/600 teacher scheduler=ddim steps=200"
    "teacher/300 teacher scheduler=euler_ancestral steps=100"
    "teacher/150 teacher scheduler=euler_ancestral steps=50"
    "teacher/75 teacher scheduler=dpmpp_2m steps=25"
    "teacher/60 teacher scheduler=dpmpp_2m steps=20"
    "teacher/30 teacher scheduler=dpmpp_2m steps=10"
    "interval/122 teacher scheduler=euler_ancestral steps=50 $interval"
    "interval/63 teacher scheduler=dpmpp_2m steps=25 $interval"
    "interval/50 teacher scheduler=dpmpp_2m steps=20 $interval"
    "interval/24 teacher scheduler=dpmpp_2m steps=10 timesteps=ays $interval"
    "unguided/20 teacher scheduler=dpmpp_2m steps=20 scales_txt=[1] scales_img=[1]"
    "guidance/100 guidance scheduler=euler_ancestral steps=100"
    "guidance/20 guidance scheduler=dpmpp_2m steps=20"
    "guidance/10 guidance scheduler=dpmpp_2m steps=10"
    "ddim/12 teacher scheduler=ddim_trailing steps=4"
    "ddim/6 teacher scheduler=ddim_trailing steps=2"
    "phases/8 phases8 scheduler=ddim_trailing steps=8"
    "phases/4 phases4 scheduler=ddim_trailing steps=4"
    "phases/2 phases2 scheduler=ddim_trailing steps=2"
    "phases/1 phases1 scheduler=ddim_trailing steps=1"
    "direct/4 direct4 scheduler=ddim_trailing steps=4"
)

# Of a distillation the best one by its validation: longer training may get worse.
checkpoint() {
    if [[ $1 == teacher ]]; then echo "$TEACHER"; else echo "$WORK/logs/$1/checkpoints/best.ckpt"; fi
}

# distill NAME CONFIG STEPS WORD...: one distillation; its run is logs/NAME. One that is there already is taken.
distill() {
    local name=$1 config=$2 steps=$3 made=$STUDENTS/${2}_${1#phases}
    shift 3
    if [[ -n $STUDENTS && -f $STUDENTS/../.done/distill-${name#phases} ]]; then
        mkdir -p "$WORK/logs" && ln -sfn "$(cd "$made" && pwd -P)" "$WORK/logs/$name"
        echo "== distill-$name: $made is taken"
        return
    fi
    step "distill-$name" "distil: $name" python -m ldm.distill --train --name "$name" --logdir "$WORK/runs" \
        --base "configs/$config.yaml" "$@" "data.resolution=$SIZE" "trainer.max_steps=$steps" \
        "trainer.validate_every_epochs=$validate" trainer.threads=0 \
        "sampling.scales_txt=[${SCALES[0]}]" "sampling.scales_img=[${SCALES[1]}]"
    mkdir -p "$WORK/logs" && ln -sfn "../runs/${config}_$name" "$WORK/logs/$name"
}

# draw SEED: every row, all of the val split.
draw() {
    local seed=$1 row words name source settings
    for row in "${ROWS[@]}"; do
        read -ra words <<<"$row"
        name=${words[0]} source=${words[1]} settings=("${words[@]:2}")
        python -m ldm.sample --config configs/generate_toy.yaml --ckpt "$(checkpoint "$source")" \
            --out "$WORK/seed$seed/$name" "data.resolution=$SIZE" "sampling.height=$SIZE" sampling.format=png \
            "sampling.seed=$seed" "sampling.scales_txt=[${SCALES[0]}]" "sampling.scales_img=[${SCALES[1]}]" \
            "${settings[@]/#/sampling.}"
    done
}

# evaluate SEED: every row.
evaluate() {
    local row folders=() names=()
    for row in "${ROWS[@]}"; do
        row=${row%% *}
        folders+=("$WORK/seed$1/$row")
        names+=("${row/\//-}")
    done
    python -m ldm.evaluate --dataset ego4d --gt_path "$METRIC_TARGETS" --edit_file "$DESCRIBED" --weights "$WORK/weights" \
        --metrics psnr,ssim,toy_success,toy_hand,toy_object,toy_place,toy_fid --metadata "$METADATA" --bootstrap 0 \
        --published none --gen_path "${folders[@]}" --name "${names[@]}"
}

# What few passes should not lose (shares of frames; toy FID), and the rows to look at.
LIMITS=(
    "guidance/20 within 0.03 of teacher/60 in toy_success"
    "guidance/20 within 5% of teacher/60 in toy_fid"
    "guidance/100 within 0.03 of teacher/300 in toy_success"
    "guidance/100 within 5% of teacher/300 in toy_fid"
    "phases/4 within 0.05 of teacher/60 in toy_success"
    "phases/4 within 0.05 of teacher/300 in toy_success"
    "interval/24 within 0.03 of teacher/300 in toy_success"
    "interval/50 within 0.03 of teacher/300 in toy_success"
    "direct/4 within 0 of phases/4 in toy_success"
    "ddim/12 within 0 of phases/4 in toy_success"
)
SHOWN=(teacher/300 interval/24 guidance/20 phases/4 phases/1 ddim/6)

report() {
    python -m ldm.report.passes "${seed_list[@]/#/$WORK/seed}" --out "$WORK/report" --limits "${LIMITS[@]}" \
        --title "Fewer UNet passes a frame, budget $BUDGET" --reference teacher/600 --show "${SHOWN[@]}" \
        --curves toy_success toy_fid frames_per_second --annotations "$DESCRIBED" --frames "$FRAMES"
}

# --- the flow --------------------------------------------------------------------------------------

[[ -z $STUDENTS || $TEACHER == assets/toy/lego.safetensors ]] || die "--students: are of the teacher that ships; leave --teacher out"
[[ -z $STUDENTS || -d $STUDENTS ]] || die "--students $STUDENTS: no such folder; expected logs of make_toy_assets.sh"
begin_steps "budget $BUDGET, train $train, val $val, phases $phases, seeds $SEEDS, teacher $TEACHER, vllm $TUNED${STUDENTS:+, students $STUDENTS}"
run_group bash scripts/setup.sh all || die "the set-up failed; its message is above"
use_env ldm
RUN_ROOT=$WORK/toy paths ego4d val
step data "draw egocentric pairs of frames with labels and descriptions" \
    python -m egogen.toy --out "$DATA_ROOT" --train "$train" --val "$val" --size "$SIZE" --seed 0
step classifier "train the classifier that toy_fid looks through" python -m ldm.toy.classifier \
    --data-root "$DATA_ROOT" --out "$WORK/weights/toy_classifier.safetensors" --steps "$classifier"
use_env vllm
for split in train val; do
    step "describe-$split" "stage 1: describe the $split frames and keep the features" \
        describe "$WORK/toy" "$TUNED" "$split"
done

use_env ldm
distill guidance distill_guidance_toy "$guidance" --teacher "$TEACHER"
student=
for count in 8 4 2 1; do
    distill "phases$count" distill_phases_toy "$phases" --teacher "$(checkpoint guidance)" \
        "distill.phases=$count" ${student:+"distill.student=$student"}
    student=$(checkpoint "phases$count")
done
distill direct4 distill_phases_toy "$phases" --teacher "$TEACHER" distill.phases=4

for seed in "${seed_list[@]}"; do step "draw-$seed" "draw every row" draw "$seed"; done
for seed in "${seed_list[@]}"; do step "evaluate-$seed" "measure every row" evaluate "$seed"; done
step report "table, limits, pictures and curves on one page" report

print_steps
printf '\nlimits: %s\nreport: %s\n' "$WORK/report/limits.md" "$WORK/report/index.html"
