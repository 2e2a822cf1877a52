"""The built-in dataset: drawn scenes with true captions, in COCO's format.

It imports `core`.
"""
