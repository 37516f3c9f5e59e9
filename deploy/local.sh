#!/usr/bin/env bash
# The parts of docker-compose.yaml as plain processes of one machine: PostgreSQL, an S3 server, Dagster's webserver and
# daemon, and two hosts, each a home with a code location. The tests use it. It needs Debian's postgresql and `make dev`.
#
#   deploy/local.sh FOLDER [COMMAND …]   run a command on the first host, and end; without one: serve until Ctrl-C
#
# FOLDER is a new one each time: the S3 server keeps what it holds in memory. LOCATION is another module of definitions.
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
    trap '' INT TERM
    "${as[@]}" "$postgres/pg_ctl" -D "$folder/postgresql/data" -m fast stop >/dev/null 2>&1 || true
    kill 0
    for _ in {1..50}; do
        [ -n "$(jobs -pr)" ] || return 0
        sleep 0.2
    done
    kill -KILL $(jobs -pr) # a code server may miss its signal
}
trap stop EXIT
trap 'exit 130' INT TERM

(cd / && "${as[@]}" "$postgres/initdb" -D "$folder/postgresql/data" -U cai -A trust >/dev/null)
(cd / && "${as[@]}" "$postgres/pg_ctl" -D "$folder/postgresql/data" -l "$folder/postgresql/log" -w start \
    -o "-h 127.0.0.1 -p $database_port -k $folder/postgresql" >/dev/null)
"$postgres/createdb" -h 127.0.0.1 -p "$database_port" -U cai cai
"$postgres/createdb" -h 127.0.0.1 -p "$database_port" -U cai dagster

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

export DAGSTER_HOME=$folder/dagster DAGSTER_DATABASE=postgresql+psycopg2://cai@127.0.0.1:$database_port/dagster
mkdir -p "$DAGSTER_HOME"
cp deploy/dagster.yaml "$DAGSTER_HOME"
"$bin/python" -m resources.instance places 2
echo "load_from:" >"$DAGSTER_HOME/workspace.yaml"
for host in host1 host2; do
    port=$(free_port)
    CAI_HOME=$folder/$host "$bin/dagster" code-server start --host 127.0.0.1 --port "$port" \
        --module-name "${LOCATION:-cai_dagster.definitions}" --location-name "$host" >"$folder/$host.log" 2>&1 &
    echo "  - grpc_server: {host: 127.0.0.1, port: $port, location_name: $host}" >>"$DAGSTER_HOME/workspace.yaml"
    until "$bin/dagster" api grpc-health-check --port "$port" >/dev/null 2>&1; do sleep 0.5; done
done
cd "$DAGSTER_HOME"
"$bin/dagster-daemon" run --workspace workspace.yaml >"$folder/daemon.log" 2>&1 &
port=$(free_port)
"$bin/dagster-webserver" --host 127.0.0.1 --port "$port" --workspace workspace.yaml >"$folder/webserver.log" 2>&1 &
until curl -fs "http://127.0.0.1:$port/server_info" >/dev/null; do sleep 0.5; done
echo "http://127.0.0.1:$port"
wait
