#!/bin/sh
# Start everything in supervisord.conf in the foreground (`make run`); `scripts/run.sh ARGS...` passes ARGS to supervisorctl.
#
# A Unix socket's path holds 108 bytes, and supervisor adds its pid to it. In a checkout whose path is too long for that,
# supervisord is given the checkout by a short link in a directory of our own: every path in supervisord.conf follows.
set -eu
cd "$(dirname "$0")/.."

# The checkout under a name short enough for logs/supervisor.sock.
short_name() {
    here=$(pwd -P)
    # 70 bytes leave room for /logs/supervisor.sock and .<pid>
    if [ "$(printf %s "$here" | wc -c)" -le 70 ]; then
        printf '%s\n' "$here"
        return
    fi
    private=${XDG_RUNTIME_DIR:-/tmp}/spoolq-$(id -u)
    mkdir -p -m 700 "$private"
    # In /tmp somebody else could have made it first, and would then choose what we start.
    if [ -L "$private" ] || [ "$(find "$private" -prune -user "$(id -u)" ! -perm /022)" != "$private" ]; then
        echo "run.sh: $private is not ours alone; set XDG_RUNTIME_DIR to a directory that is" >&2
        return 1
    fi
    link=$private/$(printf %s "$here" | cksum | cut -d ' ' -f 1)
    ln -sfn "$here" "$link"
    printf '%s\n' "$link"
}

checkout=$(short_name)
conf=$checkout/supervisord.conf
mkdir -p logs

if [ $# -gt 0 ]; then
    exec .venv/bin/python -m supervisor.supervisorctl -c "$conf" "$@"
fi

if running=$(.venv/bin/python -m supervisor.supervisorctl -c "$conf" pid 2>/dev/null); then
    echo "Already running as pid $running. 'scripts/run.sh status' shows what; 'scripts/run.sh shutdown' stops it." >&2
    exit 1
fi

.venv/bin/spoolq --version >/dev/null
.venv/bin/spoolq init spool >/dev/null

cat <<END
spoolq runs in the foreground; Ctrl-C stops all of it. In another terminal, try:

  cp README.md spool/new/          a message is a file put there
  cat logs/consumer.log            the consumer prints each message's sha256
  ls spool/done/                   where a processed message goes
  .venv/bin/spoolq ls              what is in the queue
  scripts/run.sh status            the programs (restart NAME, stop NAME, tail NAME)

END

# As root, supervisord complains unless it is told that this is meant.
[ "$(id -u)" -ne 0 ] || set -- --user=root
exec .venv/bin/python -m supervisor.supervisord --nodaemon -c "$conf" "$@"
