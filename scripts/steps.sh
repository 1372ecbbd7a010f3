# Sourced by the scripts that run a whole flow: steps that run once, some of them side by side, Ctrl-C and all.
# Needs WORK, the folder of results, and COMMAND, what to type to go on. A finished step leaves its seconds in
# $WORK/.done/<name>.
# shellcheck shell=bash
DONE=$WORK/.done
STEPS=()
step_pid=
lanes=()

# The child runs in a process group of its own, so that all of its processes can be ended with it.
run_group() {
    local code=0
    set -m
    "$@" </dev/null &
    step_pid=$!
    set +m
    wait "$step_pid" || code=$?
    step_pid=
    return "$code"
}

interrupted() {
    trap '' INT TERM HUP
    if ((${#lanes[@]})); then
        kill -TERM "${lanes[@]}" 2>/dev/null || true
        wait "${lanes[@]}" || true
    fi
    if [[ -n $step_pid ]]; then
        kill -INT -- "-$step_pid" 2>/dev/null || true
        for _ in {1..50}; do
            kill -0 -- "-$step_pid" 2>/dev/null || break
            sleep 0.2
        done
        kill -KILL -- "-$step_pid" 2>/dev/null || true
    fi
    [[ -n ${in_lane:-} ]] || echo "$COMMAND: stopped; the same command goes on where it stopped" >&2
    exit 130
}
trap interrupted INT TERM HUP

# step NAME WHY COMMAND...: runs a command once; a finished step is skipped the next time.
step() {
    local name=$1 why=$2 begin code=0
    shift 2
    STEPS+=("$name")
    if [[ -f $DONE/$name ]]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name: $why"
    begin=$SECONDS
    run_group "$@" || code=$?
    ((code == 0)) || die "step '$name' failed with code $code after $((SECONDS - begin)) s; the same command tries it again"
    echo $((SECONDS - begin)) >"$DONE/$name"
    echo "== $name: $(<"$DONE/$name") s"
}

# side_by_side LANE...: runs functions that make steps, all at the same time; ends the script if one fails.
side_by_side() {
    local lane code=0
    for lane in "$@"; do
        {
            in_lane=yes lanes=()
            trap interrupted INT TERM HUP
            $lane # words: a function and its arguments
        } </dev/null &
        lanes+=($!)
    done
    for lane in "${lanes[@]}"; do
        wait "$lane" || code=$?
    done
    lanes=()
    ((code == 0)) || exit "$code"
}

# begin_steps SETTINGS: opens the folder of results, or checks that it was begun with the same settings.
begin_steps() {
    mkdir -p "$DONE"
    if [[ -f $WORK/settings && $(<"$WORK/settings") != "$1" ]]; then
        die "$WORK was begun with $(<"$WORK/settings"); this run has $1." \
            "Delete that folder, or choose another with RUN_ROOT=DIR"
    fi
    echo "$1" >"$WORK/settings"
    echo "== $COMMAND: $1 -> $WORK"
}

# Seconds of every step so far, in the order given or, without one, by name.
print_steps() {
    local name total=0 seconds
    (($#)) || { cd "$DONE" && set -- * && cd "$OLDPWD"; }
    printf '\n%-28s %7s\n' step seconds
    for name in "$@"; do
        seconds=$(<"$DONE/$name")
        total=$((total + seconds))
        printf '%-28s %7d\n' "$name" "$seconds"
    done
    printf '%-28s %7d\n' 'all steps' "$total"
}

# describe RUNS MODEL SPLIT [DATASET]: scripts/describe.sh on the toy world by a VLLM, with results below RUNS.
describe() {
    env NPROC=1 RUN_ROOT="$1" MODEL="$2" bash scripts/describe.sh "${4:-ego4d}" "$3"
}
