#!/usr/bin/env bash
# Bring a Cloud Composer environment to the state of this checkout; `--help` tells how.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'HELP'
Create or update a Cloud Composer 3 environment, and try it.

  make composer-package TFX_IMAGE=… TFX_CSV=gs://… TFX_ROOT=gs://…
  deploy/composer/deploy.sh --project PROJECT --location REGION --environment NAME \
    --service-account ACCOUNT --artifact-root gs://BUCKET/captionflow [--dry-run]

Needed:
  --project          Google Cloud project
  --location         region, such as europe-west4
  --environment      name of the environment; the folders dags and plugins and the file config/pip/pip.conf of its
                     bucket are ours alone: what is there and not of this package is deleted
  --service-account  e-mail of the account that Airflow's tasks run as
  --artifact-root    gs:// folder that receives the artifacts

Optional:
  --vertex-root URI               gs:// folder for Vertex AI's own files; by default vertex below the artifact root
  --vertex-service-account EMAIL  account that Vertex AI's steps run as; by default that of Airflow's tasks
  --set NAME=VALUE                a setting of the DAGs, such as TRAIN_ON=vertex, which becomes the environment variable
                                  CAPTIONFLOW_NAME (docs/settings.md); may be repeated
  --image-version VERSION         Composer's image; by default the newest build of the Airflow that the tests know
  --size SIZE                     small, medium or large; for a new environment, by default small
  --package FOLDER                by default build/composer
  --variables FILE                Airflow variables to set, as JSON: {"name": "value"}
  --conf JSON                     what the DAG's form is given for the run at the end, such as {"epochs": 4}
  --no-smoke-run                  do not run the DAG at the end
  --dry-run                       print each action and run nothing

What it does, in this order; it changes only what differs:
  1. the environment is created, if there is none of that name
  2. our wheel is published in the Python repository captionflow-python of Artifact Registry, and pip.conf names that
  3. its PyPI packages become those of the package's requirements.txt
  4. its environment variables CAPTIONFLOW_… are set; others stay as they are
  5. the DAGs are copied to its bucket, and what is gone from the package is deleted there
  6. the connection google_cloud_default and the variables are imported
  7. image_captioning runs on the built-in sample, which is copied below the artifact root first

It may be stopped and started again at any point. Steps 1, 3 and 4 take up to half an hour each time they change something.
HELP
}

fail() {
  echo "deploy.sh: $1" >&2
  exit 2
}

project='' location='' environment='' account='' root=''
vertex_root='' vertex_account='' image='' size=small package=build/composer variables='' conf='{}' smoke=yes dry=''
settings=()

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit ;;
    --dry-run) dry=yes; shift; continue ;;
    --no-smoke-run) smoke=''; shift; continue ;;
    --*) [ $# -ge 2 ] || fail "$1: needs a value; see --help" ;;
    *) fail "$1: not an option; see --help" ;;
  esac
  case $1 in
    --project) project=$2 ;;
    --location) location=$2 ;;
    --environment) environment=$2 ;;
    --service-account) account=$2 ;;
    --artifact-root) root=${2%/} ;;
    --vertex-root) vertex_root=${2%/} ;;
    --vertex-service-account) vertex_account=$2 ;;
    --set) settings+=("$2") ;;
    --image-version) image=$2 ;;
    --size) size=$2 ;;
    --package) package=$2 ;;
    --variables) variables=$2 ;;
    --conf) conf=$2 ;;
    *) fail "$1: unknown; see --help" ;;
  esac
  shift 2
done

check() { # name, value, pattern
  [ -n "$2" ] || fail "$1: is missing; see --help"
  [[ $2 =~ ^$3$ ]] || fail "$1: '$2' does not look right; see --help"
}
gs_folder='gs://[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9._/-]+)?'
email='[a-z0-9.-]+@[a-z0-9.-]+'
check --project "$project" '[a-z][a-z0-9.:-]+'
check --location "$location" '[a-z]+-[a-z]+[0-9]+'
check --environment "$environment" '[a-z]([a-z0-9-]*[a-z0-9])?'
check --service-account "$account" "$email"
check --artifact-root "$root" "$gs_folder"
check --size "$size" 'small|medium|large'
# The version of Airflow is stated in image.in alone. Composer takes a name without a build for its newest one.
image=${image:-composer-3-airflow-$(sed -n 's/^apache-airflow==//p' deploy/composer/image.in)}
check --image-version "$image" 'composer-3-airflow-[0-9.]+(-build\.[0-9]+)?'
check --vertex-root "${vertex_root:=$root/vertex}" "$gs_folder"
check --vertex-service-account "${vertex_account:=$account}" "$email"
for setting in ${settings+"${settings[@]}"}; do
  # A | parts the variables from each other on gcloud's command line.
  check --set "$setting" '[A-Z][A-Z0-9_]*=[^|]*'
done
version=$([ ! -f "$package/requirements.txt" ] || sed -n 's/^captionflow==//p' "$package/requirements.txt")
wheel=$package/captionflow-$version-py3-none-any.whl
[ -f "$wheel" ] || fail "--package: $package is no package; 'make composer-package' builds one"
[ -z "$variables" ] || [ -f "$variables" ] || fail "--variables: $variables: no such file"
PATH=$PATH:$PWD/.venv/bin # uv is there, as 'make composer-package' left it
[ -n "$dry" ] || command -v gcloud > /dev/null || fail "gcloud is not installed"
for tool in python3 uv; do
  command -v "$tool" > /dev/null || fail "$tool is not installed"
done
python3 -c 'import json, sys; sys.exit(type(json.loads(sys.argv[1])) is not dict)' "$conf" 2> /dev/null \
  || fail "--conf: no JSON object like {\"epochs\": 4}"

where=(--project "$project" --location "$location")
repository=captionflow-python
temporary=$(mktemp -d) uploaded=''
endings=(HUP INT QUIT ABRT PIPE ALRM TERM USR1 USR2 XCPU)
trap clean_up EXIT

clean_up() {
  trap '' "${endings[@]}" # an impatient second Ctrl-C does not stop the removal
  remove_uploaded || true
  rm -rf "$temporary"
}

say() { echo "== $*" >&2; }

# Run a command; in a dry run print it, as a shell would take it.
act() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Whether a command finds something; in a dry run, which shows it, it does not.
finds() {
  if [ -n "$dry" ]; then
    act "$@"
    return 1
  fi
  "$@" > /dev/null 2>&1
}

airflow_in_composer() { # command, its subcommand, further arguments
  act gcloud composer environments run "$environment" "${where[@]}" "$1" "$2" -- "${@:3}"
}

update() { act gcloud composer environments update "$environment" "${where[@]}" "$@"; }

# Write what the environment is to a file; fail if it cannot be told. No environment leaves an empty file.
describe() {
  act gcloud composer environments list --project "$project" --locations "$location" \
    --filter "name:/environments/$environment" --format 'value(name.basename())' > "$temporary/names"
  : > "$temporary/environment.json"
  if [ -n "$dry" ] || grep -qxF "$environment" "$temporary/names"; then
    act gcloud composer environments describe "$environment" "${where[@]}" --format json > "$temporary/environment.json"
  fi
}

# Whether the environment has other values than a file, one name=value a line; in a dry run it has.
differs() { # section of softwareConfig, file
  [ -n "$dry" ] || ! python3 deploy/composer/environment_has.py "$temporary/environment.json" "$@"
}

create() {
  say "1. environment $environment"
  describe
  if [ -n "$dry" ]; then
    cat "$temporary/names" "$temporary/environment.json"
    say "only where there is none:"
  elif [ -s "$temporary/environment.json" ]; then
    return
  fi
  act gcloud composer environments create "$environment" "${where[@]}" --image-version "$image" \
    --environment-size "$size" --service-account "$account" --support-web-server-plugins --env-variables "$(variables_in_one)"
  [ -n "$dry" ] || describe
}

# One name=value a line.
variables_of() {
  printf 'CAPTIONFLOW_%s\n' "ARTIFACT_ROOT=$root" "VERTEX_PROJECT=$project" "VERTEX_REGION=$location" \
    "VERTEX_PIPELINE_ROOT=$vertex_root" "VERTEX_SERVICE_ACCOUNT=$vertex_account" ${settings+"${settings[@]}"}
}

# As gcloud takes them, with another sign than the comma between them, since JSON has commas.
variables_in_one() { echo "^|^$(variables_of | paste -sd '|')"; }

publish() { # bucket
  say "2. wheel $version"
  finds gcloud artifacts repositories describe "$repository" "${where[@]}" \
    || act gcloud artifacts repositories create "$repository" "${where[@]}" --repository-format python
  # What .pypirc and pip.conf are to hold: where to publish, and where to install from.
  act gcloud artifacts print-settings python "${where[@]}" --repository "$repository" > "$temporary/settings"
  finds gcloud artifacts versions describe "$version" "${where[@]}" --repository "$repository" --package captionflow \
    || upload
  sed -n '/^\[global\]/,$p' "$temporary/settings" > "$temporary/pip.conf"
  act gcloud storage cp "$temporary/pip.conf" "$1/config/pip/pip.conf"
}

# With the caller's own token, which passes through the environment: a command line others can read.
upload() {
  local -x UV_PUBLISH_PASSWORD=''
  local url
  url=$(sed -n 's/^repository: *//p' "$temporary/settings")
  if [ -n "$dry" ]; then
    cat "$temporary/settings"
    url=URL
  else
    [ -n "$url" ] || fail "gcloud artifacts print-settings names no repository: $(cat "$temporary/settings")"
    UV_PUBLISH_PASSWORD=$(gcloud auth print-access-token)
  fi
  act uv publish --username oauth2accesstoken --publish-url "$url" "$wheel"
}

install() {
  say "3. PyPI packages"
  if differs pypiPackages "$package/requirements.txt"; then
    update --update-pypi-packages-from-file "$package/requirements.txt"
  fi
}

set_variables() {
  say "4. environment variables"
  variables_of > "$temporary/variables"
  if differs envVariables "$temporary/variables"; then
    update --update-env-variables "$(variables_in_one)"
  fi
}

bucket() {
  if [ -n "$dry" ]; then
    echo gs://BUCKET-OF-THE-ENVIRONMENT
  else
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["config"]["dagGcsPrefix"].removesuffix("/dags"))' \
      "$temporary/environment.json"
  fi
}

# Composer's own DAG, which watches over the environment, stays.
mirror() { # folder, URI
  act gcloud storage rsync --recursive --delete-unmatched-destination-objects \
    --exclude '^airflow_monitoring\.py$|(^|/)__pycache__/' "$@"
}

copy() { # bucket
  say "5. DAGs"
  # Earlier versions copied our packages to plugins, where they would come before the wheel.
  mkdir "$temporary/plugins"
  mirror "$temporary/plugins" "$1/plugins"
  mirror "$package/dags" "$1/dags"
}

import_file() { # what, file, bucket, further arguments
  local name=captionflow/$1.json
  # With a trap bash lets gcloud end first: an upload left behind would come after the removal.
  local signal
  for signal in "${endings[@]}"; do
    # shellcheck disable=SC2064 # the number is known now
    trap "exit $((128 + $(kill -l "$signal")))" "$signal"
  done
  uploaded=$3/data/$name
  act gcloud storage cp "$2" "$uploaded"
  airflow_in_composer "$1" import "/home/airflow/gcs/data/$name" "${@:4}"
  remove_uploaded
  trap - "${endings[@]}"
}

# What Airflow imports may hold secrets; the bucket keeps none, however this ends.
remove_uploaded() {
  [ -n "$uploaded" ] || return 0
  # What it says goes to a file: whoever reads ours may be gone, which would end it before it has removed anything.
  local said=$temporary/removal
  if [ -n "$dry" ]; then
    act gcloud storage rm "$uploaded"
  elif ! gcloud storage rm "$uploaded" > "$said" 2>&1; then
    echo "deploy.sh: $uploaded may still be there, with secrets in it; remove it: $(cat "$said")" >&2
    return 1
  fi
  uploaded=''
}

connect() {
  say "6. connection and variables"
  printf '{"google_cloud_default": {"conn_type": "google_cloud_platform", "extra": {"project": "%s"}}}\n' "$project" \
    > "$temporary/connections.json"
  import_file connections "$temporary/connections.json" "$1" --overwrite
  if [ -n "$variables" ]; then
    import_file variables "$variables" "$1"
  fi
}

# Try again while Airflow has not read the DAG or the run has not ended.
patiently() {
  local look
  for ((look = 0; look < ${DEPLOY_LOOKS:-120}; look++)); do
    if "$@"; then return; fi
    sleep "${DEPLOY_PAUSE:-30}"
  done
  echo "deploy.sh: gave up waiting; see $environment in Airflow's pages" >&2
  exit 1
}

ended() { # run id
  local said
  said=$(airflow_in_composer dags state image_captioning "$1")
  if grep -q '^failed' <<< "$said"; then
    echo "deploy.sh: the run $1 failed; see its logs in Airflow" >&2
    exit 1
  fi
  if [ -n "$dry" ]; then echo "$said"; else grep -q '^success' <<< "$said"; fi
}

smoke_run() {
  local run_at
  say "7. image_captioning on the built-in sample"
  run_at=$(date -u +%Y-%m-%dT%H:%M:%S+00:00)
  act gcloud storage rsync --recursive "$package/sample" "$root/sample"
  # `dags unpause` succeeds too where Airflow does not know the DAG yet; `dags details` does not.
  patiently airflow_in_composer dags details image_captioning
  airflow_in_composer dags unpause image_captioning
  airflow_in_composer dags trigger image_captioning --logical-date "$run_at" --run-id "deploy__$run_at" --conf "$conf"
  patiently ended "deploy__$run_at"
}

create
bucket=$(bucket)
publish "$bucket"
install
set_variables
copy "$bucket"
connect "$bucket"
if [ -n "$smoke" ]; then
  smoke_run
fi
say "done"
