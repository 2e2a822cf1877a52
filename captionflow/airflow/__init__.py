"""What knows Airflow beside the DAG files.

Steps live elsewhere and know no orchestrator. It imports every floor but `cli`.
"""
