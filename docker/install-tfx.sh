#!/usr/bin/env bash
# Make TFX's virtual environment, at the versions and hashes of its lock, in a Debian image:
#   docker/install-tfx.sh FOLDER
# Run it as root where tfx_pipeline/requirements.lock is, with uv on the PATH.
set -euo pipefail
# pyfarmhash is published as source alone. The compiler is gone from the image afterwards.
compiler=(g++ python3-dev)
apt-get update
apt-get install --yes --no-install-recommends "${compiler[@]}"
uv venv --quiet --python python3 "$1"
uv pip install --quiet --python "$1" --require-hashes --requirement tfx_pipeline/requirements.lock
apt-get purge --yes --auto-remove "${compiler[@]}"
rm -rf /var/lib/apt/lists/*
