#!/usr/bin/env bash
# Runs any sharded command as a Slurm array of N tasks: task i gets `--shard i/N` at the end.
#   bash scripts/slurm_array.sh [--dry-run] [--wait] [--env vllm|ldm] [--OPTION=VALUE ...] N COMMAND...
#   bash scripts/slurm_array.sh --env ldm --gres=gpu:1 --time=4:00:00 8 \
#       python -m ldm.sample --config configs/generate_ego4d.yaml --ckpt last.ckpt
# Options with `=` are handed to sbatch; --env chooses the environment (else that of the calling shell is used);
# --dry-run prints the script; --wait ends when all tasks have ended, with the worst of their codes, and Ctrl-C then
# cancels them. A task that is stopped may be requeued: sharded commands go on where they were.
OWN_WORDS=2
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

usage="usage: bash scripts/slurm_array.sh [--dry-run] [--wait] [--env vllm|ldm] [--OPTION=VALUE ...] N COMMAND..."
dry_run=
wait=
environment=
options=()
while (($#)); do
    case $1 in
        --dry-run) dry_run=1 ;;
        --wait) wait=1 ;;
        --env)
            environment=${2:-}
            key_module "$environment" >/dev/null
            shift
            ;;
        --*=*) options+=("$1") ;;
        *) break ;;
    esac
    shift
done
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || die "N is '${1:-}', expected a whole number from 1; $usage"
(($# > 1)) || die "no command; $usage"
count=$1
shift
most=100000 # shards, as in egogen/shards.py
((${#count} <= ${#most} && count <= most)) || die "N is $count, expected at most $most"
[[ " $* " != *" --shard"[\ =]* ]] || die "the command has --shard already; this script adds it"
# What follows a line break would be a line of its own in the script that Slurm reads.
[[ ${options[*]} != *[$'\n\r']* ]] || die "a line break in an option of sbatch"
[[ $RUN_ROOT != *[$'\n\r"']* ]] || die "RUN_ROOT has a line break or a quotation mark; name another folder"
for option in "${options[@]}"; do
    [[ $option == --array=* ]] || continue
    tasks=${option#--array=}
    [[ -n $tasks ]] || tasks=none
    for task in ${tasks//[,-]/ }; do # 3-4,6 and perhaps 1-9:2 or 1-9%2
        task=${task%%[:%]*}
        [[ $task =~ ^[1-9][0-9]{0,5}$ ]] && ((task <= count)) || die "$option: expected tasks from 1 to N, which is $count"
    done
done

logs=$RUN_ROOT/slurm
script=$(
    echo '#!/usr/bin/env bash'
    echo "#SBATCH --array=1-$count"
    echo "#SBATCH --output=\"$logs/%x-%A_%a.log\""
    echo '#SBATCH --requeue'
    ((${#options[@]} == 0)) || printf '#SBATCH %s\n' "${options[@]}"
    printf 'source %q\n' "$ROOT/scripts/env.sh"
    [[ -z $environment ]] || echo "use_env $environment"
    printf '%q ' "$@"
    # shellcheck disable=SC2016 # the task's own variable
    echo '--shard "$SLURM_ARRAY_TASK_ID"'"/$count"
)
if [[ -n $dry_run ]]; then
    echo "$script"
    exit
fi
command -v sbatch >/dev/null || die "no sbatch here; --dry-run prints what would be submitted"
mkdir -p "$logs"
[[ -n $wait ]] || exec sbatch --job-name=lego <<<"$script"

# Nobody waits for it any more: no task of it may begin or go on.
cancel() {
    trap '' INT TERM HUP
    [[ -n $job ]] || read -r -t 10 job <&"$answer" || true
    local id=${job%%;*} cluster=${job#"${job%%;*}"} # NUMBER, or NUMBER;CLUSTER
    local told="whether there is a job squeue says, and scancel ends it"
    if [[ -n $id ]] && scancel ${cluster:+"--clusters=${cluster#;}"} "$id"; then
        told="job $id is cancelled, and the same command goes on"
    fi
    kill "$waiting" 2>/dev/null || true
    echo "slurm_array: stopped; $told" >&2
    exit 130
}
job=
coproc { exec sbatch --job-name=lego --wait --parsable <<<"$script"; }
waiting=$COPROC_PID
exec {answer}<&"${COPROC[0]}" # which bash closes when it ends
trap cancel INT TERM HUP
read -r job <&"$answer" || true # of no job, sbatch says why
[[ -z $job ]] || echo "Submitted batch job ${job%%;*}"
wait "$waiting"
