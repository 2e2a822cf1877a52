# shellcheck shell=bash
# Run by the entrypoint of the postgres image, once, when its volume is empty.
PGPASSWORD=$POSTGRES_PASSWORD psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --command 'CREATE DATABASE mlflow'
