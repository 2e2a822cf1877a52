"""Attacks that once went through, and what becomes of them now: `pytest -m security`."""
