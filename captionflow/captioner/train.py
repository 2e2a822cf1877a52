"""Train: the preprocessed artifact → the model artifact.

It needs only torch, numpy, Pillow, fastavro, pyarrow, fsspec, safetensors and tqdm, and MLflow for tracking. Two runs
on the same CPU give identical weights.
"""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from captionflow.captioner.dataset import Batch, Collate, Samples, loader
from captionflow.captioner.model import Captioner, ModelConfig
from captionflow.captioner.models import BUILT_IN, captioner_named
from captionflow.captioner.parameters import TrainParameters
from captionflow.captioner.vocabulary import SPECIAL_TOKENS, Vocabulary, count_tokens
from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.steps import MODEL, PREPROCESSED
from captionflow.core.tracking import Tracking, track

_LOG = logging.getLogger(__name__)

_LARGEST_EXPONENT = 700.0  # e to the power of 710 is too large for a float

WEIGHTS, CONFIG, VOCABULARY, HISTORY = "model.safetensors", "config.json", "vocabulary.json", "history.json"


def train(preprocessed: str, output: str, parameters: TrainParameters) -> str:
    """Train on the train split, keep the weights that are best on the val split, commit at `output`; returns its URI.

    `history.json` holds a row for each epoch: train_loss (label-smoothed) and val_loss, in nats a token.

    A loss that is not a finite number ends the training; the best weights until then are kept. The manifest's count
    `stopped_by` holds what ended the training.

    Raises:
        InvalidInputError: a split is empty or differs from its manifest, or a parameter does not fit the images.
        StepFailedError: the first epoch's loss is not a finite number.
    """
    source = open_artifact(preprocessed, PREPROCESSED)
    device = choose_device(parameters.device)
    # Every shard is checked against the manifest once: those of val here, those of train while their words are counted.
    source.verify("val/")
    if not source.count("splits", "test", default=0):
        _LOG.warning("%s: its test split is empty, so there will be nothing to evaluate the model on", source.uri)
    words = count_tokens(c.text for sample in Samples(source, "train", check=True) for c in sample.captions)
    vocabulary = Vocabulary.build(words, parameters.min_count, parameters.max_vocabulary)
    samples, val_samples = Samples(source, "train", parameters.seed), Samples(source, "val")
    config = _model_config(parameters, len(vocabulary), samples.images.image_size)
    # Models were made before there was a choice, and the bytes of such a one do not change.
    named = {} if parameters.captioner == BUILT_IN else {"captioner": parameters.captioner}
    draft = begin(output, MODEL, parameters.to_json(), [source.parent])

    torch.manual_seed(parameters.seed)
    model = captioner_named(parameters.captioner)(config).to(device)
    collate = Collate(vocabulary, samples.images.image_format, parameters.max_caption_length)
    train_batches = loader(samples, collate, parameters.batch_size, parameters.loader_workers)
    val_batches = loader(val_samples, collate, parameters.batch_size)

    with track(draft) as tracking:
        history, weights, stopped_by = _fit(model, samples, train_batches, val_batches, parameters, device, tracking)
        best = min(history, key=lambda row: row["val_loss"])
        files = [
            draft.put(WEIGHTS, save(weights)),
            draft.put(CONFIG, _to_json({"model": asdict(config), "images": source.manifest.parameters, **named})),
            draft.put(VOCABULARY, vocabulary.to_json()),
            draft.put(HISTORY, _to_json(history)),
        ]
        manifest = draft.commit(
            files,
            counts={
                "epochs": len(history),
                "best_epoch": best["epoch"],
                "stopped_by": stopped_by,
                "vocabulary": len(vocabulary),
                "words_left_out": len(words) - (len(vocabulary) - len(SPECIAL_TOKENS)),
                "weights": sum(weight.numel() for weight in model.parameters()),
            },
            metrics={
                "val_loss": best["val_loss"],
                "val_perplexity": math.exp(min(best["val_loss"], _LARGEST_EXPONENT)),
            },
            run={"device": str(device), **tracking.note},
        )
        tracking.result(draft.uri, manifest)
    return draft.uri


def choose_device(name: str) -> torch.device:
    """Return the device `name`; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InvalidInputError: this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_available in available.items() if is_available)
    if not available[name]:
        raise InvalidInputError(f"--device: this machine has no {name}")
    return torch.device(name)


def _model_config(parameters: TrainParameters, vocabulary_size: int, image_size: int) -> ModelConfig:
    try:
        return ModelConfig(
            vocabulary_size=vocabulary_size,
            image_size=image_size,
            width=parameters.width,
            encoder_depth=parameters.encoder_depth,
            decoder_depth=parameters.decoder_depth,
            heads=parameters.heads,
            dropout=parameters.dropout,
            max_length=parameters.max_caption_length,
        )
    except ValueError as error:
        raise InvalidInputError(str(error)) from error


def _fit(
    model: Captioner,
    samples: Samples,
    train_batches: DataLoader[Batch],
    val_batches: DataLoader[Batch],
    parameters: TrainParameters,
    device: torch.device,
    tracking: Tracking,
) -> tuple[list[dict[str, Any]], dict[str, Tensor], str]:
    """Run the epochs; returns the history, the best epoch's weights (on the CPU) and what ended the training.

    Raises:
        StepFailedError: the first epoch's loss is not a finite number.
    """
    steps_per_epoch = math.ceil(samples.count / parameters.batch_size)
    optimizer = _optimizer(model, parameters)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: _learning_rate_factor(step, parameters.epochs * steps_per_epoch, parameters.warmup_share),
    )
    history: list[dict[str, Any]] = []
    best_loss, best_weights, since_best, stopped_by = math.inf, _copy_of_weights(model), 0, "epochs"
    progress = tqdm(range(1, parameters.epochs + 1), "train", unit=" epochs", disable=None)
    for epoch in progress:
        samples.epoch = epoch
        train_loss = _train_epoch(model, train_batches, optimizer, schedule, parameters, device)
        val_loss = _mean_loss(model, val_batches, device)
        if not math.isfinite(val_loss):
            stopped_by = f"the validation loss of epoch {epoch} is {val_loss}: try a lower --learning-rate"
            if not history:
                raise StepFailedError(stopped_by)
            _LOG.warning("%s; the best epoch before it is kept", stopped_by)
            break
        history.append({"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss})
        tracking.metrics({"epoch/train_loss": train_loss, "epoch/val_loss": val_loss}, step=epoch)
        _LOG.info("epoch %d: train loss %.3f, validation loss %.3f", epoch, train_loss, val_loss)
        progress.set_postfix(train_loss=f"{train_loss:.3f}", val_loss=f"{val_loss:.3f}")
        if val_loss < best_loss:
            best_loss, best_weights, since_best = val_loss, _copy_of_weights(model), 0
        else:
            since_best += 1
            if since_best >= parameters.patience:
                stopped_by = "patience"
                break
    return history, best_weights, stopped_by


def _optimizer(model: Captioner, parameters: TrainParameters) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019); biases, norms and other vectors are not decayed."""
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": parameters.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, parameters.learning_rate, betas=(0.9, 0.95))


def _train_epoch(
    model: Captioner,
    batches: DataLoader[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    parameters: TrainParameters,
    device: torch.device,
) -> float:
    model.train()
    losses = []
    for batch in _to_device(device, batches):
        with _autocast(device):
            loss = model.loss(batch.images, batch.tokens, parameters.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
        torch.nn.utils.clip_grad_norm_(model.parameters(), parameters.gradient_clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def _mean_loss(model: Captioner, batches: DataLoader[Batch], device: torch.device) -> float:
    """Mean over the pictures of the loss without label smoothing, nats a token."""
    model.eval()
    total, pictures = 0.0, 0
    for batch in _to_device(device, batches):
        with _autocast(device):
            total += float(model.loss(batch.images, batch.tokens)) * len(batch.images)
        pictures += len(batch.images)
    return total / pictures


def _to_device(device: torch.device, batches: DataLoader[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield batch.to(device)


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def _learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Linear warm-up from 0 to 1, then half a cosine down to 0 (Loshchilov and Hutter 2017)."""
    warmup = warmup_share * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup))))


def _copy_of_weights(model: Captioner) -> dict[str, Tensor]:
    return {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in model.state_dict().items()}


def _to_json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()
