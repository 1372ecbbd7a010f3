#!/usr/bin/env bash
# Asks which pinned versions have known vulnerabilities, by pip-audit; the only check that needs the network.
#   bash scripts/audit.sh             asks PyPI
#   bash scripts/audit.sh LIST.zip    asks a list on disk: OSV's export of PyPI, fetched elsewhere from
#                                     https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
(($# == 0)) || [[ $# == 1 && -f $1 ]] || die "argument '$1'; usage: bash scripts/audit.sh [LIST.zip]"

if (($#)); then
    use_env vllm
    exec python scripts/known_faults.py "$1" requirements/ldm.lock requirements/vllm.lock
fi
uv=$(command -v uv || echo "$ENVS/.uv/bin/uv")
[[ -x $uv ]] || die "no uv here; install the one that is pinned: pip install -r requirements/uv.txt"
AUDIT=pip-audit@2.10.1
found=
for name in ldm vllm; do
    echo "requirements/$name.lock"
    told=$("$uv" tool run "$AUDIT" --requirement "requirements/$name.lock" --no-deps --disable-pip 2>&1) || found=1
    echo "$told"
    # pip-audit passes over what the index has no answer for, and ends with code 0.
    if skipped=$(grep -c "could not be audited" <<<"$told"); then
        echo "$skipped versions of requirements/$name.lock were not looked up" && found=1
    fi
done
[[ -z $found ]] || die "see above: a version has a known fault, or nobody answered; bash scripts/lock.sh takes newer \
ones; bash scripts/audit.sh LIST.zip asks a list on disk"
