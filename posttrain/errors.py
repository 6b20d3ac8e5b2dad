"""Every error a user can meet. Each is one line: what is wrong, where, and what to do."""

from __future__ import annotations


class PosttrainError(Exception):
    """Root of all errors that are the user's to mend; shown without a traceback.

    Args:
        message: What is wrong and where (``file:line``, key).
        hint: What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.hint}" if self.hint else message


class ConfigError(PosttrainError):
    """A recipe or an override that cannot be used."""

    exit_code = 2


class DataError(PosttrainError):
    """Input data that cannot be used: missing, empty, broken, or failing the mask audit."""

    exit_code = 3


class CheckpointError(PosttrainError):
    """A checkpoint or model folder that is missing, damaged or of another run."""

    exit_code = 4


class MissingExtraError(PosttrainError):
    """An optional package is needed; the hint names the extra that brings it."""

    exit_code = 5


class NonFiniteError(PosttrainError):
    """Loss or gradient became NaN or infinite; raised before the update is applied."""

    exit_code = 6


class VerificationError(PosttrainError):
    """A result was checked against its source and differs."""

    exit_code = 7


class InterruptedRunError(PosttrainError):
    """Ctrl-C or SIGTERM; state was saved, the hint is the command that goes on."""

    exit_code = 130
