#!/usr/bin/env bash
# Write .env, readable by its owner alone, with secrets of its own for each installation.
set -euo pipefail
secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; }
umask 077
cat > .env <<ENV
FERNET_KEY=$(secret)
SECRET_KEY=$(secret | tr -d =)
POSTGRES_PASSWORD=$(secret | tr -d =)
ADMIN_PASSWORD=$(secret | tr -d = | cut -c1-20)
ENV
