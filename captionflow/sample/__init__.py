"""The built-in dataset: drawn scenes with captions that are true, in COCO's format.

It imports `core`.
"""
