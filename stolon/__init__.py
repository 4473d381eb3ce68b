"""Programs that branch, on a runtime that shares the roots.

    from stolon import function, gen, user, assistant, set_default_backend, Runtime

Names are loaded at their first use, so importing this package is cheap and brings in no backend.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backends.anthropic import Anthropic as Anthropic
    from .backends.endpoint import RuntimeEndpoint as RuntimeEndpoint
    from .backends.local import Runtime as Runtime
    from .backends.openai import OpenAI as OpenAI
    from .backends.scripted import Scripted as Scripted
    from .lang.backend import Backend as Backend
    from .lang.backend import Capabilities as Capabilities
    from .lang.backend import GenerateRequest as GenerateRequest
    from .lang.batch import Batch as Batch
    from .lang.build import assistant as assistant
    from .lang.build import assistant_begin as assistant_begin
    from .lang.build import assistant_end as assistant_end
    from .lang.build import gen as gen
    from .lang.build import gen_int as gen_int
    from .lang.build import gen_string as gen_string
    from .lang.build import select as select
    from .lang.build import separate_reasoning as separate_reasoning
    from .lang.build import system as system
    from .lang.build import system_begin as system_begin
    from .lang.build import system_end as system_end
    from .lang.build import tool as tool
    from .lang.build import user as user
    from .lang.build import user_begin as user_begin
    from .lang.build import user_end as user_end
    from .lang.choices import greedy_token_selection as greedy_token_selection
    from .lang.choices import token_length_normalized as token_length_normalized
    from .lang.choices import unconditional_likelihood_normalized as unconditional_likelihood_normalized
    from .lang.constraint import Constraint as Constraint
    from .lang.errors import BackendError as BackendError
    from .lang.errors import BackendProtocolError as BackendProtocolError
    from .lang.errors import BackendRequestError as BackendRequestError
    from .lang.errors import BackendTimeout as BackendTimeout
    from .lang.errors import BackendUnavailable as BackendUnavailable
    from .lang.errors import Cancelled as Cancelled
    from .lang.errors import ChatTemplateError as ChatTemplateError
    from .lang.errors import CheckpointError as CheckpointError
    from .lang.errors import ContextLengthError as ContextLengthError
    from .lang.errors import EngineClosedError as EngineClosedError
    from .lang.errors import EngineError as EngineError
    from .lang.errors import GenerationError as GenerationError
    from .lang.errors import InvalidRequest as InvalidRequest
    from .lang.errors import NoBackendError as NoBackendError
    from .lang.errors import OverloadedError as OverloadedError
    from .lang.errors import ProgramError as ProgramError
    from .lang.errors import StolonError as StolonError
    from .lang.errors import StreamTruncatedError as StreamTruncatedError
    from .lang.errors import UnsupportedError as UnsupportedError
    from .lang.program import Function as Function
    from .lang.program import flush_cache as flush_cache
    from .lang.program import function as function
    from .lang.program import get_server_info as get_server_info
    from .lang.program import set_default_backend as set_default_backend
    from .lang.prompt import Prompt as Prompt
    from .lang.state import State as State
    from .lang.types import Delta as Delta
    from .lang.types import SamplingParams as SamplingParams
    from .lang.types import Score as Score
    from .lang.types import Usage as Usage

__version__ = "0.1.0"

_HOME = {
    "backends.anthropic": "Anthropic",
    "backends.endpoint": "RuntimeEndpoint",
    "backends.local": "Runtime",
    "backends.openai": "OpenAI",
    "backends.scripted": "Scripted",
    "lang.backend": "Backend Capabilities GenerateRequest",
    "lang.batch": "Batch",
    "lang.build": "assistant assistant_begin assistant_end gen gen_int gen_string select separate_reasoning system "
    "system_begin system_end tool user user_begin user_end",
    "lang.choices": "greedy_token_selection token_length_normalized unconditional_likelihood_normalized",
    "lang.constraint": "Constraint",
    "lang.errors": "BackendError BackendProtocolError BackendRequestError BackendTimeout BackendUnavailable Cancelled "
    "ChatTemplateError CheckpointError ContextLengthError EngineClosedError EngineError GenerationError "
    "InvalidRequest NoBackendError OverloadedError ProgramError StolonError StreamTruncatedError UnsupportedError",
    "lang.program": "Function flush_cache function get_server_info set_default_backend",
    "lang.prompt": "Prompt",
    "lang.state": "State",
    "lang.types": "Delta SamplingParams Score Usage",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [  # spelled out, for type checkers; a test compares it with the table above
    "Anthropic",
    "Backend",
    "BackendError",
    "BackendProtocolError",
    "BackendRequestError",
    "BackendTimeout",
    "BackendUnavailable",
    "Batch",
    "Cancelled",
    "Capabilities",
    "ChatTemplateError",
    "CheckpointError",
    "Constraint",
    "ContextLengthError",
    "Delta",
    "EngineClosedError",
    "EngineError",
    "Function",
    "GenerateRequest",
    "GenerationError",
    "InvalidRequest",
    "NoBackendError",
    "OpenAI",
    "OverloadedError",
    "ProgramError",
    "Prompt",
    "Runtime",
    "RuntimeEndpoint",
    "SamplingParams",
    "Score",
    "Scripted",
    "State",
    "StolonError",
    "StreamTruncatedError",
    "UnsupportedError",
    "Usage",
    "__version__",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "greedy_token_selection",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "tool",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
]

if not TYPE_CHECKING and find_spec("torch") is None:  # `import *` loads every name, and this one needs the local extra
    __all__.remove("Runtime")


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if name == "image":
        raise AttributeError("stolon has no images: programs are made of text")
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__):
            raise
        extra = "[local]" if name == "Runtime" else ""
        raise ImportError(f"{name} needs the package {error.name}; pip install 'stolon{extra}' brings it") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
