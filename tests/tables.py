"""Parquet files for tests."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    """Return a Parquet file with these columns: lists of values, or Arrow arrays."""
    buffer = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), buffer, **options)
    return buffer.getvalue()
