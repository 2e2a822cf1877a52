"""`airflow dags test` with a run id that is known: that command's own holds the time.

    python -m tests.dag_test DAG_ID LOGICAL_DATE CONF
    python -m tests.dag_test DAG_ID FIRST_LOGICAL_DATE --each < RUNS

RUNS is JSON, [{"conf": {…}, "env": {…}}, …]; the logical dates are a minute apart. Each run is a process of its own,
forked when Airflow has been imported, which takes longest; a line of JSON tells of each: [whether it succeeded, what it
said].
"""

import json
import os
import sys
import tempfile
import traceback
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from airflow import settings
from airflow.utils.cli import get_bagged_dag
from airflow.utils.state import DagRunState

IMPORTED_FIRST = (
    "airflow.api_fastapi.execution_api.app",
    "airflow.providers.google.cloud.hooks.dataflow",
    "apache_beam.options.pipeline_options",
)


def run(dag_id: str, moment: datetime, conf: dict[str, Any]) -> bool:
    """Run the DAG to its end; tell whether it succeeded."""
    settings.initialize()
    done = get_bagged_dag(None, dag_id).test(logical_date=moment, run_after=moment, run_conf=conf)
    return done.state == DagRunState.SUCCESS


def each(dag_id: str, first: datetime, runs: list[dict[str, Any]]) -> None:
    """Run the DAG in each of the ways."""
    for module in IMPORTED_FIRST:
        import_module(module)
    for number, request in enumerate(runs):
        with tempfile.TemporaryFile() as said:
            if not (child := os.fork()):
                for stream in (1, 2):
                    os.dup2(said.fileno(), stream)
                os.environ.update(request["env"])
                succeeded = False
                try:
                    succeeded = run(dag_id, first + timedelta(minutes=number), request["conf"])
                except BaseException:
                    traceback.print_exc()
                sys.stdout.flush()
                os._exit(not succeeded)
            _, status = os.waitpid(child, 0)
            said.seek(0)
            print(json.dumps([status == 0, said.read().decode(errors="replace")]), flush=True)


if __name__ == "__main__":
    dag_id, logical_date, conf = sys.argv[1:]
    moment = datetime.fromisoformat(logical_date)
    if conf == "--each":
        each(dag_id, moment, json.load(sys.stdin))
    else:
        sys.exit(not run(dag_id, moment, json.loads(conf)))
