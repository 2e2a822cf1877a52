"""The main job on Kubeflow Pipelines: component files, the pipeline made of them, and its submission."""
