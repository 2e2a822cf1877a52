#!/usr/bin/env bash
# Make TFX's virtual environment, at the versions and hashes of its lock, in a Debian image:
#   docker/install-tfx.sh FOLDER
# Run it as root where tfx_pipeline/requirements.lock is, with uv on the PATH.
set -euo pipefail
# pyfarmhash is published as source alone. The compiler is gone from the image afterwards.
compiler=(g++ python3-dev)
apt-get update -qq
apt-get install --yes -qq --no-install-recommends "${compiler[@]}" > /dev/null
uv venv --quiet --python python3 "$1"
# Synced, not resolved: TFX's own pins, which the lock overrides, would refuse it.
lock=tfx_pipeline/requirements.lock
uv pip sync --quiet --python "$1" --require-hashes --build-constraints $lock --require-build-hashes $lock
apt-get purge --yes -qq --auto-remove "${compiler[@]}" > /dev/null
rm -rf /var/lib/apt/lists/*
