"""`airflow dags test` with a run id that is known: that command's own holds the time.

    python -m tests.dag_test DAG_ID LOGICAL_DATE CONF
    python -m tests.dag_test DAG_ID LOGICAL_DATE --each < RUNS

RUNS is JSON, [{"conf": {…}, "env": {…}}, …]. Each run is a process of its own, forked when Airflow has been imported,
which takes longest; a line of JSON tells of each: [whether it succeeded, the tasks that were retried, what it said].
"""

import json
import os
import sys
import tempfile
import traceback
from datetime import datetime
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


def run(dag_id: str, logical_date: str, conf: dict[str, Any]) -> tuple[bool, list[str]]:
    """Run the DAG to its end; tell whether it succeeded, and which tasks were retried."""
    settings.initialize()
    moment = datetime.fromisoformat(logical_date)
    done = get_bagged_dag(None, dag_id).test(logical_date=moment, run_after=moment, run_conf=conf)
    retried = [task.task_id for task in done.get_task_instances() if task.try_number > 1]
    return done.state == DagRunState.SUCCESS, retried


def each(dag_id: str, logical_date: str, runs: list[dict[str, Any]]) -> None:
    """Run the DAG in each of the ways."""
    for module in IMPORTED_FIRST:
        import_module(module)
    for request in runs:
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as answer:
            if not (child := os.fork()):
                for stream in (1, 2):
                    os.dup2(said.fileno(), stream)
                os.environ.update(request["env"])
                try:
                    answer.write(json.dumps(run(dag_id, logical_date, request["conf"])).encode())
                    answer.flush()
                except BaseException:
                    traceback.print_exc()
                sys.stdout.flush()
                os._exit(0)
            os.waitpid(child, 0)
            texts = []
            for file in (said, answer):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            print(json.dumps([*json.loads(texts[1] or "[false, []]"), texts[0]]), flush=True)


if __name__ == "__main__":
    dag_id, logical_date, conf = sys.argv[1:]
    if conf == "--each":
        each(dag_id, logical_date, json.load(sys.stdin))
    else:
        sys.exit(not run(dag_id, logical_date, json.loads(conf))[0])
