"""What a captioner is worth: scores on the test split, and a report to look at.

It imports `core` and `captioner`.
"""
