# Sourced by every script: strict mode, --help, the root, DATA_ROOT, RUN_ROOT and WEIGHTS_ROOT, and `use_env`.
# Scripts run in the repository root, so a path given to one is relative to the root.
# shellcheck shell=bash
if ((BASH_VERSINFO[0] < 4)); then
    echo "error: bash $BASH_VERSION; bash 4 or newer is needed (macOS: brew install bash)" >&2
    exit 2
fi
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ENVS=$ROOT/.venvs

# One line on stderr and exit code 2, like the Python commands.
die() {
    echo "error: $*" >&2
    exit 2
}

# Prints the comment at the head of the running script.
show_help() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# --help among a script's own words shows its head. A script that hands words on to a command of the user's says in
# OWN_WORDS how many of the first are its own.
for word in "${@:1:${OWN_WORDS:-$#}}"; do
    case $word in -h | --help) show_help && exit ;; esac
done
unset word OWN_WORDS

# A path of the caller, as seen from ROOT: results do not depend on where a script was started. A `~` or `~user` that
# its shell has left alone (in quotes, in a container's variables) is the home folder, as it is to the commands.
from_root() {
    local path=$1 home
    if [[ $path =~ ^~[[:alnum:]_.-]*(/|$) ]]; then
        home=$(eval "echo ${BASH_REMATCH[0]}") # nothing but the name of a user
        [[ $home != \~* ]] || die "$path: there is no such home folder; write the whole path"
        path=$home${path#"${BASH_REMATCH[0]}"}
    fi
    [[ $path == /* ]] || path=$PWD/$path
    [[ $path == "$ROOT" ]] && path=.
    echo "${path#"$ROOT"/}"
}

DATA_ROOT=$(from_root "${DATA_ROOT:-$ROOT/data}")          # holds EgoGen/
RUN_ROOT=$(from_root "${RUN_ROOT:-$ROOT/runs}")            # everything that is made
WEIGHTS_ROOT=$(from_root "${WEIGHTS_ROOT:-$ROOT/weights}") # weights that others published
export DATA_ROOT RUN_ROOT WEIGHTS_ROOT
cd "$ROOT"
# uv trusts what the system trusts, as git and pip do, so that a company's proxy is no obstacle (old and new name).
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true} UV_NATIVE_TLS=${UV_NATIVE_TLS:-true}

# paths DATASET train|val: sets FRAMES, ANNOTATIONS, VLLM and more (egogen/paths.py) to where they are below DATA_ROOT
# and RUN_ROOT. Needs an environment.
paths() {
    local lines
    lines=$(python -m egogen.paths "$@") || exit
    eval "$lines"
}

# processes USUAL: sets NPROC, how many processes torchrun starts, to what it was set to or else the usual number.
processes() {
    NPROC=${NPROC:-$1}
    [[ $NPROC =~ ^([1-9][0-9]{0,3}|auto|cpu|gpu)$ ]] ||
        die "NPROC=$NPROC: expected the number of processes, 1 to 9999, or auto, cpu or gpu as torchrun takes them"
}

# The library that tells that an environment can run a stage.
key_module() {
    case $1 in
        vllm) echo deepspeed ;;
        ldm) echo pytorch_lightning ;;
        *) die "environment '$1': allowed are vllm and ldm" ;;
    esac
}

# The first of conda, mamba and micromamba that is on PATH.
conda_tool() {
    local tool
    for tool in conda mamba micromamba; do
        if command -v "$tool" >/dev/null; then
            echo "$tool"
            return
        fi
    done
    return 1
}

# The folder of the conda environment $2 as the tool $1 knows it; fails where there is none.
conda_prefix() {
    # stdin is closed because `conda run` reads it.
    "$1" run -n "$2" python -c 'import sys; print(sys.prefix)' 2>/dev/null </dev/null
}

# Prints the folder of the environment `vllm` or `ldm`; fails where there is none.
env_prefix() {
    local name=$1 module tool
    module=$(key_module "$name")
    if [[ -x $ENVS/$name/bin/python ]]; then
        (cd -P "$ENVS/$name" && pwd) # a conda environment is a link here
    elif tool=$(conda_tool) && conda_prefix "$tool" "$name"; then
        :
    else
        python -c "import sys; from importlib.util import find_spec
if not (find_spec('$module') and find_spec('egogen')): sys.exit(1)
print(sys.prefix)" 2>/dev/null
    fi
}

# use_env vllm|ldm: puts the stage's environment first on PATH.
use_env() {
    local name=$1 prefix
    key_module "$name" >/dev/null
    prefix=$(env_prefix "$name") || die "no environment '$name' here; run: bash scripts/setup.sh $name"
    PATH=$prefix/bin:$PATH
    export PATH
    unset PYTHONHOME
    hash -r
}

# Puts whichever of the two environments there is first on PATH: egogen/ works in both.
use_any_env() {
    if env_prefix ldm >/dev/null; then use_env ldm; else use_env vllm; fi
}
