"""Operators whose fields hold no templates, so that no text of a run becomes one."""

from typing import Any

from airflow.sdk import BaseOperator


class PlainText(BaseOperator):
    """Mixed into an operator: what other tasks made is put into its fields, and text stays as it is.

    Airflow renders fields anew when a task goes on after it waited; by then they may hold values of the form.
    """

    def render_template(self, content: Any, *arguments: Any, **named: Any) -> Any:
        """Render what is in a field, which Airflow does piece by piece."""
        return content if isinstance(content, str) else super().render_template(content, *arguments, **named)
