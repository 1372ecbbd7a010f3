#!/usr/bin/env bash
# Every benchmark, one after the other, on a machine that does nothing else; JSON of each, and one page of tables.
#   bash benchmarks/all.sh [--device cpu|cuda] [--quick] [--out FOLDER]
# By default sizes are true where a device can bear them: on a CPU Stable Diffusion 1.5 for drawing, the toy's for training
# and describing. --quick takes small ones everywhere. Results go to $RUN_ROOT/benchmarks/<device>; a figure that is there
# already is not measured again (another --out, or delete its JSON).
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/env.sh"

usage="usage: bash benchmarks/all.sh [--device cpu|cuda] [--quick] [--out FOLDER]"
DEVICE=cpu QUICK= OUT=
while (($#)); do
    case $1 in
        --quick) QUICK=yes ;;
        --device | --out)
            (($# > 1)) || die "$1 needs a value; $usage"
            name=${1#--}
            declare "${name^^}=$2"
            shift
            ;;
        *) die "argument '$1'; $usage" ;;
    esac
    shift
done
case $DEVICE in
    cpu) draw=(--size sd15) train=(--size toy) describe=(--size toy) methods=(--steps 4) pairs=4 ;;
    cuda) draw=(--size sd15 --repeats 3) train=(--size sd15) describe=(--size 13b) methods=() pairs=256 ;;
    *) die "--device $DEVICE: allowed are cpu and cuda; $usage" ;;
esac
if [[ -n $QUICK ]]; then
    draw=(--size toy --whole 100) train=(--size toy --seconds 2) methods=(--size toy --steps 4) pairs=2
    describe=(--size toy --frames 16 --published-frames 2 --tokens 32 --rounds 1)
fi
OUT=${OUT:-$RUN_ROOT/benchmarks/$DEVICE${QUICK:+_quick}}
mkdir -p "$OUT"

failed=()
# measure NAME ENVIRONMENT SCRIPT ARGS...
measure() {
    local name=$1
    [[ -f $OUT/$name.json ]] && echo "$name: is there" && return
    echo "== $name"
    (use_env "$2" && python "benchmarks/$3" "${@:4}" --json "$OUT/$name.json") || failed+=("$name")
}

measure peak ldm peak.py --device "$DEVICE"
measure draw ldm ldm_presets.py "${draw[@]}" --device "$DEVICE"
measure batches ldm ldm_sample.py --device "$DEVICE" ${QUICK:+--seconds 2}
measure methods ldm methods.py "${methods[@]}" --device "$DEVICE"
measure train ldm ldm_train.py "${train[@]}" --device "$DEVICE"
measure describe vllm describe.py "${describe[@]}" --device "$DEVICE"
measure evaluate ldm evaluate.py --pairs "$pairs" --batch "$pairs" --device "$DEVICE"
measure pairs ldm ldm_data.py ${QUICK:+--pairs 16}
measure features vllm features.py ${QUICK:+--pairs 16} --device "$DEVICE"
measure page ldm page.py ${QUICK:+--requests 16} --device "$DEVICE"
measure prepare ldm prepare.py ${QUICK:+--seconds 10 --actions 2000}
measure scale ldm scale.py ${QUICK:+--items 1000}

use_env ldm
python benchmarks/collect.py "$OUT" | tee "$OUT/summary.md"
((!${#failed[@]})) || die "not measured: ${failed[*]}; their messages are above"
