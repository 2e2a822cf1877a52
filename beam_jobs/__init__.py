"""Beam pipelines. The logic they wire together is in `captionflow`."""
