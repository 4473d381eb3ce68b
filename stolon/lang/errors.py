"""Every error that stolon raises on purpose.

A message says what was wrong, what was got and what to do.

    StolonError
    ├── InvalidRequest            what was asked for cannot be, whoever answers       (also ValueError)
    │   ├── UnsupportedError      this backend cannot honour one of the arguments
    │   ├── ContextLengthError    the prompt, or prompt and answer, do not fit
    │   └── ChatTemplateError     no chat template, or it refuses these messages
    ├── ProgramError              a program used its state in a way that cannot work  (also RuntimeError)
    │   └── NoBackendError        nobody was named to answer
    ├── GenerationError           a `gen` or `select` of a program failed; the cause is chained
    │   └── Cancelled             ... because it was cancelled
    ├── BackendError              whoever answers failed
    │   ├── BackendUnavailable    no connection, or the server said that it is not serving
    │   ├── BackendRequestError   the server refused the request (carries the HTTP status)
    │   ├── BackendProtocolError  the server's answer makes no sense
    │   ├── StreamTruncatedError  a stream ended before its end (carries the text so far)
    │   ├── BackendTimeout        a deadline passed                                   (also TimeoutError)
    │   ├── OverloadedError       the queue is full; may carry how long to wait
    │   ├── EngineError           the local engine failed at this request
    │   └── EngineClosedError     the local engine has been shut down
    └── CheckpointError           a model's files are missing or wrong
"""

from __future__ import annotations


class StolonError(Exception):
    """Root of all errors that stolon raises on purpose."""


class InvalidRequest(StolonError, ValueError):
    """What was asked for cannot be, whoever answers.

    param: the offending field as a dotted path (`messages[0].role`), if there is one
    code: a stable word for programs (`context_length_exceeded`), if there is one
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UnsupportedError(InvalidRequest):
    """This backend cannot honour one of the arguments; nothing was sent."""


class ContextLengthError(InvalidRequest):
    """The prompt, or the prompt and the answer asked for, do not fit."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class ChatTemplateError(InvalidRequest):
    """There is no chat template, or the template refuses these messages."""

    def __init__(self, message: str, *, param: str | None = "messages") -> None:
        super().__init__(message, param=param, code="chat_template_error")


class ProgramError(StolonError, RuntimeError):
    """A program used its state in a way that cannot work."""


class NoBackendError(ProgramError):
    """Nobody was named to answer."""


class GenerationError(StolonError, RuntimeError):
    """A `gen` or `select` failed; the message names it and the user's line, the cause is chained."""


class Cancelled(GenerationError):
    """The state, its run or its stream was cancelled before the value was there."""


class BackendError(StolonError):
    """Whoever answers failed."""


class BackendUnavailable(BackendError):
    """No connection, or the server said that it is not serving."""


class BackendRequestError(BackendError):
    """The server refused the request with an HTTP status that does not pass by waiting."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class BackendProtocolError(BackendError):
    """The server's answer makes no sense."""


class StreamTruncatedError(BackendError):
    """A stream ended before its end; `text` is what had arrived."""

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text


class BackendTimeout(BackendError, TimeoutError):
    """A deadline passed."""


class OverloadedError(BackendError):
    """The queue is full; `retry_after_s` is how long the server asks to wait."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(BackendError):
    """The local engine failed at this request; `code` is a stable word for programs."""

    def __init__(self, message: str, *, code: str = "engine_error") -> None:
        super().__init__(message)
        self.code = code


class EngineClosedError(BackendError):
    """The local engine has been shut down."""


class CheckpointError(StolonError):
    """A model's files are missing or wrong; the message names the file and the tensor."""
