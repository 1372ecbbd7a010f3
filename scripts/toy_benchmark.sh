#!/usr/bin/env bash
# The paper's table and ablation on the toy world: every system under one budget, several seeds, one report.
#   bash scripts/toy_benchmark.sh [--budget small|full] [--device cpu|cuda] [--seeds "0 1 2"] [--jobs N]
# small: one seed, minutes on two CPU cores; full: three seeds, an hour. --jobs systems train at a time.
# All systems start from the networks that ship, assets/toy.
# Results go to $RUN_ROOT/toy_benchmark/<budget>; the page to open at the end is report/index.html there.
# Ctrl-C ends it at any point; the same command goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

BUDGET=small DEVICE=cpu SEEDS= JOBS=
while (($#)); do
    case $1 in
        --budget | --device | --seeds | --jobs) (($# > 1)) || die "$1 needs a value" ;;
        *) die "argument '$1'; usage: bash scripts/toy_benchmark.sh [--budget small|full] [--device cpu|cuda] [--seeds LIST] [--jobs N]" ;;
    esac
    name=${1#--}
    declare "${name^^}=$2"
    shift 2
done

# What a budget buys: pairs, and steps of the text-to-image model. Stage 2: configs/benchmark/<budget>.yaml.
case $BUDGET in
    small) train=600 val=48 classifier=400 unet_steps=400 seeds=0 ;;
    full) train=3000 val=300 classifier=1000 unet_steps=3000 seeds="0 1 2" ;;
    *) die "--budget $BUDGET: allowed are small and full" ;;
esac
SEEDS=${SEEDS:-$seeds}
[[ $SEEDS =~ ^[0-9]+(\ [0-9]+)*$ ]] || die "--seeds '$SEEDS': expected whole numbers, such as \"0 1 2\""
read -ra seed_list <<<"$SEEDS"
declare -A seen=()
for seed in "${seed_list[@]}"; do
    [[ -z ${seen[$((10#$seed))]:-} ]] || die "--seeds '$SEEDS': each seed once"
    seen[$((10#$seed))]=yes
done
case $DEVICE in
    cpu) gpus=() jobs=$(getconf _NPROCESSORS_ONLN) ;;
    cuda) gpus=(--gpus 0) jobs=1 ;;
    *) die "--device $DEVICE: allowed are cpu and cuda" ;;
esac
JOBS=${JOBS:-$((jobs > 6 ? 6 : jobs))}
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || die "--jobs $JOBS: expected a whole number above 0"

SIZE=64      # of the frames and, squashed, of what the diffusion model draws
GUIDANCE=1.5 # by text, as the toy start is drawn
START=assets/toy
WORK=$RUN_ROOT/toy_benchmark/$BUDGET COMMAND="toy benchmark"
source scripts/steps.sh
export RUN_ROOT=$WORK DATA_ROOT=$WORK/toy/data
SD=$WORK/toy/start/sd.ckpt

# The systems: name, files to lay over train_toy.yaml and generate_toy.yaml.
declare -A TRAINED=(
    [lego]=configs/ablation/description_both.yaml
    [joint]=configs/ablation/description_both.yaml
    [image]=configs/ablation/description_image.yaml
    [text]=configs/ablation/description_text.yaml
    [description]=configs/ablation/description.yaml
    [untuned]=configs/ablation/untuned.yaml
    [ip2p]=configs/methods/ip2p.yaml
)
declare -A TRAINED_ON=([joint]=configs/benchmark/joint.yaml) # more than the others
TRAINED_ORDER=(lego joint image text description ip2p untuned)
OTHERS=(proxmasactrl proxnpi sdedit copy) # by the text-to-image model, or by nothing

# --- the parts of the flow -------------------------------------------------------------------------

# What the rows without training draw with, and the eyes of two metrics.
start_sd() {
    use_env ldm
    export OMP_NUM_THREADS=$half
    step start-sd "train a toy Stable Diffusion on the start's autoencoder and text encoder" \
        python -m ldm.toy --data-root "$DATA_ROOT" --resolution "$SIZE" --seed 0 --like "$START/ip2p.safetensors" \
        --out "$SD" --unet-steps "$unet_steps"
    step classifier "train the classifier that toy_fid and toy_similarity look through" \
        python -m ldm.toy.classifier --data-root "$DATA_ROOT" \
        --out "$WORK/weights/toy_classifier.safetensors" --steps "$classifier" --device "$DEVICE"
}

# Stage 1: describes with the tuned VLLM, and takes the features of the one it was tuned from.
stage_1() {
    local split
    use_env vllm
    export OMP_NUM_THREADS=$half
    for split in train val; do
        step "describe-$split" "stage 1: describe the $split frames and keep the features" \
            describe "$WORK/toy" "$START/vllm" "$split"
        step "joint-$split" "stage 1: the same of the other data set" \
            describe "$WORK/toy" "$START/vllm" "$split" epickitchen
        step "untuned-$split" "stage 1: features of the $split frames by the LLaVA before tuning" \
            describe "$WORK/untuned" "$START/llava" "$split"
    done
}

# train_one SEED SYSTEM: stage 2 of one system.
train_one() {
    local seed=$1 system=$2
    step "seed$seed-train-$system" "stage 2: train" env OMP_NUM_THREADS="$threads" \
        python main.py --train --name "$system" --logdir "$WORK/seed$seed/logs" --seed "$seed" "${gpus[@]}" \
        --base configs/train_toy.yaml "configs/benchmark/$BUDGET.yaml" "${TRAINED[$system]}" ${TRAINED_ON[$system]:-}
}

# draw SEED OUT METHOD CHECKPOINT FILE...: the seed's own share of the val split.
draw() {
    local seed=$1 out=$2 method=$3 checkpoint=$4 index shard
    shift 4
    for index in "${!seed_list[@]}"; do
        if [[ ${seed_list[$index]} == "$seed" ]]; then shard=$((index + 1))/${#seed_list[@]}; fi
    done
    env OMP_NUM_THREADS="$threads" python -m ldm.sample --method "$method" \
        ${checkpoint:+--ckpt "$checkpoint"} --device "$DEVICE" --out "$out" --shard "$shard" \
        --config configs/generate_toy.yaml "$@" \
        "data.resolution=$SIZE" "sampling.height=$SIZE" "sampling.seed=$seed"
}

# Every checkpoint of a trained system draws: the last one for the table, all of them for the curve.
draw_trained() {
    local seed=$1 system=$2 file number method=lego
    [[ $system != ip2p && $system != description ]] || method=ip2p
    for file in "$WORK/seed$seed/logs/train_toy_$system/checkpoints"/step=*.ckpt; do
        number=$(basename "$file" .ckpt)
        draw "$seed" "$WORK/seed$seed/steps/$system/$((10#${number##*[!0-9]}))" "$method" "$file" \
            "${TRAINED[$system]}" "sampling.scales_txt=[$GUIDANCE]"
    done
}

draw_other() {
    local seed=$1 method=$2 checkpoint=$SD files=("configs/methods/$2.yaml")
    case $method in
        copy) checkpoint='' files=() ;;
        proxmasactrl) files+=(proxmasactrl.masa_layer=4) ;; # of 7 blocks: the decoder, as 10 is of 16
    esac
    draw "$seed" "$WORK/seed$seed/samples/$method" "$method" "$checkpoint" "${files[@]}"
}

# A lane takes every JOBS-th of the jobs of stage 2, in the order above.
lane() {
    local number=$1 index=0 seed system
    for seed in "${seed_list[@]}"; do
        for system in "${TRAINED_ORDER[@]}" "${OTHERS[@]}"; do
            if ((index++ % JOBS != number)); then continue; fi
            if [[ -n ${TRAINED[$system]:-} ]]; then
                train_one "$seed" "$system"
                step "seed$seed-draw-$system" "stage 2: draw" draw_trained "$seed" "$system"
            else
                step "seed$seed-draw-$system" "draw" draw_other "$seed" "$system"
            fi
        done
    done
}

evaluate() {
    local metrics=$1
    shift
    python -m ldm.evaluate --dataset ego4d --gt_path "$METRIC_TARGETS" \
        --edit_file "$DESCRIBED" --metadata "$METADATA" --metrics "$metrics" \
        --weights "$WORK/weights" --device "$DEVICE" --published none "$@"
}

# The frames of all seeds, one share each, become one run for every system, and one for every point of its curve.
join_seeds() {
    local system folder number
    for system in "${TRAINED_ORDER[@]}"; do
        for folder in "$WORK/seed${seed_list[0]}/steps/$system"/*/; do
            number=$(basename "$folder")
            python -m ldm.report.pool "${seed_list[@]/#/$WORK/seed}" --below "steps/$system/$number" \
                --out "$WORK/points/$system/$number"
        done
        ln -sfn "../points/$system/$(last_step "$system")" "$WORK/samples/$system"
    done
    for system in "${OTHERS[@]}"; do
        python -m ldm.report.pool "${seed_list[@]/#/$WORK/seed}" --below "samples/$system" --out "$WORK/samples/$system"
    done
}

last_step() {
    local folder last=0
    for folder in "$WORK/seed${seed_list[0]}/steps/$1"/*/; do
        (($(basename "$folder") > last)) && last=$(basename "$folder")
    done
    echo "$last"
}

# All points of all curves at once; names tell them apart.
curves() {
    local folder folders=() names=()
    for folder in "$WORK/points"/*/*/; do
        folders+=("$folder")
        names+=("$(basename "$(dirname "$folder")")-$(basename "$folder")")
    done
    evaluate toy_success --bootstrap 0 --gen_path "${folders[@]}" --name "${names[@]}"
    python -m ldm.report.over_steps "$WORK/points" --out "$WORK/curves"
}

# What the paper claims.
CLAIMS=("lego>ip2p" "ip2p>sdedit" "ip2p>proxnpi" "ip2p>proxmasactrl" "description>ip2p" "image>description"
    "text>description" "lego>description" "lego>untuned" "joint>lego")

# --- the flow --------------------------------------------------------------------------------------

begin_steps "budget $BUDGET, device $DEVICE, seeds $SEEDS, size $SIZE, train $train, val $val, start $START"
run_group bash scripts/setup.sh all || die "the set-up failed; its message is above"
cores=$(getconf _NPROCESSORS_ONLN)
threads=$((cores > JOBS ? cores / JOBS : 1)) # of each of the systems that train at a time
half=$((cores > 1 ? cores / 2 : 1))          # of the text-to-image model and of stage 1, side by side
mkdir -p "$WORK/samples" "$WORK/report"

use_env ldm
RUN_ROOT=$WORK/toy paths ego4d val
[[ $DEVICE == cpu ]] || python -m ldm.networks.devices "$DEVICE" # missed now, and not after the first training
step data "draw egocentric pairs of frames with labels and descriptions" \
    python -m egogen.toy --out "$DATA_ROOT" --train "$train" --val "$val" --size "$SIZE" --seed 0

side_by_side start_sd stage_1

use_env ldm
lanes_of_jobs=()
for ((number = 0; number < JOBS; number++)); do
    lanes_of_jobs+=("lane $number")
done
side_by_side "${lanes_of_jobs[@]}"

step join "join the seeds' shares of the val split" join_seeds
step curves "success over training steps" curves
step evaluate "measure every system" evaluate psnr,psnr_box,ssim,ssim_box,toy_success,toy_fid,toy_similarity \
    --gen_path "${TRAINED_ORDER[@]/#/$WORK/samples/}" "${OTHERS[@]/#/$WORK/samples/}" \
    --name "${TRAINED_ORDER[@]}" "${OTHERS[@]}"
step report "table, intervals, tests, pictures and curves on one page" \
    python -m ldm.report "${TRAINED_ORDER[@]/#/$WORK/samples/}" "${OTHERS[@]/#/$WORK/samples/}" \
    --out "$WORK/report" --title "The paper's table on the toy world, budget $BUDGET" --published none \
    --annotations "$DESCRIBED" --frames "$FRAMES" --logs "success over steps=$WORK/curves"
step claims "the paper's claims, pair by pair" \
    python -m ldm.report.claims "$WORK/samples" "${CLAIMS[@]}" --out "$WORK/report/claims.md"

print_steps
printf '\nclaims: %s\nreport: %s\n' "$WORK/report/claims.md" "$WORK/report/index.html"
