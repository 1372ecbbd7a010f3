#!/usr/bin/env bash
# Fewer UNet passes a frame, on one strong toy LEGO: how far down, and what it costs.
#   bash scripts/toy_fast.sh [--budget small|full] [--seeds "0 1 2"] [--teacher FILE] [--vllm DIR]
# small: one seed, a look at every row; full: three seeds, 150 frames, distillations of hours.
# The teacher is the LEGO that ships with its VLLM, assets/toy, unless flags name others.
# Results go to $RUN_ROOT/toy_fast/<budget>; the page to open at the end is report/index.html there.
# Ctrl-C ends it at any point; the same command goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

BUDGET=small SEEDS= TEACHER=assets/toy/lego.safetensors VLLM=assets/toy/vllm
while (($#)); do
    case $1 in
        --budget | --seeds | --teacher | --vllm) (($# > 1)) || die "$1 needs a value" ;;
        *) die "argument '$1'; usage: bash scripts/toy_fast.sh [--budget small|full] [--seeds LIST] [--teacher FILE] [--vllm DIR]" ;;
    esac
    name=${1#--}
    declare "${name^^}=$2"
    shift 2
done
TUNED=$VLLM # `paths` has a VLLM of its own
# What a budget buys: pairs, and steps of each distillation.
case $BUDGET in
    small) train=500 val=24 classifier=400 guidance=300 phases=150 seeds=0 ;;
    full) train=4000 val=150 classifier=1000 guidance=5000 phases=2000 seeds="0 1 2" ;;
    *) die "--budget $BUDGET: allowed are small and full" ;;
esac
SEEDS=${SEEDS:-$seeds}
[[ $SEEDS =~ ^[0-9]+(\ [0-9]+)*$ ]] || die "--seeds '$SEEDS': expected whole numbers, such as \"0 1 2\""
read -ra seed_list <<<"$SEEDS"

SIZE=64
SCALES=(2.5 1.5) # by text and features, by the frame: three passes a step
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

checkpoint() {
    if [[ $1 == teacher ]]; then echo "$TEACHER"; else echo "$WORK/logs/$1/checkpoints/last.ckpt"; fi
}

# distill NAME CONFIG STEPS WORD...: one distillation; its run is logs/NAME.
distill() {
    local name=$1 config=$2 steps=$3
    shift 3
    step "distill-$name" "distil: $name" python -m ldm.distill --train --name "$name" --logdir "$WORK/runs" \
        --base "configs/$config.yaml" "$@" "data.resolution=$SIZE" "trainer.max_steps=$steps" \
        "sampling.scales_txt=[${SCALES[0]}]" "sampling.scales_img=[${SCALES[1]}]"
    mkdir -p "$WORK/logs" && ln -sfn "../runs/${config}_$name" "$WORK/logs/$name"
}

# draw SEED: every row, the seed's own share of the val split.
draw() {
    local seed=$1 index shard row words name source settings
    for index in "${!seed_list[@]}"; do
        if [[ ${seed_list[$index]} == "$seed" ]]; then shard=$((index + 1))/${#seed_list[@]}; fi
    done
    for row in "${ROWS[@]}"; do
        read -ra words <<<"$row"
        name=${words[0]} source=${words[1]} settings=("${words[@]:2}")
        python -m ldm.sample --config configs/generate_toy.yaml --ckpt "$(checkpoint "$source")" --shard "$shard" \
            --out "$WORK/seed$seed/points/$name" "data.resolution=$SIZE" "sampling.height=$SIZE" \
            "sampling.seed=$seed" "sampling.scales_txt=[${SCALES[0]}]" "sampling.scales_img=[${SCALES[1]}]" \
            "${settings[@]/#/sampling.}"
    done
}

# join_seeds FOLDER: the shares of all seeds become one run for every row, below FOLDER.
join_seeds() {
    local row
    for row in "${ROWS[@]}"; do
        python -m ldm.report.pool "${seed_list[@]/#/$WORK/seed}" --below "points/${row%% *}" --out "$1/${row%% *}"
    done
}

# evaluate FOLDER TARGETS METRICS WORD...: every row below FOLDER, held to these targets.
evaluate() {
    local folder=$1 targets=$2 metrics=$3 row folders=() names=()
    shift 3
    for row in "${ROWS[@]}"; do
        folders+=("$folder/${row%% *}")
        row=${row%% *}
        names+=("${row/\//-}")
    done
    python -m ldm.evaluate --dataset ego4d --gt_path "$targets" --edit_file "$DESCRIBED" --weights "$WORK/weights" \
        --published none --metrics "$metrics" --gen_path "${folders[@]}" --name "${names[@]}" "$@"
}

report() {
    local row folders=() close=()
    for row in "${ROWS[@]}"; do
        folders+=("$WORK/points/${row%% *}")
        close+=("$WORK/close/${row%% *}")
    done
    python -m ldm.report.over_steps "$WORK/points" --out "$WORK/curves/success"
    python -m ldm.report.over_steps "$WORK/points" --metric toy_fid --out "$WORK/curves/fid"
    python -m ldm.report "${folders[@]}" --out "$WORK/report" --title "Fewer passes a frame, budget $BUDGET" \
        --published none --annotations "$DESCRIBED" --frames "$FRAMES" --logs "over passes=$WORK/curves"
    python -m ldm.report "${close[@]:1}" --out "$WORK/report/to_teacher" --published none \
        --title "PSNR to the frames that the teacher draws in 600 passes"
}

# --- the flow --------------------------------------------------------------------------------------

begin_steps "budget $BUDGET, seeds $SEEDS, teacher $TEACHER, vllm $TUNED"
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
step join "join the seeds' shares of the val split" join_seeds "$WORK/points"
step evaluate "measure every row" evaluate "$WORK/points" "$METRIC_TARGETS" \
    psnr,ssim,toy_success,toy_hand,toy_object,toy_place,toy_fid --metadata "$METADATA"
step join-close "the same frames, to be held to the teacher's" join_seeds "$WORK/close"
step to-teacher "measure how far each row is from the teacher's 200 steps" \
    evaluate "$WORK/close" "$WORK/points/teacher/600/images" psnr
step report "table, tests, pictures and curves on one page" report
step claims "what few passes should not lose" python -m ldm.report.claims "$WORK/points" \
    "teacher/60>guidance/20" "teacher/60>phases/4" "phases/4>direct/4" "phases/4>ddim/12" --out "$WORK/report/claims.md"

print_steps
printf '\nreport: %s\n' "$WORK/report/index.html"
