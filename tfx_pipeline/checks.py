"""Check the user's files and options before TFX reads them: its own errors are pages long."""

import ast
import codecs
import csv
import io
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO

from captionflow.core.errors import InvalidInputError
from captionflow.core.uris import file_system, is_local
from captionflow.sources.csv_export import COLUMNS
from tfx_pipeline.beam_args import beam_args
from tfx_pipeline.parameters import TfxParameters

_CHUNK = 1 << 20
_FUNCTIONS = ("preprocessing_fn", "run_fn")


def input_pattern(location: str) -> tuple[str, str]:
    """Return the folder and the file pattern that CsvExampleGen asks for."""
    if location.endswith(".csv"):
        folder, _, name = location.rpartition("/")
        return folder or ".", name
    return location, "*.csv"


def check_inputs(parameters: TfxParameters) -> None:
    """Check the files and options of the pipeline; reads each CSV file once.

    Raises:
        InvalidInputError: a file is missing, empty, lacks a column or a function or is not UTF-8, the
            pipeline's root cannot be written, or the runner needs more. The message names the file or flag.
    """
    beam_args(parameters)
    _check_root(parameters.pipeline_root)
    if parameters.module_file:
        _check_module(parameters.module_file)
    _check_csv(parameters.csv)


def _check_root(root: str) -> None:
    if is_local(root):
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise InvalidInputError(f"--pipeline-root: {root}: cannot be written ({error.strerror})") from error


def _check_module(name: str) -> None:
    try:
        tree = ast.parse(Path(name).read_bytes(), name)
    except OSError as error:
        raise InvalidInputError(f"--module-file: {name}: cannot be read ({error.strerror})") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError(f"--module-file: {name}: is not Python ({error or 'too deeply nested'})") from error
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} | {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    if missing := [function for function in _FUNCTIONS if function not in defined]:
        raise InvalidInputError(f"--module-file: {name}: defines no {missing[0]}, which TFX looks for")


def _check_csv(location: str) -> None:
    if not location:
        raise InvalidInputError("--csv: give a CSV file (`captionflow csv` makes one of an ingested artifact)")
    folder, pattern = input_pattern(location)
    fs, path = file_system(folder)
    files = sorted(fs.glob(str(PurePosixPath(path) / pattern)))
    if not files:
        raise InvalidInputError(f"--csv: {location}: no such file, or no .csv file in it")
    for file in files:
        try:
            with fs.open(file, "rb") as stream:
                _check_file(f"--csv: {file}", stream)
        except OSError as error:
            raise InvalidInputError(f"--csv: {file}: cannot be read ({error.strerror})") from error
        except csv.Error as error:
            raise InvalidInputError(f"--csv: {file}: is not CSV ({error})") from error


def _check_file(name: str, stream: IO[bytes]) -> None:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    head, offset = "", 0
    try:
        while chunk := stream.read(_CHUNK):
            text = decoder.decode(chunk)
            head = head or text
            offset += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name}: is not UTF-8 (near byte {offset + error.start})") from error
    rows = csv.reader(io.StringIO(head))
    header = [column.strip() for column in next(rows, [])]
    if missing := [column for column in COLUMNS if column not in header]:
        raise InvalidInputError(f"{name}: lacks the column {missing[0]}; expected {','.join(COLUMNS)}")
    if next(rows, None) is None:
        raise InvalidInputError(f"{name}: holds no captions")
