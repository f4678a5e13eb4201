#!/bin/sh
# `make fresh`: what a stranger does. A clone in a new directory, an empty HOME, nothing cached: `make run` until it is
# healthy, `make stop`, `make test`. Prints how long each took. Ports of its own, so that a stack that runs is not met.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/spoolq-fresh-XXXXXX")
chmod 755 "$work" # some tests run as another user
mkdir "$work/home"
git clone --quiet . "$work/a clone"
cd "$work/a clone"
export HOME="$work/home" XDG_CACHE_HOME="$work/home/.cache" PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
export SPOOLQ_API_PORT=${SPOOLQ_API_PORT:-18000} SPOOLQ_OPS_PORT=${SPOOLQ_OPS_PORT:-18501}
export SPOOLQ_ADMIN_PORT=${SPOOLQ_ADMIN_PORT:-18502}
unset MAKEFLAGS MAKELEVEL VIRTUAL_ENV PYTHONPATH || true

began=$(date +%s)
make run >"$work/run.out" 2>&1 &
run=$!
while ! grep -q '^healthy' "$work/run.out"; do
    kill -0 $run 2>/dev/null || { cat "$work/run.out" >&2; exit 1; }
    sleep 0.2
done
up=$(($(date +%s) - began))
cat "$work/run.out"
make stop
wait $run
echo "make run: healthy after $up s"

unset SPOOLQ_API_PORT SPOOLQ_OPS_PORT SPOOLQ_ADMIN_PORT
began=$(date +%s)
status=0
make test PYTEST_ARGS="${PYTEST_ARGS:-}" || status=$?
echo "make run: healthy after $up s, from nothing; make test: $(($(date +%s) - began)) s, exit status $status"
if [ $status -eq 0 ]; then rm -rf "$work"; else echo "left for you to look at: $work" >&2; fi
exit $status
