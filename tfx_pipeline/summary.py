"""What the last run of the pipeline came to, in a few lines."""

from captionflow.core.terminal import one_line
from tfx_pipeline import results
from tfx_pipeline.store import Artifact, Store

_VALIDATORS = ("ExampleValidator", "DriftValidator")


def summary(store: Store) -> str:
    """Return anomalies, scores, blessing and where the model was pushed, of the last run of each component."""
    lines: list[str] = []
    for component in _VALIDATORS:
        for artifact in _outputs(store, component):
            found = results.anomalies(artifact.uri)
            lines += [f"anomaly       {name}: {what}" for name, what in found.items()]
    for artifact in _outputs(store, "Trainer", "Model"):
        lines.append(f"model         {artifact.uri}")
        lines += [
            f"{'training':<13} {name.replace('_', ' ')} {value:.4g}"
            for name, value in results.training(artifact.uri).items()
        ]
    for artifact in _outputs(store, "Evaluator", "ModelEvaluation"):
        lines.append(f"evaluation    {artifact.uri}")
        for part, values in results.metrics(artifact.uri).items():
            lines.append(f"{part:<13} " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        blessed = any(blessing.properties.get("blessed") for blessing in _outputs(store, "Evaluator", "ModelBlessing"))
        lines.append(f"blessed       {'yes' if blessed else 'no: ' + results.failures(artifact.uri)[0]}")
    for artifact in _outputs(store, "Pusher", "PushedModel"):
        pushed = artifact.properties.get("pushed_destination", "nowhere, as it was not blessed")
        lines.append(f"pushed        {pushed}")
    return "\n".join(map(one_line, lines))


def _outputs(store: Store, component: str, kind: str | None = None) -> list[Artifact]:
    execution = store.latest(component)
    outputs = store.outputs(execution) if execution else []
    return [artifact for artifact in outputs if kind in (None, artifact.type)]
