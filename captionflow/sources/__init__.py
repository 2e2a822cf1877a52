"""Where captions come from: fetching caption files, recognising their format, reading their rows; the ingest step.

Pictures are left where they are. It imports `core` and `web`.
"""
