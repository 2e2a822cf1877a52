"""What tells of a preprocessed artifact: a page to look at, and metadata in Croissant's format."""

import json
from collections.abc import Iterable, Sequence

from captionflow.core.draft import Draft
from captionflow.core.manifest import FileInfo
from captionflow.core.steps import DATASET_PAGE
from captionflow.preprocess.croissant import CROISSANT, croissant
from captionflow.preprocess.page import Split, by_split, dataset_page
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.revision import example_groups
from captionflow.preprocess.shards import ShardInfo


def describe(draft: Draft, infos: Iterable[ShardInfo]) -> list[FileInfo]:
    """Write the page and the metadata into the draft; their bytes depend on the shards and the parameters alone."""
    infos = list(infos)
    parameters = PreprocessParameters.from_mapping(draft.parameters)
    splits = by_split(infos)
    page = dataset_page(splits, parameters, example_groups(infos))
    shards = [info.files[0] for info in infos]
    return [
        # Rejects of an artifact that is reused may hold halves of surrogate pairs, which have no UTF-8.
        draft.put(DATASET_PAGE, page.encode(errors="backslashreplace")),
        metadata_file(draft, splits, shards, parameters),
    ]


def metadata_file(
    draft: Draft, splits: Sequence[Split], shards: Sequence[FileInfo], parameters: PreprocessParameters
) -> FileInfo:
    """Write the metadata alone into the draft; see `croissant`."""
    in_order = sorted(shards, key=lambda file: file.path)
    return draft.put(CROISSANT, json.dumps(croissant(splits, in_order, parameters), indent=2).encode())
