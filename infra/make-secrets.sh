#!/usr/bin/env bash
# Makes every secret of compose.yaml that is not there yet, at random. Nothing that exists is changed.
#
#   infra/make-secrets.sh [FOLDER]     infra/secrets
#
# The folder is closed to others (0700); the files in it can be read by any user (0444), since each container mounts
# just its own files, as a user that does not exist on this machine.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
chmod 0700 "$folder"
cd "$folder"

random() { head -c 32 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' | head -c 40; }
keep() { # NAME: stdin becomes the file, whole or not at all
    cat >".$1.new"
    chmod 0444 ".$1.new"
    mv ".$1.new" "$1"
    echo "made $1"
}
for name in postgres_password mlflow_database_password prefect_database_password mlflow_admin_password mlflow_secret_key; do
    [ -e "$name" ] || random | keep "$name"
done
[ -e prefect_auth ] || printf 'temper:%s' "$(random)" | keep prefect_auth

# SeaweedFS knows its users from one file; each client gets only its own key.
[ -e s3_config ] && exit
identities=
for user in admin mlflow dvc; do
    key=$(random | head -c 20) secret=$(random)
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" | keep "s3_$user"
    actions='"Admin","Read","Write","List","Tagging"'
    [ "$user" = admin ] || actions="\"Read:$user\",\"Write:$user\",\"List:$user\",\"Tagging:$user\""
    identities+=${identities:+,}$'\n'"  {\"name\":\"$user\",\"credentials\":[{\"accessKey\":\"$key\",\"secretKey\":\"$secret\"}],\"actions\":[$actions]}"
done
printf '{"identities":[%s\n]}\n' "$identities" | keep s3_config
