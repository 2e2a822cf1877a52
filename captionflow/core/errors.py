"""The ways a step ends badly that a person can act on; the CLI prints each as one line."""


class CaptionFlowError(Exception):
    """An error whose message alone tells a user what is wrong and what to do."""

    exit_code = 1


class InvalidInputError(CaptionFlowError):
    """An argument, a file or a setting cannot be used as it is: running again will not help."""

    exit_code = 2


class StoreError(CaptionFlowError):
    """An object store refused or could not be reached: it may be otherwise the next time."""


class StepFailedError(CaptionFlowError):
    """The step ran and its result is not good enough to be committed."""
