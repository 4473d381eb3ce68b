"""A conversation to be continued, whatever the protocol it came in: to a prompt, a constraint and a way to read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...lang.types import SamplingParams
from .answers import Question
from .constraints import Asked
from .conversation import Ending, Messages
from .errors import invalid
from .fields import Values
from .formats import choose, thoughts
from .formats.choose import Reading, ToolFormat
from .prompts import chat_of, encode_chat
from .service import ChatTemplate, Engine
from .settings import ServerConfig
from .template_variables import default_variables
from .tools import Offer, forced
from .truncation import Truncation, cut

_SEEN_TOKENS = 32  # of a prompt's end, to see whether it begins a thought


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """asked: the form that the answer itself must have; variables: of the chat template
    truncation: what is read of a prompt that is too long
    """

    messages: Messages
    offer: Offer | None = None
    asked: Asked | None = None
    ending: Ending = "opened"
    separate_reasoning: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    truncation: Truncation | None = None


def asked_ending(values: Values) -> Ending:
    continued = values.get("continue_final_message", False)
    opens = values.get("add_generation_prompt", not continued)
    if continued and opens:
        raise invalid(
            "either the last message is continued (continue_final_message) or a new one begins (add_generation_prompt)",
            "add_generation_prompt",
        )
    return "continued" if continued else "opened" if opens else "closed"


@dataclass(frozen=True, slots=True)
class Prepared:
    prompt: list[int]
    asked: Asked | None
    reading: Reading

    def shown(self, values: Values) -> Values:
        """The fields of a request; where calls begin with a control token, control tokens must be in the text."""
        return {**values, "skip_special_tokens": False} if self.reading.has_control_marks else values

    def question(self, params: SamplingParams, values: Values, timeout_s: float, rid: str = "") -> Question:
        return Question(
            prompt=self.prompt,
            params=params,
            salt=values.get("cache_salt", ""),
            priority=values.get("priority", 0),
            timeout_s=timeout_s,
            asked=self.asked,
            rid=rid,
        )


async def prepare(engine: Engine, settings: ServerConfig, talk: Talk) -> Prepared:
    """Raises HttpError for tools that this model cannot use, and whatever `encode_chat` raises."""
    chat = chat_of(engine, talk.messages, continue_final=talk.ending == "continued")
    format = choose.tool_format(settings.tool_call_parser, chat.source)
    offer = talk.offer
    if offer is not None:
        _check_tools(offer, chat, format)
        if talk.asked is not None and talk.asked.constraint.kind not in ("json_schema", "json_object"):
            message = f"{talk.asked.path} and tools cannot be asked for together, unless tool_choice is 'none'"
            raise invalid(f"{message}; beside tools an answer may have a JSON schema", talk.asked.path)
    variables = {**default_variables(settings.default_chat_template_kwargs), **talk.variables}
    prompt = await encode_chat(
        engine,
        talk.messages,
        ending=talk.ending,
        tools=None if offer is None else offer.for_template(),
        variables=variables,
        truncation=talk.truncation,
    )
    keeps_end = talk.truncation is not None and talk.truncation.keeps_end
    # what may still be added to its end counts, too
    kept = prompt if keeps_end else cut(prompt, talk.truncation)
    # without its end a prompt begins no answer, and no thought
    begins = talk.ending == "opened" and len(kept) == len(prompt)
    asked = talk.asked if offer is None else offer.constraint(format, talk.asked)
    if offer is None:
        reading = Reading()
    else:
        is_bound = offer.must or talk.asked is not None
        reading = Reading(tools=forced(format) if is_bound else format, names=offer.names)
    if begins and choose.thinks(settings.reasoning_parser, chat.source):
        is_hybrid = choose.is_hybrid(chat.source) and bool(variables.get("enable_thinking", True))
        kept, asked, inside = _thinking(engine, settings, kept, asked, is_hybrid=is_hybrid)
        if talk.separate_reasoning or (offer is not None and offer.must):
            reading = dataclasses.replace(reading, thinks=True, inside=inside)
    return Prepared(cut(kept, talk.truncation) if keeps_end else kept, asked, reading)


def _check_tools(offer: Offer, chat: ChatTemplate, format: ToolFormat | None) -> None:
    if not chat.takes_tools:
        message = "this model's chat template does not show tools to the model; --chat-template FILE gives another"
        raise invalid(message, "tools", "unsupported_parameter")
    if format is None and not offer.must:
        message = (
            "it is not known how this model writes tool calls; start the server with --tool-call-parser, or ask for a "
            "call with tool_choice: required"
        )
        raise invalid(message, "tools", "unsupported_parameter")


def _thinking(
    engine: Engine, settings: ServerConfig, prompt: list[int], asked: Asked | None, *, is_hybrid: bool
) -> tuple[list[int], Asked | None, bool]:
    """Prompt and constraint of a model that may think first, and whether the answer begins inside a thought.

    A constraint holds after the thought. So that it is certain to hold, the thought of a model that thinks unless it
    is told not to, and was not told so, is begun in the prompt; one that may or may not think answers at once.
    """
    end = engine.tokenizer.decode(prompt[-_SEEN_TOKENS:], skip_special_tokens=False)
    opened = choose.opens_thought(end)
    if opened is None and settings.reasoning_parser in ("deepseek-r1", "deepseek_r1"):
        opened = True
    if opened is None and asked is not None and is_hybrid:
        prompt = [*prompt, *engine.tokenizer.encode_scaffold(f"{thoughts.BEGIN}\n")]
        opened = True
    if opened and asked is not None:
        asked = dataclasses.replace(asked, constraint=dataclasses.replace(asked.constraint, after=thoughts.END))
    return prompt, asked, bool(opened)
