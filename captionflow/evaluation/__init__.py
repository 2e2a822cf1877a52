"""Evaluate a captioner: scores on the test split, and a report.

It imports `core` and `captioner`.
"""
