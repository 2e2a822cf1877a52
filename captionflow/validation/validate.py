"""Validate: the ingested artifact → statistics, schema, anomalies and a report."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.lineage import lineage, render
from captionflow.core.manifest import Parent
from captionflow.core.steps import INGESTED, REPORT, VALIDATION
from captionflow.core.uris import resolve
from captionflow.validation.anomalies import ANOMALIES, ERROR, Anomaly, Drift, anomalies, drifts, to_rows
from captionflow.validation.measure import measure
from captionflow.validation.parameters import ValidateParameters
from captionflow.validation.report import write_report
from captionflow.validation.schema import SCHEMA, Schema, infer, read_schema
from captionflow.validation.statistics import STATISTICS, Statistics

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Result:
    statistics: Statistics
    baseline: Statistics | None
    schema: Schema
    anomalies: list[Anomaly]
    drifts: list[Drift]


def validate(ingested: str, output: str, parameters: ValidateParameters) -> str:
    """Measure the captions, compare them with schema and baseline, commit the artifact at `output`; returns its URI.

    Counts in the manifest: `captions`, `images`, `anomalies`.

    Raises:
        InvalidInputError: an input is no artifact of its kind, or the schema is none.
        StepFailedError: there are anomalies, and `on_anomaly` is `fail`. The files stay in the folder, without a
            manifest.
    """
    data = open_artifact(ingested, INGESTED)
    given, schema_parent = read_schema(parameters.schema) if parameters.schema else (None, None)
    before = _open_baseline(parameters.baseline) if parameters.baseline else None
    parents = [data.parent, schema_parent, before.parent if before else None]
    # The same artifact may be given as both.
    given_parents = dict.fromkeys(filter(None, parents))
    _check_output(resolve(output), given_parents)
    draft = begin(output, VALIDATION, parameters.to_json(), given_parents)

    statistics = measure(data, parameters.language_sample)
    baseline = _statistics_of(before, parameters.language_sample) if before else None
    schema = given or infer(statistics)
    found = drifts(statistics, baseline, schema, parameters) if baseline else []
    result = _Result(statistics, baseline, schema, anomalies(statistics, schema, found), found)
    files = [
        draft.put(STATISTICS, statistics.to_json()),
        draft.put(SCHEMA, schema.to_json()),
        draft.put(ANOMALIES, _to_json(result)),
        draft.put(REPORT, _report(result, data, is_inferred=given is None, parents=draft.parents).encode()),
    ]
    _judge(result.anomalies, f"{draft.uri}/{REPORT}", may_fail=parameters.on_anomaly == "fail")
    counts = {"captions": statistics.captions, "images": statistics.images, "anomalies": len(result.anomalies)}
    draft.commit(files, counts=counts)
    return draft.uri


def _check_output(output: str, parents: Iterable[Parent]) -> None:
    for parent in parents:
        if parent.uri == output or parent.uri.startswith(f"{output}/"):
            raise InvalidInputError(f"--output: {output} holds {parent.uri}, which is read; choose another folder")


def _open_baseline(uri: str) -> Artifact:
    artifact = open_artifact(uri)
    if artifact.manifest.kind not in (INGESTED, VALIDATION):
        raise InvalidInputError(
            f"--baseline: {artifact.uri}: is an artifact of kind {artifact.manifest.kind}; "
            f"expected {INGESTED} or {VALIDATION}"
        )
    return artifact


def _statistics_of(artifact: Artifact, language_sample: int) -> Statistics:
    if artifact.manifest.kind == INGESTED:
        return measure(artifact, language_sample)
    with artifact.parse(STATISTICS) as file:
        return Statistics.from_json(file.read())


def _judge(found: list[Anomaly], report: str, *, may_fail: bool) -> None:
    """Log the anomalies; raise StepFailedError if one of them is to fail the step."""
    for anomaly in found:
        _LOG.warning("%s: %s; allowed: %s", anomaly.name, anomaly.seen, anomaly.allowed)
    errors = [anomaly.name for anomaly in found if anomaly.severity == ERROR]
    if errors and may_fail:
        raise StepFailedError(
            f"the captions have anomalies: {', '.join(errors)}; see {report}, and change the data or --schema, "
            "or give --on-anomaly warn"
        )


def _to_json(result: _Result) -> bytes:
    rows = {"anomalies": [asdict(anomaly) for anomaly in result.anomalies], "drift": to_rows(result.drifts)}
    return json.dumps(rows, ensure_ascii=False, indent=2).encode() + b"\n"


def _report(result: _Result, data: Artifact, *, is_inferred: bool, parents: tuple[Parent, ...]) -> str:
    # A schema's file has no lineage of its own.
    uris = [parent.uri for parent in parents if parent.kind in (INGESTED, VALIDATION)]
    return write_report(
        **vars(result),
        is_inferred=is_inferred,
        rejected=data.count("captions", "rejected", default=0),
        lineage="\n".join(render(lineage(uri), times=False) for uri in uris),
    )
