"""CaptionFlow: from a captioned-image collection to a trained, evaluated captioning model.

A room for each subject. Nothing imports upwards: `cli` is at the top, below it `airflow`; then `evaluation`,
`preprocess` and `sample`; then `captioner` and `sources`; then `images`, `web` and, at the bottom, `core`.
"""
