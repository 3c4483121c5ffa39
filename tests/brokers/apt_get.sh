#!/bin/sh
# Runs apt-get as root: without a question, within a time, and without starting the services that come with packages.
# Usage: apt_get.sh POLICY SECONDS ARGUMENT...; POLICY is the file that Debian asks whether a service may start.
set -eu
policy=$1 seconds=$2
shift 2
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 143' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
# Not `exec`: what the policy is for ends with this script.
timeout --kill-after=10 "$seconds" apt-get --quiet --yes \
    --option DPkg::Lock::Timeout=60 --option Dpkg::Options::=--force-confold "$@"
