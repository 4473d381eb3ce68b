"""Which part of a prompt is read where it is too long."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..limits import NUMBERS
from .errors import invalid
from .fields import Check, Field, Values, number, one_of
from .service import Engine
from .settings import ServerConfig
from .watching import request_id

logger = logging.getLogger(__name__)

_most = number(NUMBERS["truncate_prompt_tokens"])


def _truncate(path: str, value: object) -> int:
    if value == 0 and not isinstance(value, bool):
        raise invalid(f"{path} must be -1 (as many as the model reads) or at least 1, got 0", path)
    return _most(path, value)


TRUNCATE = Field({**_most.schema, "not": {"const": 0}}, _truncate)

# of the routes whose requests may say it
TRUNCATION: dict[str, Check] = {"truncate_prompt_tokens": TRUNCATE, "truncation_side": one_of("left", "right")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """most: tokens that are kept; keeps_end: the last ones; is_asked: by the request, else it is the operator's wish"""

    most: int
    keeps_end: bool = False
    is_asked: bool = False

    @classmethod
    def of_server(cls, engine: Engine, settings: ServerConfig) -> Truncation | None:
        """Of requests that do not say: room for one token is left. None: prompts are not cut."""
        return cls(most=engine.room(0) - 1) if settings.allow_auto_truncate else None

    @classmethod
    def of_request(cls, engine: Engine, values: Values, settings: ServerConfig, answer: int) -> Truncation | None:
        """answer: how many tokens follow the prompt, for which -1 leaves room"""
        most, side = values.get("truncate_prompt_tokens"), values.get("truncation_side")
        of_server = cls.of_server(engine, settings)
        if most is None:
            return of_server if of_server is None else cls(most=of_server.most, keeps_end=side == "left")
        if most == -1:
            most = max(1, engine.room(0) - answer)
        if of_server is not None:
            most = min(most, of_server.most)
        return cls(most=most, keeps_end=side != "right", is_asked=True)


def cut(prompt: list[int], truncation: Truncation | None, prefix: int = 0) -> list[int]:
    """What is kept of `prompt`. prefix: so many tokens at its start, which no text has, are always kept"""
    if truncation is None or len(prompt) <= truncation.most:
        return prompt
    if not truncation.is_asked:
        words = "a prompt was cut to %d of at least %d tokens, %s"
        logger.warning(words, truncation.most, len(prompt), request_id.get())
    if not truncation.keeps_end:
        return prompt[: truncation.most]
    prefix = min(prefix, truncation.most)
    return prompt[:prefix] + prompt[len(prompt) - truncation.most + prefix :]
