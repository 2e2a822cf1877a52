#!/usr/bin/env bash
# The composed stack, brought up from nothing, used in a browser, disturbed, and removed again:
#   tests/compose/run.sh
# It is a Compose project of its own: the stack of `make up` keeps its data, but must be down, for the ports are the same.
# Needs a Docker engine, 25 GB of disk, 6 GB of memory, Debian's chromium, and the environment that `make test` makes.
set -euo pipefail
cd "$(dirname "$0")/../.."
export COMPOSE_PROJECT_NAME=captionflow-test
compose=$(docker compose version > /dev/null 2>&1 && echo "docker compose" || echo docker-compose)
figures=$(mktemp)
quick='{"epochs": 4, "width": 64, "encoder_depth": 1, "decoder_depth": 1}'

say() { printf '\n== %s\n' "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
figure() { printf '%-24s %s\n' "$1" "$2" | tee -a "$figures"; }
clean_up() {
  kill "${watcher:-}" 2> /dev/null || true
  $compose down --volumes 2> /dev/null
  rm -f "$figures"*
}

# wait_for WHAT COMMAND...: until the command succeeds, at most 20 minutes
wait_for() {
  local what=$1 end=$((SECONDS + 1200))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "$what: not in 20 minutes"
    sleep 2
  done
}

inside() { $compose exec -T "$@"; }
containers() { docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"; }
all_healthy() {
  # airflow-init has no health; it has ended.
  [ "$(containers | xargs docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' \
    | sort --unique | xargs)" = "exited healthy" ]
}
up() {
  local started=$SECONDS
  make up > /dev/null
  wait_for "all services healthy" all_healthy
  figure "$1" "$((SECONDS - started)) s"
}

# shellcheck disable=SC2016  # for the container's shell
sql() { inside postgres sh -c 'PGPASSWORD=$POSTGRES_PASSWORD psql -U postgres -d "$0" -Atc "$1"' "$@" 2> /dev/null; }
task_is() { [ "$(sql airflow "SELECT state FROM task_instance WHERE run_id = '$1' AND task_id = '$2'")" = "$3" ]; }
run_ended() {
  local state
  state=$(sql airflow "SELECT state FROM dag_run WHERE run_id = '$1'") || return 1
  [ "$state" != failed ] || fail "run $1"
  [ "$state" = success ]
}
# trigger DAG RUN CONF
trigger() { inside airflow-scheduler airflow dags trigger "$1" --run-id "$2" --conf "$3" > /dev/null 2>&1; }
succeeds() { wait_for "the end of run $1" run_ended "$1"; }

# Whatever ran in a container, with what it was given, as long as this goes on.
watch_processes() {
  while sleep 1; do
    containers | xargs --no-run-if-empty -I {} docker top {} -eo pid,args >> "$1" 2> /dev/null || true
  done
}
# enters SERVICE VARIABLE DATABASE: whether the role that the service has in a variable is let into a database
enters() {
  inside "$1" python -c "import os, psycopg2; psycopg2.connect(os.environ['$2'].replace('+psycopg2', ''), dbname='$3')" 2>&1
}
# reaches SERVICE OTHER PORT: whether the service reaches the other, by any of the other's addresses
reaches() {
  local addresses
  addresses=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$($compose ps -q "$2")")
  inside "$1" python -c "
import socket, sys
for address in '$addresses'.split():
    try:
        sys.exit(socket.create_connection((address, $3), 3).close())
    except OSError as error:
        print(error, file=sys.stderr)
sys.exit(1)" 2> /dev/null
}

say "from nothing"
make --silent .env  # without it Compose refuses to do anything
clean_up
trap clean_up EXIT
watch_processes "$figures.processes" &
watcher=$!
started=$SECONDS
$compose build --quiet airflow-init > /dev/null
figure "build" "$((SECONDS - started)) s"
up "from up to healthy"
figure "image" "$(docker image inspect captionflow --format '{{.Size}}' | numfmt --to=si)B"

say "no more rights than needed"
[ "$(sql airflow "SELECT count(*) FROM pg_roles WHERE rolname IN ('airflow', 'mlflow') AND NOT (rolsuper OR rolcreaterole
  OR rolcreatedb OR rolreplication OR rolbypassrls)")" = 2 ] || fail "Airflow's or MLflow's role may more than it needs"
denied="permission denied for database"
enters airflow-scheduler AIRFLOW__DATABASE__SQL_ALCHEMY_CONN airflow || fail "Airflow is not let into its database"
enters mlflow MLFLOW_BACKEND_STORE_URI mlflow || fail "MLflow is not let into its database"
[[ $(enters mlflow MLFLOW_BACKEND_STORE_URI airflow) = *$denied* ]] || fail "MLflow enters Airflow's database"
[[ $(enters airflow-scheduler AIRFLOW__DATABASE__SQL_ALCHEMY_CONN mlflow) = *$denied* ]] || fail "Airflow enters MLflow's database"
for container in $(docker ps --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
  # shellcheck disable=SC2016  # for the container's shell
  found=$(docker exec "$container" sh -c 'for status in /proc/[0-9]*/status; do
    grep -q "^NoNewPrivs:.1$" $status || echo "$status may gain privileges"
    grep -q "^Uid:.0" $status || grep -q "^CapEff:.0*$" $status || echo "$status has rights of root"
  done')
  [ -z "$found" ] || fail "$(docker inspect --format '{{.Name}}' "$container"): $found"
done
reaches airflow-scheduler mlflow 5000 || fail "the tasks do not reach MLflow"
reaches airflow-scheduler images 8000 || fail "the tasks do not reach the images"
! reaches airflow-api-server mlflow 5000 || fail "the API server reaches MLflow"
! reaches mlflow airflow-api-server 8080 || fail "MLflow reaches Airflow"
! reaches images postgres 5432 || fail "the images' server reaches the database"

say "in a browser"
CAPTIONFLOW_E2E_URL=http://localhost:8080 CAPTIONFLOW_E2E_PASSWORD=$(sed -n 's/^ADMIN_PASSWORD=//p' .env) CI=true \
  .venv/bin/python -m pytest -q tests/e2e

say "a run with the form's defaults, and the TFX pipeline beside it"
started=$SECONDS
trigger image_captioning defaults '{}'
wait_for "training" task_is defaults train running
sleep 20
docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' | grep "$COMPOSE_PROJECT_NAME" \
  | while read -r name used _; do figure "memory of $(cut -d_ -f2 <<< "${name//-test-/-test_}")" "$used"; done
succeeds defaults
figure "a run at the defaults" "$((SECONDS - started)) s"
started=$SECONDS
trigger image_captioning_tfx tfx '{}'
succeeds tfx
figure "a run of the TFX DAG" "$((SECONDS - started)) s"

say "the scheduler is killed in a run"
started=$SECONDS
trigger image_captioning killed "$quick"
wait_for "training" task_is killed train running
# shellcheck disable=SC2016  # for the container's shell
inside airflow-scheduler sh -c 'kill -9 $(cat /proc/1/task/1/children)' || true
succeeds killed
[ "$(docker inspect --format '{{.RestartCount}}' "$($compose ps -q airflow-scheduler)")" -ge 1 ] || fail "it was not killed"
figure "a run, scheduler killed" "$((SECONDS - started)) s"

say "PostgreSQL is restarted in a run"
started=$SECONDS
trigger image_captioning restarted "$quick"
wait_for "training" task_is restarted train running
$compose restart postgres 2> /dev/null
succeeds restarted
figure "a run, database restarted" "$((SECONDS - started)) s"

say "down and up: history and artifacts stay"
runs=$(sql airflow "SELECT count(*) FROM dag_run WHERE state = 'success'")
tracked=$(sql mlflow "SELECT count(*) FROM runs WHERE status = 'FINISHED'")
$compose logs --no-color > "$figures.logs" 2>&1
$compose down 2> /dev/null
up "from up to healthy again"
[ "$(sql airflow "SELECT count(*) FROM dag_run WHERE state = 'success'")" = "$runs" ] || fail "runs were lost"
[ "$(sql mlflow "SELECT count(*) FROM runs WHERE status = 'FINISHED'")" = "$tracked" ] || fail "MLflow's runs were lost"
[ "$tracked" -ge 4 ] || fail "MLflow holds $tracked runs"
for run in defaults killed restarted; do
  inside airflow-scheduler captionflow lineage --verify "/artifacts/image_captioning/$run/evaluation" > /dev/null
done

say "no secret in repository, logs, process lists or image"
secrets=$(cut -d= -f2- .env)
kill "$watcher"
$compose logs --no-color >> "$figures.logs" 2>&1
cp .env "$figures.planted"
# nowhere WHAT COMMAND...: the command, given the secrets to look for, prints nothing
nowhere() {
  local what=$1 found
  shift
  found=$("$@" <<< "$secrets" 2> /dev/null) || true
  [ -z "$found" ] || fail "a secret is in $what: $found"
}
(nowhere "the file where it was put" grep -lFf - "$figures.planted") 2> /dev/null && fail "the search finds nothing"
nowhere "the stack's logs" grep -lFf - "$figures.logs"
for program in airflow-init.sh "airflow scheduler" "mlflow server"; do
  grep -q "$program" "$figures.processes" || fail "the processes were not watched: no $program"
done
nowhere "a process list" grep -Ff - "$figures.processes"
nowhere "the repository" git grep -lFf -
nowhere "the image's history" grep -lFf - <(docker image history --no-trunc captionflow)
nowhere "the tasks' logs or the artifacts" \
  docker exec --interactive "$($compose ps -q airflow-scheduler)" grep -rlFf - /opt/code /home/captionflow /artifacts
nowhere "the image" docker run --rm --interactive captionflow grep -rlFf - /opt/code /home /etc
say "all passed"
cat "$figures"
