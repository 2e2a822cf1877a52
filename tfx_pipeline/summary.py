"""The results of the pipeline's last run, in a few lines."""

from captionflow.core.terminal import one_line
from tfx_pipeline import results
from tfx_pipeline.store import Artifact, Store

_VALIDATORS = ("ExampleValidator", "DriftValidator")


def summary(store: Store) -> str:
    """Return the anomalies, scores and blessing, and the folder of the pushed model, of each component's last run."""
    lines: list[str] = []
    for component in _VALIDATORS:
        for artifact in _outputs(store, component):
            anomalies = results.anomalies(artifact.uri)
            lines += [f"anomaly       {name}: {description}" for name, description in anomalies.items()]
    for artifact in _outputs(store, "Trainer", "Model"):
        lines.append(f"model         {artifact.uri}")
        lines += [
            f"{'training':<13} {name.replace('_', ' ')} {value:.4g}"
            for name, value in results.training(artifact.uri).items()
        ]
    for artifact in _outputs(store, "Evaluator", "ModelEvaluation"):
        lines.append(f"evaluation    {artifact.uri}")
        for slice_, values in results.metrics(artifact.uri).items():
            lines.append(f"{slice_:<13} " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        blessed = any(blessing.properties.get("blessed") for blessing in _outputs(store, "Evaluator", "ModelBlessing"))
        lines.append(f"blessed       {'yes' if blessed else 'no: ' + results.failures(artifact.uri)[0]}")
    for artifact in _outputs(store, "Pusher", "PushedModel"):
        pushed = artifact.properties.get("pushed_destination", "nowhere, as it was not blessed")
        lines.append(f"pushed        {pushed}")
    return "\n".join(map(one_line, lines))


def _outputs(store: Store, component: str, artifact_type: str | None = None) -> list[Artifact]:
    execution = store.latest(component)
    outputs = store.outputs(execution) if execution else []
    return [artifact for artifact in outputs if artifact_type in (None, artifact.type)]
