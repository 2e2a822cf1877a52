"""The main job on Kubeflow Pipelines: component files, the pipeline of them, and how it is submitted."""
