#!/usr/bin/env bash
# Makes the locks anew from pyproject.toml: the newest versions that fit, for Python 3.10 to 3.12 at once.
# Then run scripts/test.sh, and commit pyproject.toml and both locks together.
#   bash scripts/lock.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
(($# == 0)) || die "argument '$1'; usage: bash scripts/lock.sh"

uv=$(command -v uv || echo "$ENVS/.uv/bin/uv")
[[ -x $uv ]] || die "no uv here; install the one that is pinned: pip install -r requirements/uv.txt"
lock() {
    local name=$1
    shift
    "$uv" pip compile pyproject.toml --extra "$name" --extra dev --universal --python-version 3.10 "$@" \
        --no-header --no-annotate --upgrade --quiet --output-file "requirements/$name.lock"
    echo "requirements/$name.lock: $(grep -c '==' "requirements/$name.lock") pins"
}
lock ldm
lock vllm --constraints requirements/ldm.lock # what both have, both have in one version; diffusers asks for most
