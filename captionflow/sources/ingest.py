"""Ingest: any number of sources → the `ingested` artifact, one ImageCaption a line.

All in one process, which holds what `captionflow.sources.rules` must know of the ids and images.
`captionflow.sources.parts` makes the same artifact of parts that workers share.
"""

from contextlib import ExitStack
from typing import Any

from tqdm import tqdm

from captionflow.core.draft import begin
from captionflow.core.records import CAPTIONS
from captionflow.core.steps import INGESTED
from captionflow.sources.expansion import list_files
from captionflow.sources.opening import open_file
from captionflow.sources.output import REJECTS_FILE, Counts, check_output, commit, max_reject_bytes, write
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows
from captionflow.sources.rules import InOrder


def ingest(output: str, parameters: IngestParameters) -> str:
    """Read all sources, in order, and commit the artifact at `output`; returns its URI.

    Counts in the manifest: `captions` read, written and rejected (read = written + rejected); `images`, those with a
    caption written; `splits`, those images by the split that their source gives; `rejected`, by reason;
    `rejects_not_written`, if the Rejects of a file reached their largest size.

    Raises:
        InvalidInputError: no source is given, or one cannot be read.
        StepFailedError: more than `max_reject_ratio` of the rows were rejected, or there were none.
    """
    files = list_files(parameters)
    check_output(files, output)
    rules, counts = InOrder(parameters.max_captions), Counts()
    with ExitStack() as stack:
        sources = [stack.enter_context(open_file(file, parameters)) for file in files]
        draft = begin(output, INGESTED, parameters.to_json(), [source.parent for source in sources])
        bar: tqdm[Any] = stack.enter_context(tqdm(desc="ingest", unit=" captions", disable=None))
        with draft.output(CAPTIONS) as captions_file, draft.output(REJECTS_FILE) as rejects_file:
            for source in sources:
                rows = _shown(rules.apply(source.read(parameters)), bar)
                counts.add(write(rows, captions_file, rejects_file, max_reject_bytes(source.size, len(sources))))
    commit(draft, [captions_file.info, rejects_file.info], counts, rules.images, parameters.max_reject_ratio)
    return draft.uri


def _shown(rows: Rows, bar: "tqdm[Any]") -> Rows:
    for row in rows:
        bar.update()
        yield row
