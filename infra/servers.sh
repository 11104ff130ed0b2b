#!/usr/bin/env bash
# A Prefect server (schedules, history of flow runs) and an MLflow server (one registry for several checkouts)
# on this machine, both on loopback only: neither has a login by default.
#
#   ./infra/servers.sh [FOLDER]     their data go to FOLDER (.temper/servers); Ctrl-C ends both
#
# PREFECT_PORT (4200) and MLFLOW_PORT (5000) choose the ports. In another shell, export what it prints.
set -euo pipefail
cd "$(dirname "$0")/.."
home=${1:-.temper/servers}
prefect_port=${PREFECT_PORT:-4200}
mlflow_port=${MLFLOW_PORT:-5000}
mkdir -p -m 0700 "$home"
home=$(cd "$home" && pwd)
[ -x .venv/bin/python ] && PATH="$PWD/.venv/bin:$PATH"

# Everything phones home by default; nothing here may.
export DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export PREFECT_HOME="$home/prefect" PREFECT_LOGGING_LEVEL=WARNING

trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null; wait' EXIT INT TERM
python -m uvicorn --factory prefect.server.api.server:create_app --host 127.0.0.1 --port "$prefect_port" --lifespan on >"$home/prefect.log" 2>&1 &
# --workers 1: SQLite has one writer
mlflow server --host 127.0.0.1 --port "$mlflow_port" --workers 1 \
    --allowed-hosts "127.0.0.1:$mlflow_port,localhost:$mlflow_port" --backend-store-uri "sqlite:///$home/mlflow.db" \
    --artifacts-destination "$home/artifacts" >"$home/mlflow.log" 2>&1 &

await() { # name, address, log
    for _ in $(seq 240); do
        if python -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)" "$2" 2>/dev/null; then return; fi
        [ "$(jobs -rp | wc -l)" -eq 2 ] || break
        sleep 0.5
    done
    echo "$1 did not start; the end of $3:" >&2
    tail -n 15 "$3" >&2
    exit 1
}
await Prefect "http://127.0.0.1:$prefect_port/api/health" "$home/prefect.log"
await MLflow "http://127.0.0.1:$mlflow_port/health" "$home/mlflow.log"
echo "export PREFECT_API_URL=http://127.0.0.1:$prefect_port/api"
echo "export MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow_port"
wait -n
echo "a server has ended; see $home/*.log" >&2
exit 1
