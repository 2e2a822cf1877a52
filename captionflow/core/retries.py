"""How often an orchestrator tries a step again; the delay doubles each time."""

from datetime import timedelta

RETRIES = 2
RETRY_DELAY = timedelta(seconds=20)
MAX_RETRY_DELAY = timedelta(minutes=10)
