"""Look at ingested captions before anything is fetched: statistics, a schema, drift, and a report.

It imports `core` alone.
"""
