"""What is in an artifact: as text, its manifest without what every other has too, and its first captions; its page."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.lineage import Node, render, section
from captionflow.core.records import CAPTIONS, ImageCaption
from captionflow.core.shards import read_shard, shards_of
from captionflow.core.steps import INGESTED, PAGES, PREPROCESSED, STEPS
from captionflow.core.terminal import one_line

_SHOWN_CAPTIONS = 5
_LONGEST_TEXT = 200


def show(uri: str) -> str:
    """Return an artifact's kind, code, counts, scores, parents, parameters that are not the defaults, first captions.

    Raises:
        InvalidInputError: `uri` is no artifact, or the beginning of the file with its captions was changed.
    """
    artifact = open_artifact(uri)
    manifest = artifact.manifest
    shown = replace(artifact, manifest=replace(manifest, parameters=chosen(manifest.kind, manifest.parameters)))
    lines = section("parents", [f"{parent.kind}  {parent.uri}" for parent in manifest.parents])
    lines += section("captions", map(_shortened, islice(_captions(artifact), _SHOWN_CAPTIONS)))
    return "\n".join([render(Node(artifact.parent, shown, "", ())), *map(one_line, lines)])


def page_of(artifact: Artifact) -> str:
    """Return the name of an artifact's page.

    Raises:
        InvalidInputError: artifacts of its kind have none, or it is older than the page.
    """
    kind = artifact.manifest.kind
    if kind not in PAGES:
        raise InvalidInputError(f"{artifact.uri}: is an artifact of kind {kind}, which has no page to look at")
    if not artifact.files(PAGES[kind]):
        raise InvalidInputError(f"{artifact.uri}: is older than {PAGES[kind]}; make the artifact again")
    return PAGES[kind]


def write_page(uri: str, file: Path) -> None:
    """Copy the page of the artifact at `uri` to a file of this machine.

    Raises:
        InvalidInputError: `uri` is no artifact with a page, the page was changed, or the file cannot be written.
    """
    artifact = open_artifact(uri)
    page = artifact.read(page_of(artifact))
    try:
        file.write_bytes(page)
    except OSError as error:
        raise InvalidInputError(f"--html: {file}: {error.strerror}; choose another file") from error


def chosen(kind: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters of an artifact of a kind that differ from the defaults of the step that makes it."""
    schemas = next((step.parameters_class.json_schema() for step in STEPS if step.output == kind), {})
    return {
        name: value for name, value in parameters.items() if name not in schemas or value != schemas[name]["default"]
    }


def _captions(artifact: Artifact) -> Iterator[str]:
    """Yield the captions of an ingested or a preprocessed artifact, with their ids and the URLs of their images."""
    if artifact.manifest.kind == INGESTED:
        with artifact.parse(CAPTIONS) as lines:
            for row in map(ImageCaption.from_json, lines):
                yield f"{row.id} of image {row.image_id}, {row.image_url}: {row.caption}"
    elif artifact.manifest.kind == PREPROCESSED:
        for file in shards_of(artifact):
            with artifact.parse(file.path) as shard:
                for sample in read_shard(shard, file.path):
                    for caption in sample.captions:
                        yield f"{caption.id} of image {sample.image_id}, {sample.image_url}: {caption.text}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
