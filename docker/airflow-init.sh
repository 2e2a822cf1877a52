#!/usr/bin/env bash
# What must be there before the other services start: the database's tables, the admin user, the built-in sample.
set -euo pipefail
airflow db migrate
# From within Python: what a command is given, every user of the machine can read in its process list.
python - > /dev/null <<'PYTHON'
import os, sys
from airflow.__main__ import main

user = {"username": "admin", "password": os.environ["ADMIN_PASSWORD"], "role": "Admin"}
person = {"firstname": "Caption", "lastname": "Flow", "email": "admin@localhost"}
sys.argv = ["airflow", "users", "create", *(f"--{name}={value}" for name, value in {**user, **person}.items())]
main()
PYTHON
sample=/artifacts/sample
[ -e "$sample/manifest.json" ] || captionflow sample --output "$sample"
if [ ! -e "${sample}_csv/manifest.json" ]; then
  captionflow ingest --sources "$sample/captions.json" --output "${sample}_ingested"
  captionflow csv --ingested "${sample}_ingested" --output "${sample}_csv"
fi
