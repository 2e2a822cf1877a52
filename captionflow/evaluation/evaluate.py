"""Evaluate: model × preprocessed artifact → the evaluation artifact (metrics, predictions, report)."""

import json
from dataclasses import asdict, dataclass, replace

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from tqdm import tqdm

from captionflow.captioner.dataset import Collate, Samples, loader
from captionflow.captioner.generate import TrainedModel, load_model
from captionflow.captioner.train import HISTORY
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.lineage import lineage, render
from captionflow.core.records import Sample
from captionflow.core.steps import EVALUATION, MODEL, PREPROCESSED, REPORT
from captionflow.core.tracking import NOTE, track
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.evaluation.report import Exhibit, write_report

METRICS, PREDICTIONS = "metrics.json", "predictions.jsonl"
_SPLIT = "test"


@dataclass(frozen=True)
class Prediction:
    """A generated caption and its references; `bleu_4` and `cider` are the scores of this picture alone."""

    image_id: int
    image_url: str
    prediction: str
    references: list[str]
    bleu_4: float = 0.0
    cider: float = 0.0


def evaluate(model: str, preprocessed: str, output: str, parameters: EvaluateParameters) -> str:
    """Caption the test split, score it, write the report, commit at `output`; returns its URI.

    Raises:
        InvalidInputError: an input is no artifact of its kind, the test split is empty, or its images have
            another size than those of the training.
    """
    trained, data = open_artifact(model, MODEL), open_artifact(preprocessed, PREPROCESSED)
    samples = Samples(data, _SPLIT, check=True)
    draft = begin(output, EVALUATION, parameters.to_json(), [trained.parent, data.parent])

    with track(draft, trained.manifest.run.get(NOTE)) as tracking:
        metrics, predictions = score(_predict(load_model(model), data, samples, parameters))
        ranked = sorted(predictions, key=lambda p: (-p.cider, -p.bleu_4, p.image_id))
        shown = min(parameters.gallery_size, (len(ranked) + 1) // 2)
        exhibits = _exhibits([*ranked[:shown], *ranked[shown:][::-1][:shown]], data)
        report = write_report(
            metrics=metrics,
            history=json.loads(trained.read(HISTORY)),
            best=exhibits[:shown],
            worst=exhibits[shown:],
            counts=data.manifest.counts,
            lineage=_lineage(trained, data),
        )
        lines = "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in predictions)
        files = [
            draft.put(METRICS, json.dumps(metrics, indent=2).encode()),
            draft.put(PREDICTIONS, lines.encode()),
            draft.put(REPORT, report.encode()),
        ]
        manifest = draft.commit(files, counts={"images": len(predictions)}, metrics=metrics, run=tracking.note)
        tracking.result(draft.uri, manifest)
    return draft.uri


def score(predictions: list[Prediction]) -> tuple[dict[str, float], list[Prediction]]:
    """Return BLEU-1 to 4, ROUGE-L, CIDEr and the share of exact matches, and the predictions with their own scores.

    The scorers are those of the COCO caption challenge. The tokens come from `vocabulary.tokenize` and not from the
    challenge's Java tokeniser, so compare the scores with each other and not with the leaderboard.
    """
    references = {p.image_id: p.references for p in predictions}
    generated = {p.image_id: [p.prediction] for p in predictions}
    bleu, bleu_each = Bleu(4).compute_score(references, generated, verbose=0)
    rouge, _ = Rouge().compute_score(references, generated)
    cider, cider_each = Cider().compute_score(references, generated)
    exact = sum(p.prediction in p.references for p in predictions) / len(predictions)
    metrics = {f"bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)}
    metrics |= {"rouge_l": float(rouge), "cider": float(cider), "exact_match": exact}
    scored = [
        replace(p, bleu_4=float(own_bleu), cider=float(own_cider))
        for p, own_bleu, own_cider in zip(predictions, bleu_each[3], cider_each, strict=True)
    ]
    return metrics, scored


def _predict(model: TrainedModel, data: Artifact, samples: Samples, parameters: EvaluateParameters) -> list[Prediction]:
    stored = samples.images
    if stored.image_size != model.images.image_size:
        raise InvalidInputError(
            f"{data.uri}: its images are {stored.image_size} pixels wide, the model was trained on "
            f"{model.images.image_size}; preprocess with --image-size {model.images.image_size}"
        )
    collate = Collate(model.vocabulary, stored.image_format, model.captioner.config.max_length)
    batches = loader(samples, collate, parameters.evaluate_batch_size)
    progress = tqdm(total=samples.count, desc="evaluate", unit=" images", disable=None)
    predictions = []
    for batch in batches:
        for sample, text in zip(batch.samples, model.caption(batch.images, parameters.beam_size), strict=True):
            references = [caption.text for caption in sample.captions]
            predictions.append(Prediction(sample.image_id, sample.image_url, text, references))
        progress.update(len(batch.samples))
    progress.close()
    return predictions


def _lineage(model: Artifact, data: Artifact) -> str:
    text = render(lineage(model.uri), times=False)
    if data.parent in model.manifest.parents:
        return text
    return f"{text}\n{render(lineage(data.uri), times=False)}"


def _exhibits(predictions: list[Prediction], data: Artifact) -> list[Exhibit]:
    ids = {prediction.image_id for prediction in predictions}
    samples = Samples(data, _SPLIT)
    pictures: dict[int, Sample] = {sample.image_id: sample for sample in samples if sample.image_id in ids}
    image_format = samples.images.image_format
    return [
        Exhibit(pictures[p.image_id], image_format, p.prediction, p.references, p.bleu_4, p.cider) for p in predictions
    ]
