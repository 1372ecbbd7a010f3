#!/usr/bin/env bash
# Asks which pinned versions have known vulnerabilities, by pip-audit; the only check that needs the network.
#   bash scripts/audit.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
(($# == 0)) || die "argument '$1'; usage: bash scripts/audit.sh"

uv=$(command -v uv || echo "$ENVS/.uv/bin/uv")
[[ -x $uv ]] || die "no uv here; install the one that is pinned: pip install -r requirements/uv.txt"
AUDIT=pip-audit@2.10.1
found=
for name in ldm vllm; do
    echo "requirements/$name.lock"
    "$uv" tool run "$AUDIT" --requirement "requirements/$name.lock" --no-deps --disable-pip || found=1
done
[[ -z $found ]] || die "see above: a version has a known fault, or nobody answered; bash scripts/lock.sh takes newer ones"
