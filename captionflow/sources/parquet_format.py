"""Parquet with one caption a row: LAION, DataComp, CC12M and the like.

Only the columns that are needed are read, a batch of rows at a time, and of fewer rows where a dictionary has long
texts: every row may point to the same one. What pyarrow does not bound: a page, of at most 2 GiB, is unpacked as a
whole; texts that are stored as differences (DELTA_BYTE_ARRAY) are put together for a batch; and the footer, of at most
16 MiB here, is parsed as a whole, which takes long where many columns are nested.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionflow.core.errors import InvalidInputError
from captionflow.core.records import is_integer
from captionflow.sources.bounded import UnpackedBytes
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.columns import Columns
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows, from_columns

if TYPE_CHECKING:
    import pyarrow as pa

DESCRIPTION = "Parquet"
_SIGNATURE = b"PAR1"
_BATCH_ROWS = 4096
_BATCH_BYTES = 32 << 20  # of a column, but one row at least
_BUFFER_BYTES = 1 << 20
# That of a real file has kilobytes, or a few megabytes if its groups of rows are small.
_MAX_FOOTER_BYTES = 16 << 20
# Groups of rows, and columns: pyarrow crashes on some ten thousand that are nested in each other.
_MAX_FOOTER_LIST = 4096
_FOOTER_END_BYTES = 8
# So that rows without text count as something unpacked.
_ROW_BYTES = 16
_IDS = ("image_id", "id")
_LONGEST_LIST = 500


def is_parquet(head: bytes, columns: Columns) -> bool:
    """Whether a file that begins like this is of the format."""
    return head.startswith(_SIGNATURE)


def read_parquet(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the rows of a source."""
    import pyarrow as pa  # takes time and memory that other sources need not spend

    with source.open() as unpacked:
        if not unpacked.seekable():
            raise ValueError("it is Parquet in an archive; unpack it first")
    _check_footer(source.path)
    try:
        with pa.OSFile(str(source.path)) as file:
            yield from _rows(file, source, Columns.of(parameters))
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _check_footer(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _FOOTER_END_BYTES))
        end = file.read()
    if not end.endswith(_SIGNATURE):
        raise ValueError("it is cut off, or damaged at its end")
    if _MAX_FOOTER_BYTES < int.from_bytes(end[:4], "little") < size:
        raise ValueError(f"its footer has more than {_MAX_FOOTER_BYTES} bytes; refused")


def _rows(file: "pa.OSFile", source: CaptionFile, columns: Columns) -> Rows:
    import pyarrow.parquet as pq

    options = {
        "pre_buffer": False,  # would hold a whole group of rows
        "buffer_size": _BUFFER_BYTES,
        "thrift_container_size_limit": _MAX_FOOTER_LIST,
    }
    parquet = pq.ParquetFile(file, **options)
    names = _choose(columns, parquet.schema_arrow, source.uri)
    read = list(dict.fromkeys(names.values()))
    # Not used for all rows: it collects the different texts of a whole group.
    dictionaries = pq.ParquetFile(file, read_dictionary=read, **options)
    unpacked = UnpackedBytes(file.size())
    for group in range(parquet.num_row_groups):
        first = next(dictionaries.iter_batches(1, [group], read, use_threads=False), None)
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // _longest_text(first)))
        for batch in parquet.iter_batches(rows, [group], read, use_threads=False):
            values = [_values(batch.column(name)) for name in names.values()]
            for row in zip(*values, strict=True):
                unpacked.add(_ROW_BYTES + sum(len(value) for value in row if isinstance(value, str)))
                yield from_columns(dict(zip(names, row, strict=True)), source)


def _longest_text(batch: "pa.RecordBatch | None") -> int:
    """Return the bytes of the longest text in the dictionaries of a batch; 1 if there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = batch.columns if batch else []
    dictionaries = [array.dictionary for array in arrays if pa.types.is_dictionary(array.type)]
    lengths = [pc.max(pc.binary_length(texts.cast(pa.large_binary()))).as_py() for texts in dictionaries]
    return max(filter(None, lengths), default=1)


def _choose(columns: Columns, schema: "pa.Schema", uri: str) -> dict[str, str]:
    """Return field → column.

    Raises:
        InvalidInputError: a column is missing, is there twice, or holds values of another type.
    """
    if missing := columns.missing(schema.names):
        raise InvalidInputError(f"{uri}: {missing}; it has {_short(', '.join(schema.names))}")
    names = columns.find(schema.names)
    for field, name in names.items():
        if schema.names.count(name) > 1:
            raise InvalidInputError(f"{uri}: has more than one column {name!r}")
        type_ = schema.field(name).type
        if not _is_text(type_) and not (field in _IDS and _is_number(type_)):
            raise InvalidInputError(
                f"{uri}: its column {name!r} holds {_kind(type_)}, not text{' or integers' if field in _IDS else ''}"
            )
    return names


def _kind(type_: "pa.DataType") -> str:
    import pyarrow.types as types

    return "nested values" if types.is_nested(type_) else _short(str(type_))


def _short(text: str) -> str:
    """Return the beginning of a text from a file, in one line."""
    return " ".join(text.split())[:_LONGEST_LIST]


def _is_text(type_: "pa.DataType") -> bool:
    """Whether values of a type are texts, null, or bytes, as which some write texts."""
    import pyarrow.types as types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    checks = (
        types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary,
        types.is_binary_view, types.is_null,
    )  # fmt: skip
    return any(check(type_) for check in checks)


def _is_number(type_: "pa.DataType") -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(type_) or types.is_floating(type_))


def _values(array: "pa.Array") -> list[Any]:
    """Return the values of a column: texts, numbers, None."""
    import pyarrow as pa

    if not _is_text(array.type):
        return [_integer(value) for value in array.to_pylist()]
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    # Bytes that are not UTF-8 become surrogates, which ImageCaption rejects row by row.
    values = array.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]


def _integer(value: float | None) -> float | str | None:
    """Return a number as an integer, or as a text if it is one of more than 64 bits; LAION-400M's ids are floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not is_integer(value) else value
