"""Errors that a user can act on; the CLI prints each as one line."""


class CaptionFlowError(Exception):
    """An error whose message says what is wrong and what to do."""

    exit_code = 1


class InvalidInputError(CaptionFlowError):
    """An argument, a file or a setting cannot be used: running again will not help."""

    exit_code = 2


class StoreError(CaptionFlowError):
    """An object store refused or could not be reached: running again may help."""


class StepFailedError(CaptionFlowError):
    """The step ran and cannot commit its result."""
