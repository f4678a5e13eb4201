#!/bin/sh
# Start everything in supervisord.conf in the foreground (`make run`); `scripts/run.sh ARGS...` passes ARGS to supervisorctl.
# Both go by a short link where the checkout's path is too long for a socket: see spoolq/stack/place.py.
set -eu
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
    exec .venv/bin/spoolq programs --checkout -- "$@"
fi
exec .venv/bin/spoolq up --checkout
