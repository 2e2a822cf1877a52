"""CaptionFlow: from a captioned-image collection to a trained, evaluated captioning model.

The modules here are the steps and the data they share. They import no orchestrator and no Beam.
"""
