"""`airflow dags test` with a run id that is known: that command's own holds the time.

python -m tests.dag_test DAG_ID LOGICAL_DATE CONF
"""

import json
import sys
from datetime import datetime

from airflow import settings
from airflow.utils.cli import get_bagged_dag
from airflow.utils.state import DagRunState


def main(dag_id: str, logical_date: str, conf: str) -> None:
    """Run the DAG to its end, and exit with 1 if it fails."""
    settings.initialize()
    moment = datetime.fromisoformat(logical_date)
    run = get_bagged_dag(None, dag_id).test(logical_date=moment, run_after=moment, run_conf=json.loads(conf))
    sys.exit(run.state != DagRunState.SUCCESS)


if __name__ == "__main__":
    main(*sys.argv[1:])
