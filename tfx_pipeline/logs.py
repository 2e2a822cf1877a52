"""What is heard of TFX and the libraries under it, and the secret that they would tell."""

import logging
import os
import warnings


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
        self._secret = secret

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = super().format(record)
        return line.replace(self._secret, "***") if self._secret else line
