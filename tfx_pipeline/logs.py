"""The logging of TFX and its libraries: less of it, and without the password of the metadata store."""

import logging
import os
import warnings
from urllib.parse import quote


def silence_libraries() -> None:
    """Silence the warnings of TensorFlow, Google's clients and Airflow 2; call it before they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    for name, level in {"apache_beam": logging.WARNING, "tensorflow": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)


class Formatter(logging.Formatter):
    """Replaces a secret by ***: TFX logs its connection to the metadata store."""

    def __init__(self, fmt: str, secret: str) -> None:
        super().__init__(fmt)
        self._spellings = sorted(_spellings(secret), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = super().format(record)
        for spelling in self._spellings:
            line = line.replace(spelling, "***")
        return line


def _spellings(secret: str) -> set[str]:
    """Return the forms of a secret in a log: as it is, in a URL, in a Python string, in protobuf's text format."""
    from google.protobuf.text_format import MessageToString  # the command line does without protobuf
    from google.protobuf.wrappers_pb2 import StringValue

    if not secret:
        return set()
    protobuf = (MessageToString(StringValue(value=secret), as_utf8=as_utf8) for as_utf8 in (False, True))
    return {secret, quote(secret, safe=""), repr(secret)[1:-1], *(text.split('"', 1)[1][:-2] for text in protobuf)}
