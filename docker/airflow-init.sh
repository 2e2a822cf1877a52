#!/usr/bin/env bash
# What must be there before the other services start: the database's tables, the admin user, the built-in sample.
set -euo pipefail
airflow db migrate
airflow users create --username admin --password="$ADMIN_PASSWORD" --role Admin \
  --firstname Caption --lastname Flow --email admin@localhost > /dev/null
sample=/artifacts/sample
[ -e "$sample/manifest.json" ] || captionflow sample --output "$sample"
if [ ! -e "${sample}_csv/manifest.json" ]; then
  captionflow ingest --sources "$sample/captions.json" --output "${sample}_ingested"
  captionflow csv --ingested "${sample}_ingested" --output "${sample}_csv"
fi
