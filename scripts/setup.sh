#!/usr/bin/env bash
# Makes the environments of the two stages, or finds them up to date.
#   bash scripts/setup.sh vllm|ldm|all [--recreate]
# With conda, mamba or micromamba on PATH: conda environments `vllm` and `ldm`, linked as .venvs/<name>.
# Otherwise .venvs/<name> by uv (fetched from PyPI where it is absent), or by venv + pip if that fails.
#   LEGO_ENV_TOOL=conda|mamba|micromamba|uv|pip   takes this tool
#   LEGO_PYTHON=python3.12                        takes this Python (3.10 to 3.12) for a new one by uv or pip
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

usage="usage: bash scripts/setup.sh vllm|ldm|all [--recreate]"
names=()
recreate=
for argument in "$@"; do
    case $argument in
        vllm | ldm) names+=("$argument") ;;
        all) names+=(vllm ldm) ;;
        --recreate) recreate=1 ;;
        *) die "argument '$argument'; $usage" ;;
    esac
done
((${#names[@]})) || die "no environment named; $usage"
case ${LEGO_ENV_TOOL:-} in
    '' | conda | mamba | micromamba | uv | pip) ;;
    *) die "LEGO_ENV_TOOL=$LEGO_ENV_TOOL: allowed are conda, mamba, micromamba, uv and pip" ;;
esac

STAMP=lego-setup.txt # inside an environment: fingerprint, kind of tool and Python; written last
UNFINISHED=unfinished # what it says until then

# Sets PYTHON to the full path of a Python that can make environments.
find_python() {
    local python tried=${LEGO_PYTHON:-python3.11 python3.12 python3.10 python3}
    for python in $tried; do
        # Version managers put names on PATH that do not run, and some systems ship Python without ensurepip.
        if PYTHON=$("$python" -c 'import ensurepip, sys, venv
if not (3, 10) <= sys.version_info < (3, 13): sys.exit(1)
print(sys.executable)' 2>/dev/null); then
            return
        fi
    done
    die "no usable Python 3.10, 3.11 or 3.12 (tried $tried);" \
        "install one with its venv module (Debian, Ubuntu: apt install python3-venv) or name it in LEGO_PYTHON"
}

# Prints a uv: the one on PATH, else our own, fetched from PyPI.
find_uv() {
    command -v uv && return
    local own=$ENVS/.uv
    if [[ ! -x $own/bin/uv ]]; then
        echo "setup: fetching uv from PyPI, which installs faster than pip" >&2
        rm -rf "$own"
        { "$PYTHON" -m venv "$own" && "$own/bin/python" -m pip install --quiet -r requirements/uv.txt; } >&2 || return
    fi
    echo "$own/bin/uv"
}

# Sets TOOL (the command) and KIND (conda, uv or pip).
choose_tool() {
    local wanted=${LEGO_ENV_TOOL:-}
    case $wanted in
        '' | conda) TOOL=$(conda_tool) && KIND=conda && return ;;
        mamba | micromamba) TOOL=$(command -v "$wanted") && KIND=conda && return ;;
    esac
    find_python
    case $wanted in
        '' | uv) TOOL=$(find_uv) && KIND=uv && return ;;
    esac
    [[ $wanted == pip || -z $wanted ]] || die "LEGO_ENV_TOOL=$wanted: not found; unset it or install $wanted"
    TOOL=pip KIND=pip
}

# What an environment depends on. cksum is in every POSIX system.
fingerprint() {
    cat "requirements/$1.lock" "$1_env.yaml" pyproject.toml | cksum
}

# Fails unless the environment was finished from the present files by the wanted tool and still runs.
up_to_date() {
    local stamp=$ENVS/$1/$STAMP
    [[ -f $stamp ]] || return
    local print kind python
    { read -r print && read -r kind && read -r python; } <"$stamp" || return
    [[ $print == "$(fingerprint "$1")" ]] || return
    case ${LEGO_ENV_TOOL:-} in
        '' | "$kind") ;;
        *mamba) [[ $kind == conda ]] || return ;;
        *) return 1 ;;
    esac
    "$ENVS/$1/bin/python" -c '' || return
    echo "$1: up to date ($kind, $python)"
}

# A named environment, to which .venvs/<name> becomes a link.
make_conda() {
    local name=$1 action=create prefix
    if prefix=$(conda_prefix "$TOOL" "$name"); then
        action=update
        echo "$UNFINISHED" >"$prefix/$STAMP"
    fi
    # Both spellings of "do not ask", since the commands differ in their flags.
    export CONDA_ALWAYS_YES=true MAMBA_ALWAYS_YES=true
    if [[ $(basename "$TOOL") == micromamba ]]; then
        "$TOOL" "$action" -n "$name" -f "$ROOT/${name}_env.yaml"
    else
        "$TOOL" env "$action" -n "$name" -f "$ROOT/${name}_env.yaml"
    fi
    prefix=$(conda_prefix "$TOOL" "$name") || die "$TOOL made no environment '$name'"
    rm -rf "${ENVS:?}/$name"
    ln -s "$prefix" "$ENVS/$name"
}

make_uv() {
    local env=$ENVS/$1
    [[ -x $env/bin/python ]] || "$TOOL" venv --quiet --seed --python "$PYTHON" "$env"
    echo "$UNFINISHED" >"$env/$STAMP"
    # Compiled at once, as pip does: where PYTHONDONTWRITEBYTECODE is set every start would compile everything anew.
    "$TOOL" pip install --compile-bytecode --python "$env/bin/python" -c "requirements/$1.lock" -e ".[$1,dev]"
}

make_pip() {
    local env=$ENVS/$1
    [[ -x $env/bin/python ]] || "$PYTHON" -m venv "$env"
    echo "$UNFINISHED" >"$env/$STAMP"
    "$env/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
        -c "requirements/$1.lock" -e ".[$1,dev]"
}

# Imports what the stage stands on, so that a broken library shows here and not an hour into a run.
smoke() {
    local modules=(torch transformers "$(key_module "$1")" egogen)
    case $1 in
        vllm) modules+=(llava) ;;
        ldm) modules+=(diffusers ldm) ;;
    esac
    "$ENVS/$1/bin/python" -W ignore -c "import importlib, sys
for name in sys.argv[1:]: importlib.import_module(name)" "${modules[@]}"
}

# Removes what cannot be continued: another tool's environment, or one whose set-up was cut off.
# An environment that carries no stamp was made by hand; it is completed.
clear_old() {
    local env=$ENVS/$1 kind=
    if [[ -n $recreate && $KIND == conda ]] && conda_prefix "$TOOL" "$1" >/dev/null; then
        CONDA_ALWAYS_YES=true MAMBA_ALWAYS_YES=true "$TOOL" env remove -n "$1"
    fi
    [[ -e $env || -L $env ]] || return 0
    [[ ! -f $env/$STAMP ]] || kind=$(sed -n 2p "$env/$STAMP")
    if [[ -n $recreate || ! -x $env/bin/python || (-f $env/$STAMP && $kind != "$KIND") ]]; then
        echo "$1: removing $(from_root "$env") (${recreate:+--recreate; }made by: ${kind:-an unfinished set-up})"
        rm -rf "$env" # of a link to a conda environment, the link alone
    fi
}

setup() {
    local name=$1 start=$SECONDS
    if [[ -z $recreate ]] && up_to_date "$name"; then
        return
    fi
    # What were installed through a link would turn another checkout's environments over to this one.
    [[ ! -L $ENVS ]] ||
        die "$ENVS is a link to $(cd -P "$ENVS" && pwd), another checkout's environments, and $name is not up to date" \
            "there; run setup.sh in that checkout, or remove the link for environments of this one's own (rm '$ENVS')"
    choose_tool
    echo "$name: making the environment with $(basename "$TOOL"); several GB are fetched the first time"
    clear_old "$name"
    "make_$KIND" "$name"
    smoke "$name" || die "$name: a library does not import; try: bash scripts/setup.sh $name --recreate"
    {
        fingerprint "$name"
        echo "$KIND"
        "$ENVS/$name/bin/python" -V
    } >"$ENVS/$name/$STAMP.part"
    mv "$ENVS/$name/$STAMP.part" "$ENVS/$name/$STAMP"
    echo "$name: ready in $((SECONDS - start)) s"
}

mkdir -p "$ENVS"
# Two set-ups at once would spoil each other; macOS has no flock.
if command -v flock >/dev/null; then
    exec 9>"$ENVS/.lock"
    flock -n 9 || { echo "setup: waiting for another set-up to end" && flock 9; }
fi
for name in "${names[@]}"; do
    setup "$name"
done
