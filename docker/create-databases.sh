# shellcheck shell=bash
# Run by the entrypoint of the postgres image, once, when its volume is empty: a role for Airflow and one for MLflow, each
# with a database that only it may enter.
for name in airflow mlflow; do
  # psql takes the password from its environment: what a command is given, every process list shows.
  password=${name^^}_DATABASE_PASSWORD
  PGPASSWORD=$POSTGRES_PASSWORD ROLE_PASSWORD=${!password} psql --username "$POSTGRES_USER" --dbname postgres \
    --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set name="$name" <<'SQL'
\getenv password ROLE_PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name" ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
