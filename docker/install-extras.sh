#!/usr/bin/env bash
# Make a virtual environment with what some extras of pyproject.toml need, at the versions and hashes of the lock:
#   docker/install-extras.sh FOLDER train,evaluation
# Run it where pyproject.toml and requirements.lock are, with uv on the PATH.
set -euo pipefail
folder=$1
IFS=, read -ra extras <<< "$2"
needed=$folder/requirements.txt
uv venv --quiet --python python3 "$folder"
# The lock as a constraint, twice: it says which version each of them has, and then which hashes.
uv pip compile --quiet --no-annotate --python-version 3.11 --constraint requirements.lock \
  "${extras[@]/#/--extra=}" --output-file "$needed" pyproject.toml
uv pip install --quiet --python "$folder" --require-hashes --constraint requirements.lock --requirement "$needed"
