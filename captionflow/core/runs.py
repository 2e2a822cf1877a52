"""Where a run of the main job keeps its artifacts."""

from captionflow.core.errors import InvalidInputError

PIPELINE = "image_captioning"
"""Name of the main job, which is also the folder of its runs below the artifact root."""

INPUTS = "{inputs}"
"""In a run's id this is replaced by a digest of the step's inputs and parameters."""

ARTIFACT_ROOT_MEANING = "Folder or bucket under which all artifacts are kept."


def artifact_uri(root: str, pipeline: str, run_id: str, kind: str) -> str:
    """Return the URI of an artifact, known before the step that makes it starts.

    Raises:
        InvalidInputError: the root is empty or names no bucket, or the run's id names no folder below the pipeline's.
    """
    if not root or root.rstrip("/").endswith(":"):
        raise InvalidInputError(f"the artifact root {root!r} is empty; name a folder or a bucket")
    # fsspec chains file systems at `::`.
    if "::" in run_id or {"%", "\0"} & {*run_id} or {"", ".", ".."} & {*run_id.split("/")}:
        raise InvalidInputError(
            f"the run's id {run_id!r} cannot be a folder's name: leave out '..', '.', '//', '::', '%' and nulls"
        )
    return f"{root.rstrip('/')}/{pipeline}/{run_id}/{kind}"
