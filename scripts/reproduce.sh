#!/usr/bin/env bash
# From nothing to the paper's row beside the published one: downloads, describes, draws, measures, reports.
#   bash scripts/reproduce.sh ego4d|epickitchen [--from checkpoints|features|frames] [--metrics NAME,...] [--dry-run]
# --from says what is the authors' besides frames and labels: both tuned models (checkpoints, the default); stage 1's
# descriptions and features and the tuned diffusion model (features); nothing but curated texts, and both stages are
# tuned here from LLaVA and Stable Diffusion 1.5 (frames). docs/reproduce.md has sizes, hours and what is assumed.
# --dry-run prints every command with disk, memory and hours; it needs no GPU, no network, and writes nothing.
# All GPUs work, or with --slurm N [--sbatch="--gres=gpu:1 --time=4:00:00"] arrays of N tasks. More flags:
#   bash scripts/run.sh ldm python -m ldm.reproduce --help
# Results go to $RUN_ROOT/reproduce/<data set>-<from>; the page to open at the end is report/index.html there.
# Ctrl-C ends it at any point; the same command goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case ${1:-} in
    ego4d | epickitchen) ;;
    *) die "'${1:-}': expected ego4d or epickitchen; usage: bash scripts/reproduce.sh ego4d|epickitchen [--from WHAT] [--dry-run]" ;;
esac

if [[ " $* " == *" --dry-run "* ]]; then
    if env_prefix ldm >/dev/null; then use_env ldm; fi # a plan needs no library, so any Python will do
    python=$(command -v python || command -v python3) || die "no Python here; run: bash scripts/setup.sh all"
    exec "$python" -B -m ldm.reproduce "$@"
fi

for name in vllm ldm; do
    env_prefix "$name" >/dev/null || bash scripts/setup.sh "$name" || die "the set-up failed; its message is above"
done
use_env ldm

# plan_of fetch|work: the steps of a part, as a function `plan`; WORK and SETTINGS too.
plan_of() {
    local lines
    lines=$(python -m ldm.reproduce "${words[@]}" --steps "$1") || exit
    eval "$lines"
}
words=("$@")
plan_of fetch
python -m ldm.reproduce "${words[@]}" || exit # sizes, times and free disk, before anything is written

COMMAND=reproduce
source scripts/steps.sh
begin_steps "$SETTINGS"
plan
plan_of work # what was fetched says how many pairs there are, and what the checkpoint is called
plan

print_steps "${STEPS[@]}"
printf '\nreport: %s\n' "$WORK/report/index.html"
