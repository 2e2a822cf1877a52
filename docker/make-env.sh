#!/usr/bin/env bash
# Write .env, readable by its owner alone, with secrets of its own for each installation. What stands there stays; what is
# missing, as in the .env of an earlier version, is added.
set -euo pipefail
# secret BYTES
secret() { head -c "$1" /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
# add NAME VALUE
add() { grep -q "^$1=." .env || echo "$1=$2" >> .env; }
umask 077
touch .env
[ -z "$(tail -c 1 .env)" ] || echo >> .env
add FERNET_KEY "$(secret 32)"
for name in SECRET_KEY POSTGRES_PASSWORD AIRFLOW_DATABASE_PASSWORD MLFLOW_DATABASE_PASSWORD; do
  add "$name" "$(secret 32 | tr -d =)"
done
add JWT_SECRET "$(secret 64 | tr -d =)"  # as long as what it signs by, SHA-512, asks for
add ADMIN_PASSWORD "$(secret 15)"
