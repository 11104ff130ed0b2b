#!/bin/bash
# Run once, on an empty data folder, by the image's own entry point: a role for each server, and its databases.
set -euo pipefail
for name in mlflow prefect; do
    file=${name^^}_PASSWORD_FILE
    # psql reads the password itself, from the file: arguments can be seen by others.
    FILE=${!file} psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set name="$name" \
        --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set password `cat "$FILE"`
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE ALL ON DATABASE mlflow_auth FROM PUBLIC;
SQL
