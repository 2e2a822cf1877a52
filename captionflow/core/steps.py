"""The table of steps: the name of each, its inputs, its output, and where its code is.

From it come the commands, the tasks of the DAG, the containers and component files of Kubeflow, the summary of a run
and the table in the docs. A new step is one module and one row here. A step's code is imported only when the
step runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from captionflow.core.parameters import Parameters

# The kinds of artifact.
SAMPLE = "sample"
INGESTED = "ingested"
VALIDATION = "validation"
CSV = "csv"
PREPROCESSED = "preprocessed"
MODEL = "model"
EVALUATION = "evaluation"

WORKER, WORKER_OR_BEAM, BEAM, TRAINING = "worker", "worker or beam", "beam", "training"
"""How an orchestrator runs a step: in its own worker, there or as a Beam job as the run says, always as a Beam job, or
where the deployment trains."""

REPORT, DATASET_PAGE = "report.html", "dataset.html"
PAGES = {VALIDATION: REPORT, PREPROCESSED: DATASET_PAGE, EVALUATION: REPORT}
"""Kind of artifact → the file of it that one looks at."""


@dataclass(frozen=True)
class Step:
    """A step, called as `function(**{input: URI}, output=URI, parameters=…)`; it returns the URI of its artifact.

    Args:
        name: its name as a command and as a task.
        description: what it does, in a sentence.
        function: where it is, as `module:function`.
        output: the kind of artifact that it makes.
        extra: the extra of this package that installs what it needs; the image of a task's container is named after it.
        inputs: name of an argument → kind of the artifact whose URI it takes.
        after: kinds of artifact that must be there before, though it reads none of them: without them it does not run.
        parameters: its class of parameters, as `module:class`; None if it has none.
        runs_in: `WORKER`, `WORKER_OR_BEAM`, `BEAM` or `TRAINING`.
        in_workflow: whether it is a task of the main job, or a command alone.
    """

    name: str
    description: str
    function: str
    output: str
    extra: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    parameters: str | None = None
    runs_in: str = WORKER
    in_workflow: bool = True

    def load(self) -> Callable[..., str]:
        """Import the function."""
        found: Callable[..., str] = _at(self.function)
        return found

    def run(self, uris: Mapping[str, str], output: str, parameters: Parameters) -> str:
        """Do the step and return the URI of its artifact."""
        return self.load()(**uris, output=output, **({"parameters": parameters} if self.parameters else {}))

    @property
    def parameters_class(self) -> type[Parameters]:
        """The class of its parameters; the base, which has no fields, if it has none."""
        return _at(self.parameters) if self.parameters else Parameters


def _at(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


STEPS = (
    Step(
        "sample",
        "Draw the built-in dataset: coloured shapes with five true captions each, in COCO's format.",
        "captionflow.sample.sample:sample",
        SAMPLE,
        extra="preprocessing",
        parameters="captionflow.sample.parameters:SampleParameters",
        in_workflow=False,
    ),
    Step(
        "ingest",
        "Read captions from COCO JSON, Parquet, CSV, JSON Lines and others; "
        "rows that cannot be used become counted rejects.",
        "beam_jobs.ingest:ingest",
        INGESTED,
        parameters="beam_jobs.parameters:IngestJobParameters",
        extra="ingestion",
        runs_in=WORKER_OR_BEAM,
    ),
    Step(
        "csv",
        "Write the ingested captions as CSV, the form that TFX reads.",
        "captionflow.sources.csv_export:export_csv",
        CSV,
        inputs={"ingested": INGESTED},
        extra="ingestion",
        in_workflow=False,
    ),
    Step(
        "validate",
        "Measure the ingested captions, and compare them with a schema and with those of before.",
        "captionflow.validation.validate:validate",
        VALIDATION,
        inputs={"ingested": INGESTED},
        parameters="captionflow.validation.parameters:ValidateParameters",
        extra="validation",
    ),
    Step(
        "preprocess",
        "Fetch, filter, resize and shard the images, as an Apache Beam job.",
        "beam_jobs.preprocess:preprocess",
        PREPROCESSED,
        inputs={"ingested": INGESTED},
        after=(VALIDATION,),
        parameters="beam_jobs.parameters:JobParameters",
        extra="preprocessing",
        runs_in=BEAM,
    ),
    Step(
        "train",
        "Train the captioner and keep its best checkpoint.",
        "captionflow.captioner.train:train",
        MODEL,
        inputs={"preprocessed": PREPROCESSED},
        parameters="captionflow.captioner.parameters:TrainParameters",
        extra="train",
        runs_in=TRAINING,
    ),
    Step(
        "evaluate",
        "Caption the test split, score it (BLEU, ROUGE-L, CIDEr) and write a report to look at.",
        "captionflow.evaluation.evaluate:evaluate",
        EVALUATION,
        inputs={"model": MODEL, "preprocessed": PREPROCESSED},
        parameters="captionflow.evaluation.parameters:EvaluateParameters",
        extra="evaluation",
        runs_in=TRAINING,
    ),
)


def workflow() -> list[Step]:
    """Return the steps of the main job, in their order."""
    return [step for step in STEPS if step.in_workflow]


def step_named(name: str) -> Step:
    """Return the step of a name."""
    (found,) = (step for step in STEPS if step.name == name)
    return found
