"""What is logged of TFX and the libraries under it, without the secret that they would log."""

import logging
import os
import warnings
from urllib.parse import quote


def hush() -> None:
    """Let nothing through of the chatter of TensorFlow, Google's clients and Airflow 2; call it before they load."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    for name, level in {"apache_beam": logging.WARNING, "tensorflow": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)


class Formatter(logging.Formatter):
    """Leaves a secret out: TFX logs how it connects to its metadata store."""

    def __init__(self, form: str, secret: str) -> None:
        super().__init__(form)
        self._spellings = sorted(_spellings(secret), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = super().format(record)
        for spelling in self._spellings:
            line = line.replace(spelling, "***")
        return line


def _spellings(secret: str) -> set[str]:
    """Return how a secret may stand in a log: as it is, in a URL, in a Python string, in a protobuf's text format."""
    from google.protobuf.text_encoding import CEscape  # which TFX's environment has, and not every other

    if not secret:
        return set()
    escaped = (CEscape(secret, as_utf8) for as_utf8 in (False, True))
    return {secret, quote(secret, safe=""), repr(secret)[1:-1], *escaped}
