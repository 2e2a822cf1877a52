#!/usr/bin/env bash
# Write .env, readable by its owner alone, with secrets of its own for each installation. What stands there stays; what is
# missing, as in the .env of an earlier version, is added.
set -euo pipefail
secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; }
# add NAME VALUE
add() { grep -q "^$1=." .env || echo "$1=$2" >> .env; }
umask 077
touch .env
[ -z "$(tail -c 1 .env)" ] || echo >> .env
add FERNET_KEY "$(secret)"
for name in SECRET_KEY JWT_SECRET POSTGRES_PASSWORD AIRFLOW_DATABASE_PASSWORD MLFLOW_DATABASE_PASSWORD; do
  add "$name" "$(secret | tr -d =)"
done
add ADMIN_PASSWORD "$(secret | tr -d = | cut -c1-20)"
