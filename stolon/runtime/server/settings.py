"""Settings of the server; command-line flags are made from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .. import limits
from ..config import flag
from .formats.choose import ReasoningParser, ToolParser

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens, who may call it, and how long anything may take."""

    host: str = field(default="127.0.0.1", metadata=flag("address to listen on; others than loopback need a key"))
    port: int = field(default=30000, metadata=flag("port to listen on"))
    api_key: tuple[str, ...] = field(
        default=(), repr=False, metadata=flag("keys of which clients must send one (visible in the process list)")
    )
    admin_api_key: str | None = field(
        default=None,
        repr=False,
        metadata=flag("key of the operator: flushes the cache, ends all requests, reads cached text on the page"),
    )
    api_key_file: str | None = field(default=None, metadata=flag("file whose first line is the key"))
    ssl_certfile: str | None = field(default=None, metadata=flag("file of the certificate (PEM, with its chain): TLS"))
    ssl_keyfile: str | None = field(
        default=None, metadata=flag("file of the certificate's key, where that is not in the same file")
    )
    allowed_origins: tuple[str, ...] = field(
        default=(), metadata=flag("origins whose pages may read answers, or *; none by itself (vLLM's '[\"*\"]', too)")
    )
    allowed_methods: tuple[str, ...] = field(default=("*",), metadata=flag("methods that those pages may use"))
    allowed_headers: tuple[str, ...] = field(default=("*",), metadata=flag("headers that those pages may send"))
    allow_credentials: bool = field(
        default=False, metadata=flag("let those pages send what the browser knows of the server, such as cookies")
    )
    insecure_no_auth: bool = field(default=False, metadata=flag("listen beyond loopback without any key"))
    tool_call_parser: ToolParser = field(
        default="auto", metadata=flag("how the model writes tool calls; auto: as its chat template says")
    )
    reasoning_parser: ReasoningParser = field(
        default="auto",
        metadata=flag(
            "whether answers may begin with a thought; auto: as the chat template says",
            "--structured-outputs-config.reasoning-parser",
        ),
    )
    allow_chat_template_kwargs: bool = field(
        default=False, metadata=flag("let requests set variables of the chat template (chat_template_kwargs)")
    )
    default_chat_template_kwargs: str | None = field(
        default=None,
        metadata=flag('variables of the chat template as a JSON object, such as {"enable_thinking": false}'),
    )
    sampling_defaults: str = field(
        default="model",
        metadata=flag(
            "temperature, top_p, top_k, min_p and repetition_penalty of requests that do not say: model (or auto), "
            "those of the checkpoint's generation_config.json; openai (or vllm), the protocol's; or the folder of "
            "another such file",
            "--generation-config",
        ),
    )
    preferred_sampling_params: str | None = field(
        default=None,
        metadata=flag(
            'some of these five as a JSON object, which win, such as {"temperature": 0.6}',
            "--override-generation-config",
        ),
    )
    allow_auto_truncate: bool = field(
        default=False,
        metadata=flag("of a prompt that is too long take the beginning, and lower a max_tokens that does not fit"),
    )
    stream_interval: int = field(
        default=1, metadata=flag("least tokens of an event of a stream, but for the first and the last of an answer")
    )
    log_level: LogLevel = field(default="info", metadata=flag("least severity that is logged", "--uvicorn-log-level"))
    log_requests: bool = field(
        default=False, metadata=flag("log each piece of work as a line of JSON on stderr", "--enable-log-requests")
    )
    log_requests_level: int = field(
        default=0, metadata=flag("0: counts and times; 1: sampling too; 2: texts up to 2048 characters; 3: whole texts")
    )
    metrics: bool = field(default=True, metadata=flag("count for Prometheus at /metrics"))
    drain_seconds: float = field(
        default=30.0, metadata=flag("on SIGTERM, how long requests in flight may take to finish")
    )
    request_timeout_s: float = field(default=600.0, metadata=flag("longest time for one request"))
    header_timeout_s: float = field(default=10.0, metadata=flag("from connecting to the end of the first headers"))
    body_timeout_s: float = field(default=30.0, metadata=flag("from the headers to the end of the body"))
    write_timeout_s: float = field(default=30.0, metadata=flag("how long a client may read nothing of its answer"))
    keepalive_s: float = field(default=75.0, metadata=flag("how long an idle connection is kept"))
    heartbeat_s: float = field(
        default=300.0,
        metadata=flag("age of the engine's last sign of life at which /health fails", "--watchdog-timeout"),
    )
    body_limit_bytes: int = field(default=limits.BODY_BYTES, metadata=flag("largest request body"))

    @property
    def request_log(self) -> int | None:
        """How much the log of requests says; None: there is none."""
        return self.log_requests_level if self.log_requests else None
