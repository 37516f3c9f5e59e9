#!/usr/bin/env bash
# Two hosts on one machine, as plain processes: PostgreSQL, an S3 server, and for each host a home with a Dagster UI and
# daemon. For trying what docs/deploy.md describes. It needs Debian's postgresql and `make dev`.
#
#   deploy/local.sh FOLDER [COMMAND …]   run a command on the first host, and end; without one: serve until Ctrl-C
#
# FOLDER is a new one each time: the S3 server keeps what it holds in memory.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:?deploy/local.sh FOLDER [COMMAND …]}")
shift
postgres=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
bin=$PWD/.venv/bin
as=()
[ ! -e "$folder" ] || { echo "$folder is there already; name a new folder" >&2; exit 1; }
mkdir -p "$folder"
if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses to run as root
    as=(runuser -u postgres --)
    install -d -o postgres "$folder/postgresql"
fi
free_port() { "$bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
database_port=$(free_port) storage_port=$(free_port)

stop() {
    trap - EXIT
    "${as[@]}" "$postgres/pg_ctl" -D "$folder/postgresql/data" -m fast stop >/dev/null 2>&1 || true
    kill 0
}
trap stop EXIT
trap 'exit 130' INT TERM

(cd / && "${as[@]}" "$postgres/initdb" -D "$folder/postgresql/data" -U cai -A trust >/dev/null)
(cd / && "${as[@]}" "$postgres/pg_ctl" -D "$folder/postgresql/data" -l "$folder/postgresql/log" -w start \
    -o "-h 127.0.0.1 -p $database_port -k $folder/postgresql" >/dev/null)
"$postgres/createdb" -h 127.0.0.1 -p "$database_port" -U cai cai

export AWS_ENDPOINT_URL=http://127.0.0.1:$storage_port AWS_ACCESS_KEY_ID=cai AWS_SECRET_ACCESS_KEY=cai AWS_DEFAULT_REGION=us-east-1
"$bin/moto_server" -H 127.0.0.1 -p "$storage_port" >"$folder/storage.log" 2>&1 &
until curl -fs "$AWS_ENDPOINT_URL" >/dev/null; do sleep 0.2; done
curl -fs -X PUT "$AWS_ENDPOINT_URL/cai" >/dev/null

export CAI_CATALOG=postgresql://cai@127.0.0.1:$database_port/cai CAI_LEDGER=postgresql://cai@127.0.0.1:$database_port/cai
export CAI_DATA=s3://cai/tables CAI_CHECKPOINTS=s3://cai/checkpoints
if [ $# -gt 0 ]; then
    CAI_HOME=$folder/host1 "$@"
    exit
fi
for host in 1 2; do
    port=$(free_port)
    CAI_HOME=$folder/host$host "$bin/cai" ui --port "$port" >"$folder/host$host.log" 2>&1 &
    echo "host $host: http://127.0.0.1:$port (CAI_HOME=$folder/host$host)"
done
wait
