"""What all other packages use: errors, parameters, URIs, manifests, artifacts, records.

No step lives here. It imports nothing of ours, and of libraries fsspec, fastavro and pyarrow for shards, and MLflow
for tracking.
"""
