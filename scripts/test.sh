#!/usr/bin/env bash
# Sets up, then checks everything: style, types, import contracts, all tests and their coverage.
#   bash scripts/test.sh          everything; what .ci/run calls
#   bash scripts/test.sh --fast   without the tests marked slow, without coverage
#   bash scripts/test.sh --lint   style, types and import contracts alone
#   bash scripts/test.sh --long   the tests marked long alone: the toy benchmark's small budget, the toy start's rebuilding,
#                                 training over two hosts (network namespaces; root)
#   bash scripts/test.sh --faults every cell of the table of faults; writes its verdicts into docs/reliability.md
#   bash scripts/test.sh --mutants small changes to the heart of the code, one by one: how many do the tests notice?
# A check that fails does not stop the others; its output is shown and the script ends with code 1.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

mode=${1:---all}
case $mode in
    --all | --fast | --lint | --long | --faults | --mutants) ;;
    *) die "argument '$mode'; usage: bash scripts/test.sh [--fast | --lint | --long | --faults | --mutants]" ;;
esac

start=$SECONDS
bash scripts/setup.sh all
work=$(mktemp -d)
mkdir "$work/coverage"
trap 'rm -rf "$work"' EXIT
unset DATA_ROOT RUN_ROOT WEIGHTS_ROOT # tests make their own
export HF_HUB_OFFLINE=1               # no test may fetch
export COVERAGE=$work/coverage # tests/measured.py

# check NAME COMMAND...: one line with verdict and seconds; the whole output of a command that fails.
check() {
    local name=$1 begin=$SECONDS log
    shift
    log=$work/${name// /-}.log
    if "$@" >"$log" 2>&1; then
        printf 'ok      %-24s %4d s   %s\n' "$name" $((SECONDS - begin)) "$(tail -n 1 "$log")"
    else
        printf 'FAILED  %-24s %4d s\n' "$name" $((SECONDS - begin)) | tee -a "$work/failed" | cat - "$log"
    fi
}

scripts_parse() {
    local script
    for script in scripts/*.sh benchmarks/*.sh .ci/run; do
        bash -n "$script" || return
    done
}

# tests NAME WORD...: their files lie in a folder of this run: pytest's own would first remove those of earlier runs,
# tens of thousands.
tests() {
    local choice=()
    [[ $mode != --fast ]] || choice=(-m "not slow")
    python -m pytest "${choice[@]}" -q --durations=10 -o "cache_dir=.pytest_cache/$1" --basetemp "$(mktemp -d "$work/XXXX")" "${@:2}"
}

# The same with their coverage.
measured() {
    local measure=(-p tests.measured)
    [[ $mode != --fast ]] || measure=()
    tests "$1" "${measure[@]}" "${@:2}"
}

coverage_of_both() {
    python -m slipcover --branch --merge "$work"/coverage/*.json --out "$work/coverage.json"
}

# Tests of stage 2 in other lanes, so that all take as long; in that of the rest those that wait for other processes.
WITH_VLLM=(tests/ldm/baselines tests/ldm/test_flow.py)
REST=(tests/ldm/page tests/ldm/test_{documents_run,feature_stores,hostile,notebook,reproduce,resume,trackers,wheel}.py)

# The documents as a site: a link or anchor to nothing, a page outside the navigation, or a part from elsewhere fails.
site() {
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir "$work/site"
}

# The checks, in lanes side by side: of stage 1, of stage 2, and the rest of both.
lane_vllm() {
    use_env vllm
    check "shell syntax" scripts_parse
    check "ruff check" ruff check .
    check "ruff format" ruff format --check .
    check "import contracts" lint-imports --no-cache
    check "types, vllm" mypy --cache-dir .mypy_cache/vllm egogen llava
    [[ $mode != --lint ]] || return 0
    check "tests, vllm" measured vllm tests/egogen tests/llava
    use_env ldm
    check "tests, ldm, a part" measured ldm_part "${WITH_VLLM[@]}"
}

lane_ldm() {
    local elsewhere=("${WITH_VLLM[@]}" "${REST[@]}")
    use_env ldm
    check "types, ldm" mypy --cache-dir .mypy_cache/ldm egogen ldm main.py app.py
    [[ $mode == --lint ]] || check "tests, ldm" measured ldm tests/ldm "${elsewhere[@]/#/--ignore=}"
}

lane_rest() {
    use_env vllm
    check "site" site
    [[ $mode != --lint ]] || return 0
    check "tests, vllm, the rest" tests vllm_rest tests/faults tests/test_*.py
    use_env ldm
    check "tests, ldm, the rest" measured ldm_rest tests/faults "${REST[@]}" tests/browser tests/egogen/test_prepare_judge.py
}

if [[ $mode == --long ]]; then
    status=0 # with all cores
    (use_env vllm && python -m pytest -q -o cache_dir=.pytest_cache/long -m long tests/test_*.py tests/egogen tests/llava tests/hosts) || status=$?
    (use_env ldm && python -m pytest -q -o cache_dir=.pytest_cache/long -m long tests/ldm tests/hosts) || status=$?
    exit "$status"
fi

if [[ $mode == --faults ]]; then # one environment after the other: both write the one page
    status=0
    for name in vllm ldm; do
        (use_env "$name" && python -m pytest -q -o cache_dir=.pytest_cache/faults -m "faults or not faults" \
            --write-verdicts tests/faults) || status=1
    done
    exit "$status"
fi

if [[ $mode == --mutants ]]; then # hours; what is made stays in build/mutants, and the next run goes on from it
    export OMP_NUM_THREADS=1
    status=0
    for name in vllm ldm; do
        (use_env "$name" && python -m pip install --quiet -c "requirements/$name.lock" mutmut==3.8.1 && python -m tests.mutation "$name") || status=1
    done
    exit "$status"
fi

# Side by side where there are two cores and 10 GiB; else one after the other.
cores=$(getconf _NPROCESSORS_ONLN)
free_gib=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo 2>/dev/null || echo 10)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 5 ? cores / 3 : 1))}
trap 'kill -- $(jobs -p | sed "s/^/-/") 2>/dev/null || true; exit 130' INT TERM
set -m # a lane is a process group, which Ctrl-C ends as a whole
lanes=(lane_vllm lane_ldm lane_rest)
for lane in "${lanes[@]}"; do
    # A lane that ends half-way, killed for memory or without its environment, is a check that failed.
    { "$lane"; touch "$work/$lane"; } </dev/null &
    ((cores >= 2 && free_gib >= 10)) || wait
done
set +m
wait
for lane in "${lanes[@]}"; do
    [[ -f $work/$lane ]] || echo "FAILED  $lane ended before its checks did" | tee -a "$work/failed"
done

# Tests of the page in a browser (tests/ldm/page/test_browser.py) need one.
why=
command -v "${CHROMIUM:-chromium}" chromium-browser google-chrome google-chrome-stable >/dev/null ||
    why="no Chromium here; install one (Debian: apt-get install chromium) or name it in CHROMIUM"
[[ $mode != --fast ]] || why="--fast leaves them out"
[[ -z $why || $mode == --lint ]] || echo "not run tests of the page in a browser: $why"

if [[ $mode == --all ]]; then
    use_env vllm
    check "coverage" coverage_of_both
fi
if [[ -f $work/failed ]]; then
    echo "$(wc -l <"$work/failed") of the checks failed after $((SECONDS - start)) s:" && cat "$work/failed"
    exit 1
fi
echo "all checks passed in $((SECONDS - start)) s"
