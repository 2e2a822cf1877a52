"""Caption files: fetch them, recognise their format, read their rows; the ingest step.

Pictures are not fetched here. It imports `core` and `web`.
"""
