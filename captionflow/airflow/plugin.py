"""Makes the reports and the links of a task's page known to Airflow."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from captionflow.airflow.links import REPORTS_PATH, MlflowRunLink, ReportLink


async def reports(scope: Any, receive: Any, send: Any) -> None:
    """Answer as `reports.app`, imported by the first request: workers load plugins too."""
    from captionflow.airflow.reports import app

    await app(scope, receive, send)


class CaptionFlowPlugin(AirflowPlugin):
    """Registers the links and serves the reports."""

    name = "captionflow"
    operator_extra_links: Any = (MlflowRunLink(), ReportLink())
    fastapi_apps: Any = ({"app": reports, "url_prefix": REPORTS_PATH, "name": "CaptionFlow's reports"},)
