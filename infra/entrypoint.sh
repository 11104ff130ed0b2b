#!/bin/sh
# Starts a command with its secrets: where NAME_FILE names a file, NAME becomes what is in it. Only these names.
set -eu
for name in PGPASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_TRACKING_PASSWORD \
    PREFECT_SERVER_DATABASE_PASSWORD PREFECT_SERVER_API_AUTH_STRING PREFECT_API_AUTH_STRING; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if ! [ -r "$file" ] || ! [ -s "$file" ]; then
        echo "entrypoint: ${name}_FILE: $file is missing, empty or not readable to user $(id -u);" \
            "infra/make-secrets.sh makes it" >&2
        exit 64
    fi
    export "$name=$(cat "$file")"
    unset "${name}_FILE"
done
exec "$@"
