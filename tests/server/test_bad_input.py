"""What cannot be is refused, with the same status, code and field every time, and the next request is served."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, GOOD, HELLO, NATIVE, SCORE, TEXT, refused
from tests.server.fake import VOCAB, FakeEngine

VALUE, TYPE, MISSING = "invalid_value", "invalid_type", "missing_parameter"
UNKNOWN, UNSUPPORTED, ID = "unknown_parameter", "unsupported_parameter", "token_id_out_of_range"
BAD_SCHEMA = "invalid_schema"
ABSENT = object()

# values that ask for what there is none of here
WANTED: dict[str, tuple[Any, ...]] = {
    "spaces_between_special_tokens": (False, 1),
    "use_beam_search": (True, 0),
    "length_penalty": (2, 0.5, True),
    "watermark": (True,),
    "watermarking": (True,),
    "kv_transfer_params": ({"do_remote_decode": True}, []),
    "ec_transfer_params": ({"a": 1},),
    "return_hidden_states": (True,),
    "return_routed_experts": (True,),
    "return_cached_tokens_details": (True,),
    "log_metrics": (False, "yes"),
}

# (row of the table, route, fields that differ from a good request, status, code, param)
Row = tuple[str, str, dict[str, Any], int, str, str | None]


def rows() -> Iterator[Row]:
    yield from _of_the_conversation()
    yield from _of_the_prompt()
    yield from _of_drawing()
    yield from _of_the_rest()
    yield from _of_the_native_routes()


def _of_the_conversation() -> Iterator[Row]:
    yield "B24 model missing", CHAT, {"model": ABSENT}, 400, MISSING, "model"
    yield "B24 model null", CHAT, {"model": None}, 400, MISSING, "model"
    yield "B24 model unknown", CHAT, {"model": "gpt-9"}, 404, "model_not_found", "model"
    yield "B24 model a path", TEXT, {"model": "../../etc/passwd"}, 404, "model_not_found", "model"
    yield "B24 model a number", TEXT, {"model": 5}, 404, "model_not_found", "model"
    yield "B25 messages missing", CHAT, {"messages": ABSENT}, 400, MISSING, "messages"
    yield "B25 messages empty", CHAT, {"messages": []}, 400, VALUE, "messages"
    yield "B25 messages object", CHAT, {"messages": {}}, 400, TYPE, "messages"
    yield "B25 messages text", CHAT, {"messages": "x"}, 400, TYPE, "messages"
    for name, message, code, param in (
        ("no role", {"content": "x"}, MISSING, "messages[0].role"),
        ("role root", {"role": "root", "content": "x"}, VALUE, "messages[0].role"),
        ("no content", {"role": "user"}, MISSING, "messages[0].content"),
        ("content null", {"role": "user", "content": None}, MISSING, "messages[0].content"),
        ("content 5", {"role": "user", "content": 5}, TYPE, "messages[0].content"),
        ("not an object", "x", TYPE, "messages[0]"),
        ("unknown field", {"role": "user", "content": "x", "mood": "y"}, UNKNOWN, "messages[0].mood"),
        (
            "tool calls of a user",
            {"role": "user", "content": "x", "tool_calls": [{}]},
            MISSING,
            "messages[0].tool_calls[0].function",
        ),
    ):
        yield f"B26 {name}", CHAT, {"messages": [message]}, 400, code, param
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}
    for name, part, code, param in (
        ("image", image, "unsupported_content", "messages[0].content[0].type"),
        ("part without text", {"type": "text"}, MISSING, "messages[0].content[0].text"),
        ("part without type", {"text": "x"}, MISSING, "messages[0].content[0].type"),
        ("part a string", "x", TYPE, "messages[0].content[0]"),
    ):
        yield f"B26 {name}", CHAT, {"messages": [{"role": "user", "content": [part]}]}, 400, code, param
    called = {"name": "f", "arguments": "{}"}
    twice = [{"type": "function", "function": called}]
    for name, message, code, param in (
        ("thought of a user", {"role": "user", "content": "a", "reasoning": "b"}, VALUE, "reasoning"),
        ("refusal of a user", {"role": "user", "refusal": "b"}, VALUE, "refusal"),
        ("two thoughts", {"role": "assistant", "reasoning": "a", "reasoning_content": "b"}, VALUE, "reasoning"),
        ("nothing said", {"role": "assistant", "refusal": None}, MISSING, "content"),
        ("call without a name", {"role": "assistant", "function_call": {}}, MISSING, "function_call.name"),
        ("call of a user", {"role": "user", "content": "a", "function_call": called}, VALUE, "function_call"),
        ("two forms", {"role": "assistant", "function_call": called, "tool_calls": twice}, VALUE, "function_call"),
        ("result of nothing", {"role": "function", "content": "a"}, MISSING, "name"),
    ):
        yield name, CHAT, {"messages": [message]}, 400, code, f"messages[0].{param}"
    yield "effort", CHAT, {"reasoning_effort": "huge"}, 400, VALUE, "reasoning_effort"
    yield "effort of a completion", TEXT, {"reasoning_effort": "low"}, 400, UNSUPPORTED, "reasoning_effort"
    bad = {"messages": [{"role": "user", "content": "forbidden"}]}
    yield "B27 template refuses", CHAT, bad, 400, "chat_template_error", "messages"
    yield "nothing to continue", CHAT, {"continue_final_message": True}, 400, VALUE, "continue_final_message"
    both = {"add_generation_prompt": True, "continue_final_message": True}
    yield "both", CHAT, both, 400, VALUE, "add_generation_prompt"


def _of_the_prompt() -> Iterator[Row]:
    yield "prompt missing", TEXT, {"prompt": ABSENT}, 400, MISSING, "prompt"
    for name, prompt, code in (
        ("empty list", [], VALUE),
        ("empty ids", [[]], VALUE),
        ("mixed", ["a", 1], TYPE),
        ("mixed ids", [1, "a"], ID),
        ("nested 3 deep", [[[1]]], ID),
        ("object", {}, TYPE),
        ("number", 5, TYPE),
    ):
        yield f"B29 {name}", TEXT, {"prompt": prompt}, 400, code, "prompt"
    for bad in (-1, VOCAB, 2**63, True, 1.5):
        yield f"B30 id {bad}", TEXT, {"prompt": [1, bad]}, 400, ID, "prompt"
        yield f"B30 id {bad} of a list", TEXT, {"prompt": [[1], [bad]]}, 400, ID, "prompt"
    yield "B31 prompts", TEXT, {"prompt": ["a"] * 1025}, 400, VALUE, "prompt"
    yield "B31 prompts times n", TEXT, {"prompt": ["a"] * 9, "n": 128}, 400, VALUE, "n"
    yield "B31 prompts times best_of", TEXT, {"prompt": ["a"] * 9, "best_of": 128}, 400, VALUE, "best_of"
    long = "context_length_exceeded"
    yield "B32 prompt and answer", TEXT, {"prompt": "a" * 4000, "max_tokens": 200}, 400, long, "max_tokens"
    yield "B32 prompt alone", TEXT, {"prompt": "a" * 5000, "max_tokens": ABSENT}, 400, long, "prompt"
    yield (
        "B32 conversation",
        CHAT,
        {"max_completion_tokens": 5000, "max_tokens": ABSENT},
        400,
        long,
        "max_completion_tokens",
    )


def _of_drawing() -> Iterator[Row]:
    wrong: dict[str, tuple[Any, ...]] = {
        "max_tokens": (0, -1, 10**9, "5", True, 2.5, [1]),  # B33
        "temperature": (-0.1, 2.1, "hot", True),  # B35
        "top_p": (0, 1.0001, -1, "x"),  # B36
        "top_k": (0, -2, 10**9, 1.5),  # B37
        "min_p": (2, -0.1),
        "n": (0, -1, 129, 10**9),  # B38
        "frequency_penalty": (-2.01, 2.01),  # B40
        "presence_penalty": (-2.01, 2.01),
        "repetition_penalty": (0, -1),
        "min_tokens": (-1, 1.5),
        "seed": (2**63, "a", -(2**63) - 1, 0.5),  # B45
        "priority": (1001, -1001),
    }
    for field, values in wrong.items():
        for value in values:
            code = VALUE if isinstance(value, (int, float)) and not isinstance(value, bool) else TYPE
            if isinstance(value, float) and field in ("max_tokens", "top_k", "min_tokens", "seed"):
                code = TYPE
            for route in (CHAT, TEXT):
                yield f"{field} {value!r}", route, {field: value}, 400, code, field
    yield "min above max", CHAT, {"min_tokens": 5}, 400, VALUE, "min_tokens"
    both = {"max_tokens": 3, "max_completion_tokens": 4}
    yield "B34 two limits", CHAT, both, 400, VALUE, "max_tokens"
    yield "B34 not for completions", TEXT, {"max_completion_tokens": 4}, 400, UNKNOWN, "max_completion_tokens"
    yield "B39 best_of below n", TEXT, {"n": 3, "best_of": 2}, 400, VALUE, "best_of"
    yield "B39 best_of streamed", TEXT, {"best_of": 2, "stream": True}, 400, VALUE, "best_of"
    yield "B39 best_of in chat", CHAT, {"best_of": 2}, 400, UNKNOWN, "best_of"
    yield "B41 logprobs -1", TEXT, {"logprobs": -1}, 400, VALUE, "logprobs"
    yield "B41 logprobs 6", TEXT, {"logprobs": 6}, 400, VALUE, "logprobs"
    yield "B41 logprobs true", TEXT, {"logprobs": True}, 400, TYPE, "logprobs"
    yield "B41 logprobs 5 in chat", CHAT, {"logprobs": 5}, 400, TYPE, "logprobs"
    yield "B41 top_logprobs 21", CHAT, {"logprobs": True, "top_logprobs": 21}, 400, VALUE, "top_logprobs"
    yield "B41 top_logprobs -1", CHAT, {"logprobs": True, "top_logprobs": -1}, 400, VALUE, "top_logprobs"
    yield "B41 top_logprobs alone", CHAT, {"top_logprobs": 2}, 400, VALUE, "top_logprobs"
    many = {str(i): 1 for i in range(100_000)}
    for bias, code in (
        ({"x": 1}, VALUE),
        ({"99999999": 1}, VALUE),
        ({"-1": 1}, VALUE),
        ({"²": 1}, VALUE),
        ({"1": "a"}, TYPE),
        ({"1": 101}, VALUE),
        (many, VALUE),
        ([], TYPE),
    ):
        yield f"B42 {str(bias)[:20]}", CHAT, {"logit_bias": bias}, 400, code, "logit_bias"
    for stop, code, param in (
        ("", VALUE, "stop"),
        ([""], VALUE, "stop[0]"),
        (["a"] * 5, VALUE, "stop"),
        ("a" * 10_000, VALUE, "stop"),
        ([1], TYPE, "stop[0]"),
        (5, TYPE, "stop"),
    ):
        yield f"B43 {str(stop)[:20]}", CHAT, {"stop": stop}, 400, code, param
    yield "B44", CHAT, {"stop_token_ids": [VOCAB]}, 400, ID, "stop_token_ids[0]"


def _of_the_rest() -> Iterator[Row]:
    yield "B23 near miss", CHAT, {"guided_jsno": {}}, 400, UNKNOWN, "guided_jsno"
    yield "B23 unknown", TEXT, {"wibble": 1}, 400, UNKNOWN, "wibble"
    yield "B46 stream yes", CHAT, {"stream": "yes"}, 400, TYPE, "stream"
    yield "B46 options alone", CHAT, {"stream_options": {"include_usage": True}}, 400, VALUE, "stream_options"
    yield "B46 unknown option", CHAT, {"stream": True, "stream_options": {"x": 1}}, 400, UNKNOWN, "stream_options.x"
    for route in (CHAT, TEXT):
        of_prompt = {"stream": True, "prompt_logprobs": 1}
        yield "prompt_logprobs streamed", route, of_prompt, 400, VALUE, "prompt_logprobs"
        for value, code in ((0, VALUE), (-2, VALUE), ("5", TYPE), (True, TYPE)):
            yield f"truncate {value!r}", route, {"truncate_prompt_tokens": value}, 400, code, "truncate_prompt_tokens"
        yield "side", route, {"truncation_side": "middle"}, 400, VALUE, "truncation_side"
    yield "bos of a chat", CHAT, {"add_special_tokens": True}, 400, UNSUPPORTED, "add_special_tokens"
    in_and_out = {"include_reasoning": False, "separate_reasoning": False}
    yield "thought in and out", CHAT, in_and_out, 400, VALUE, "include_reasoning"
    yield "thought of a completion", TEXT, {"include_reasoning": False}, 400, UNKNOWN, "include_reasoning"
    yield from _of_constraints()
    yield from _of_tools()
    for field in "chat_template chat_template_kwargs prompt_embeds custom_logit_processor lora_path".split():
        yield f"B58 {field}", CHAT, {field: {}}, 400, UNSUPPORTED, field
        yield f"B58 {field}", TEXT, {field: "x"}, 400, UNSUPPORTED, field
    for field in ("tools", "tool_choice", "parallel_tool_calls", "suffix", "functions", "function_call"):
        yield f"only for chat: {field}", TEXT, {field: "x"}, 400, UNSUPPORTED, field
    for field in "bad_words repetition_detection thinking_token_budget logprob_token_ids vllm_xargs".split():
        for route in (CHAT, TEXT):
            yield f"refused by name {field}", route, {field: [5]}, 400, UNSUPPORTED, field
    for field, values in WANTED.items():
        for value in values:
            for route in (CHAT, TEXT):
                yield f"only one value: {field} {value!r}", route, {field: value}, 400, UNSUPPORTED, field
    for salt, code in (("", VALUE), ("a" * 129, VALUE), (5, TYPE)):
        yield f"B57 {str(salt)[:5]}", CHAT, {"cache_salt": salt}, 400, code, "cache_salt"


def _of_constraints() -> Iterator[Row]:
    kind, schema = "response_format.type", "response_format.json_schema.schema"
    yield "B47 yaml", CHAT, {"response_format": {"type": "yaml"}}, 400, VALUE, kind
    yield "B47 no type", CHAT, {"response_format": {}}, 400, MISSING, kind
    yield "B47 text", CHAT, {"response_format": "json"}, 400, TYPE, "response_format"
    yield "B47 tag", CHAT, {"response_format": {"type": "structural_tag"}}, 400, UNSUPPORTED, kind
    inner = "response_format.json_schema"
    yield "B47 no schema", CHAT, {"response_format": {"type": "json_schema"}}, 400, MISSING, inner
    for name, found, code, param in (
        ("nothing in it", {}, MISSING, f"{inner}.name"),
        ("no schema", {"name": "x"}, MISSING, schema),
        ("name 65", {"name": "x" * 65, "schema": {}}, VALUE, f"{inner}.name"),
        ("strict text", {"name": "x", "schema": {}, "strict": "yes"}, TYPE, f"{inner}.strict"),
    ):
        yield f"B47 {name}", CHAT, {"response_format": {"type": "json_schema", "json_schema": found}}, 400, code, param
    stray = {"type": "text", "json_schema": {"name": "x", "schema": {}}}
    yield "B47 schema of a text", CHAT, {"response_format": stray}, 400, VALUE, inner
    for bad in ([], 3, None, "", False):
        found = {"type": "json_schema", "json_schema": {"name": "x", "schema": bad}}
        yield f"B48 {bad!r}", CHAT, {"response_format": found}, 400, BAD_SCHEMA, schema
        for route in (CHAT, TEXT):
            if bad is not None:
                yield f"B48 guided {bad!r}", route, {"guided_json": bad}, 400, BAD_SCHEMA, "guided_json"
                yield f"B48 native {bad!r}", route, {"json_schema": bad}, 400, BAD_SCHEMA, "json_schema"
                outputs = {"structured_outputs": {"json": bad}}
                yield f"B48 outputs {bad!r}", route, outputs, 400, BAD_SCHEMA, "structured_outputs.json"
    yield "B48 text", CHAT, {"guided_json": "{a"}, 400, BAD_SCHEMA, "guided_json"
    yield "B48 nested text", CHAT, {"guided_json": "[" * 100_000}, 400, "schema_too_large", "guided_json"
    deep = '{"items":' * 970 + "{}" + "}" * 970
    yield "B48 deep text", CHAT, {"guided_json": deep}, 400, "schema_too_large", "guided_json"
    yield "B48 false", CHAT, {"guided_json_object": False}, 400, BAD_SCHEMA, "guided_json_object"
    no_object = "structured_outputs.json_object"
    yield "B48 outputs false", TEXT, {"structured_outputs": {"json_object": False}}, 400, BAD_SCHEMA, no_object
    yield "B55 two", CHAT, {"regex": "a", "guided_choice": ["a"]}, 400, VALUE, "guided_choice"
    yield "B55 two schemas", TEXT, {"response_format": {"type": "json_object"}, "ebnf": "a"}, 400, VALUE, "ebnf"
    yield "B55 two within", TEXT, {"structured_outputs": {"json": {}, "regex": "a"}}, 400, VALUE, "structured_outputs"
    yield "B55 none within", TEXT, {"structured_outputs": {}}, 400, VALUE, "structured_outputs"
    sampling = {"regex": "a", "ebnf": "a"}
    yield "B55 native", NATIVE, {"sampling_params": sampling}, 400, VALUE, "sampling_params.ebnf"
    yield "empty regex", CHAT, {"regex": ""}, 400, VALUE, "regex"
    yield "choices empty", CHAT, {"guided_choice": []}, 400, VALUE, "guided_choice"
    yield "choice empty", CHAT, {"guided_choice": ["a", ""]}, 400, VALUE, "guided_choice[1]"
    yield "choice a number", CHAT, {"guided_choice": [1]}, 400, TYPE, "guided_choice[0]"
    for field in ("guided_decoding_backend", "guided_whitespace_pattern", "structural_tag", "grammar"):
        yield f"refused by name {field}", TEXT, {field: "x"}, 400, UNSUPPORTED, field
    tag = {"structured_outputs": {"structural_tag": "x"}}
    yield "refused within", CHAT, tag, 400, UNSUPPORTED, "structured_outputs.structural_tag"


def _of_tools() -> Iterator[Row]:
    tool = {"type": "function", "function": {"name": "f"}}
    yield "B56 object", CHAT, {"tools": {}}, 400, TYPE, "tools"
    for name, bad, code, param in (
        ("nothing", {}, MISSING, "type"),
        ("no function", {"type": "function"}, MISSING, "function"),
        ("no name", {"type": "function", "function": {}}, MISSING, "function.name"),
        ("spaces", {"type": "function", "function": {"name": "a b"}}, VALUE, "function.name"),
        ("search", {"type": "web_search"}, UNSUPPORTED, "type"),
        ("schema", {"type": "function", "function": {"name": "f", "parameters": 3}}, BAD_SCHEMA, "function.parameters"),
        ("extra", {"type": "function", "function": {"name": "f", "code": "x"}}, UNKNOWN, "function.code"),
    ):
        yield f"B56 {name}", CHAT, {"tools": [bad]}, 400, code, f"tools[0].{param}"
    yield "B56 1000 tools", CHAT, {"tools": [tool] * 1000}, 400, VALUE, "tools"
    yield "B56 twice", CHAT, {"tools": [tool, tool]}, 400, VALUE, "tools"
    choice = "tool_choice"
    yield "B56 mode", CHAT, {"tools": [tool], choice: "maybe"}, 400, VALUE, choice
    yield "B56 mode 5", CHAT, {"tools": [tool], choice: 5}, 400, TYPE, choice
    named = {"type": "function", "function": {"name": "g"}}
    yield "B56 another", CHAT, {"tools": [tool], choice: named}, 400, VALUE, f"{choice}.function.name"
    inner = f"{choice}.allowed_tools"
    for name, allowed, code, param in (
        ("nothing", {}, MISSING, f"{inner}.mode"),
        ("no tool", {"mode": "auto", "tools": []}, VALUE, f"{inner}.tools"),
        ("mode none", {"mode": "none", "tools": [named]}, VALUE, f"{inner}.mode"),
        ("another", {"mode": "auto", "tools": [tool, named]}, VALUE, f"{inner}.tools[1].function.name"),
        ("search", {"mode": "auto", "tools": [{"type": "mcp"}]}, UNSUPPORTED, f"{inner}.tools[0].type"),
    ):
        wrong = {"type": "allowed_tools", "allowed_tools": allowed}
        yield f"B56 allowed {name}", CHAT, {"tools": [tool], choice: wrong}, 400, code, param
    first = {"functions": [{"name": "f"}]}
    for name, more, param in (
        ("mode", {"function_call": "required"}, "function_call"),
        ("another", {"function_call": {"name": "g"}}, "function_call.name"),
        ("two forms", {"tools": [tool]}, "functions"),
        ("two forms of a choice", {choice: "auto"}, "functions"),
        ("twice", {"functions": [{"name": "f"}] * 2}, "tools"),
    ):
        yield f"functions: {name}", CHAT, {**first, **more}, 400, VALUE, param
    yield "functions: no name", CHAT, {"functions": [{}]}, 400, MISSING, "functions[0].name"
    yield (
        "functions: schema",
        CHAT,
        {"functions": [{"name": "f", "parameters": 3}]},
        400,
        BAD_SCHEMA,
        "functions[0].parameters",
    )
    yield "B56 no tools", CHAT, {choice: "required"}, 400, VALUE, choice
    yield "B56 parallel", CHAT, {"parallel_tool_calls": 1}, 400, TYPE, "parallel_tool_calls"
    yield "tools and a form", CHAT, {"tools": [tool], "regex": "a"}, 400, VALUE, "regex"


def _of_the_native_routes() -> Iterator[Row]:
    yield "no input", NATIVE, {"text": ABSENT}, 400, VALUE, "text"
    yield "two inputs", NATIVE, {"input_ids": [1]}, 400, VALUE, "input_ids"
    yield "empty batch", NATIVE, {"text": []}, 400, VALUE, "text"
    yield "text a number", NATIVE, {"text": 5}, 400, TYPE, "text"
    yield "ids empty", NATIVE, {"text": ABSENT, "input_ids": []}, 400, VALUE, "input_ids"
    yield "ids of a batch empty", NATIVE, {"text": ABSENT, "input_ids": [[1], []]}, 400, VALUE, "input_ids[1]"
    yield "id too large", NATIVE, {"text": ABSENT, "input_ids": [[1], [VOCAB]]}, 400, ID, "input_ids[1][0]"
    yield "messages empty", NATIVE, {"text": ABSENT, "messages": []}, 400, VALUE, "messages"
    yield "continue what", NATIVE, {"continue_final_message": True}, 400, VALUE, "continue_final_message"
    for field in ("return_hidden_states", "return_cached_tokens_details", "log_metrics"):
        yield f"only one value: {field}", NATIVE, {field: WANTED[field][0]}, 400, UNSUPPORTED, field
    yield "background", NATIVE, {"background": True}, 400, UNSUPPORTED, "background"
    yield "code", NATIVE, {"custom_logit_processor": "x"}, 400, UNSUPPORTED, "custom_logit_processor"
    yield "top alone", NATIVE, {"top_logprobs_num": 2}, 400, VALUE, "top_logprobs_num"
    late = {"return_logprob": True, "logprob_start_len": 100}
    yield "start behind the end", NATIVE, late, 400, VALUE, "logprob_start_len"
    two = {"text": ["a", "b"], "return_logprob": True}
    for name, one in (
        ("sampling_params", {}),
        ("rid", "x"),
        ("return_logprob", True),
        ("logprob_start_len", 0),
        ("top_logprobs_num", 1),
        ("token_ids_logprob", [1]),
    ):
        yield f"three of two: {name}", NATIVE, {**two, name: [one] * 3}, 400, VALUE, name
    yield "wrong in a list", NATIVE, {**two, "top_logprobs_num": [1, 21]}, 400, VALUE, "top_logprobs_num[1]"
    yield "id in a list", NATIVE, {**two, "token_ids_logprob": [None, [VOCAB]]}, 400, ID, "token_ids_logprob[1][0]"
    yield (
        "top of none",
        NATIVE,
        {**two, "return_logprob": [False] * 2, "top_logprobs_num": 2},
        400,
        VALUE,
        "top_logprobs_num",
    )
    for how, code, param in (
        ({"max_tokens": 5}, UNKNOWN, "sampling_params.max_tokens"),
        ({"temperature": -1}, VALUE, "sampling_params.temperature"),
        ({"json_schema": "{"}, BAD_SCHEMA, "sampling_params.json_schema"),
        ({"guided_regex": "a"}, UNSUPPORTED, "sampling_params.guided_regex"),
        ({"max_new_tokens": 5000}, "context_length_exceeded", "sampling_params.max_new_tokens"),
        ({"n": 129}, VALUE, "sampling_params.n"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, VALUE, "sampling_params.min_new_tokens"),
        ({"max_new_tokens": -1}, VALUE, "sampling_params.max_new_tokens"),
        ({"sampling_seed": 2**63}, VALUE, "sampling_params.sampling_seed"),
        ([{}, {}], VALUE, "sampling_params"),
        ("x", TYPE, "sampling_params"),
    ):
        yield f"sampling {how}", NATIVE, {"sampling_params": how}, 400, code, param
    yield (
        "too many answers",
        NATIVE,
        {"text": ["a"] * 9, "sampling_params": {"n": 128}},
        400,
        VALUE,
        "sampling_params.n",
    )
    yield "no options", SCORE, {"options": ABSENT}, 400, MISSING, "options"
    yield "options empty", SCORE, {"options": []}, 400, VALUE, "options"
    yield "option empty", SCORE, {"options": ["a", ""]}, 400, VALUE, "options[1]"
    yield "option a number", SCORE, {"options": [1]}, 400, TYPE, "options[0]"
    yield "two prompts", SCORE, {"messages": HELLO}, 400, VALUE, "text"
    yield "too long", SCORE, {"text": "a" * 5000}, 400, "context_length_exceeded", "prompt"


ROWS = list(rows())


def changed(route: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD[route], **changes}.items() if value is not ABSENT}


@pytest.mark.parametrize(
    ("route", "changes", "status", "code", "param"),
    [row[1:] for row in ROWS],
    ids=[f"{row[0]} {row[1]}".replace("[", "(").replace("]", ")") for row in ROWS],
)
async def test_a_bad_field_is_refused_by_name(
    server: Running, route: str, changes: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    body = io.BytesIO(json.dumps(changed(route, changes)).encode())
    async with server.http.post(route, data=body, headers={"Content-Type": "application/json"}) as reply:
        await refused(reply, status, code, param)
    assert server.engine.asked == []


async def test_every_good_request_of_the_table_is_answered(server: Running) -> None:
    for route, body in GOOD.items():
        async with server.http.post(route, json=body) as reply:
            assert reply.status == 200, await reply.text()


BODIES: list[tuple[str, bytes, str, str | None, str]] = [
    ("B14", b"", "invalid_json", None, "empty"),
    ("B14 blank", b" \n", "invalid_json", None, "empty"),
    ("B15", b"{a}", "invalid_json", None, "line 1 column 2"),
    ("B15 cut", b'{"model": "fa', "invalid_json", None, "column"),
    ("B16 list", b"[]", "invalid_json", None, "must be a JSON object"),
    ("B16 string", b'"x"', "invalid_json", None, "must be a JSON object"),
    ("B16 null", b"null", "invalid_json", None, "must be a JSON object"),
    ("B16 number", b"5", "invalid_json", None, "must be a JSON object"),
    ("B17", b"[" * 100_000, "invalid_json", None, "nested too deeply"),
    ("B17 object", b'{"a":' * 100_000, "invalid_json", None, "nested too deeply"),
    (
        "B17 past the limit",
        b'{"user": ' + b"[" * 512 + b"]" * 512 + b"}",
        "invalid_json",
        None,
        "512 lists and objects",
    ),
    (
        "B17 below Python's",
        b'{"tools": ' + b'{"a":' * 970 + b"1" + b"}" * 971,
        "invalid_json",
        None,
        "512 lists and objects",
    ),
    ("B18", b'{"model": "fake", "prompt": "a", "n": ' + b"9" * 5000 + b"}", VALUE, "n", "number too large"),
    ("B19 NaN", b'{"temperature": NaN}', VALUE, "temperature", "finite"),
    ("B19 Infinity", b'{"logit_bias": {"1": -Infinity}}', VALUE, "logit_bias.1", "finite"),
    ("B19 1e999", b'{"top_p": 1e999}', VALUE, "top_p", "finite"),
    ("B19 in a list", b'{"stop_token_ids": [1, NaN]}', VALUE, "stop_token_ids[1]", "finite"),
    ("B19 ignored field", b'{"metadata": {"a": NaN}}', VALUE, "metadata.a", "finite"),
    ("B20 UTF-8", b'{"prompt": "\xff"}', "invalid_json", None, "UTF-8"),
    ("B20 BOM", b'\xef\xbb\xbf{"prompt": "a"}', "invalid_json", None, "UTF-8"),
    ("B20 UTF-16", '{"prompt": "a"}'.encode("utf-16"), "invalid_json", None, "UTF-8"),
    ("B21 prompt", b'{"prompt": "a\\ud800"}', VALUE, "prompt", "unpaired surrogate"),
    ("B21 stop", b'{"stop": ["a", "\\uDC00"]}', VALUE, "stop[1]", "unpaired surrogate"),
    ("B21 swapped", b'{"prompt": "\\udc00\\ud800"}', VALUE, "prompt", "unpaired surrogate"),
    ("B22", b'{"temperature": 1, "temperature": 0}', "duplicate_key", "temperature", "twice"),
    ("B22 below", b'{"logit_bias": {"1": 1, "1": 2}}', "duplicate_key", "1", "twice"),
]


@pytest.mark.parametrize(("body", "code", "param", "says"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
async def test_a_body_that_is_not_strict_json_is_refused(
    server: Running, body: bytes, code: str, param: str | None, says: str
) -> None:
    async with server.http.post(TEXT, data=body, headers={"Content-Type": "application/json"}) as reply:
        assert says in await refused(reply, 400, code, param)
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        assert reply.status == 200


async def test_a_surrogate_pair_is_a_character(server: Running) -> None:
    body = b'{"model": "fake", "prompt": "\\ud83d\\ude00", "max_tokens": 1}'
    async with server.http.post(TEXT, data=body, headers={"Content-Type": "application/json"}) as reply:
        assert reply.status == 200
    assert bytes(server.engine.asked[0].prompt[1:]).decode() == "😀"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
async def test_a_body_that_is_not_declared_as_json_is_refused(server: Running, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    skip = () if kind else ("Content-Type",)
    async with server.http.post(TEXT, data=b"{}", headers=headers, skip_auto_headers=skip) as reply:
        await refused(reply, 415, "unsupported_media_type", None)


async def test_a_charset_other_than_utf8_is_refused(server: Running) -> None:
    headers = {"Content-Type": "application/json; charset=utf-16"}
    async with server.http.post(TEXT, data='{"a": 1}'.encode("utf-16"), headers=headers) as reply:
        assert "UTF-8" in await refused(reply, 400, "invalid_json", None)


async def test_integral_floats_are_whole_numbers(server: Running) -> None:
    body = {"model": "fake", "prompt": [104.0, 105], "max_tokens": 1.0, "seed": 2.0, "top_k": 5.0}
    async with server.http.post(TEXT, json=body) as reply:
        assert reply.status == 200, await reply.text()
    (asked,) = server.engine.asked
    assert asked.prompt == [104, 105]
    assert type(asked.prompt[0]) is int
    assert (asked.params.max_tokens, asked.params.seed, asked.params.top_k) == (1, 2, 5)


@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_null_means_that_a_field_was_not_given(server: Running, route: str) -> None:
    names = "temperature top_p n seed stop logit_bias tools response_format logprobs user stream_options regex".split()
    async with server.http.post(route, json={**GOOD[route], **dict.fromkeys(names)}) as reply:
        assert reply.status == 200, await reply.text()


async def test_the_fields_that_openai_knows_and_nothing_here_needs_are_ignored(server: Running) -> None:
    extras = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "response_format": {"type": "text"},
    }
    async with server.http.post(CHAT, json={**GOOD[CHAT], **extras}) as reply:
        assert reply.status == 200, await reply.text()


async def test_a_near_miss_is_answered_with_the_right_name(server: Running) -> None:
    for wrong, right in (("guided_jsno", "guided_json"), ("temprature", "temperature")):
        async with server.http.post(CHAT, json={**GOOD[CHAT], wrong: 1}) as reply:
            assert f"did you mean {right}?" in await refused(reply, 400, UNKNOWN, wrong)


async def test_who_asks_for_an_engine_is_told_where_it_is_chosen(server: Running) -> None:
    async with server.http.post(TEXT, json={**GOOD[TEXT], "guided_decoding_backend": "outlines"}) as reply:
        assert "--grammar-backend" in await refused(reply, 400, UNSUPPORTED, "guided_decoding_backend")


async def test_an_unknown_model_is_answered_with_those_that_are_served(server: Running) -> None:
    async with server.http.post(CHAT, json={**GOOD[CHAT], "model": "x"}) as reply:
        assert "served: fake" in await refused(reply, 404, "model_not_found", "model")
    async with server.http.post(CHAT, json={**GOOD[CHAT], "model": "default"}) as reply:
        assert reply.status == 200


async def test_a_request_that_does_not_fit_is_told_all_three_numbers(start: StartServer) -> None:
    server = await start(FakeEngine(context_length=100))
    async with server.http.post(TEXT, json={"model": "fake", "prompt": "a" * 60, "max_tokens": 50}) as reply:
        message = await refused(reply, 400, "context_length_exceeded", "max_tokens")
    assert all(number in message for number in ("61", "50", "100"))


@pytest.mark.parametrize(
    ("route", "field"), [(TEXT, "prompt"), (CHAT, "content"), (CHAT, "reasoning_content"), (NATIVE, "text")]
)
async def test_of_a_prompt_that_is_far_too_long_only_the_beginning_is_tokenized(
    start: StartServer, route: str, field: str
) -> None:
    server = await start(FakeEngine(context_length=5000))
    lengths: list[int] = []
    tokenize = server.engine.tokenizer.encode

    def watched(text: str, *, bos: bool = True) -> list[int]:
        lengths.append(len(text))
        return tokenize(text, bos=bos)

    server.engine.tokenizer.encode = watched
    body = {**GOOD[route], field: "a" * 500_000}
    if route == CHAT:
        said = [{"role": "assistant", "content": "", field: "a" * 500_000}]
        body = {**GOOD[route], "messages": [*HELLO, *said, *HELLO]}
    async with server.http.post(route, json=body) as reply:
        message = await refused(reply, 400, "context_length_exceeded", "prompt")
    assert "80000 characters" in message
    assert "5000" in message
    assert lengths == [80_000]


async def test_arguments_nested_too_deeply_to_walk_over_are_text(start: StartServer) -> None:
    server = await start(FakeEngine(context_length=10_000))
    arguments = '{"a":' * 970 + "1" + "}" * 970
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    body = {**GOOD[CHAT], "messages": [*HELLO, {"role": "assistant", "tool_calls": [call]}, *HELLO], "max_tokens": 1}
    async with server.http.post(CHAT, json=body) as reply:
        assert reply.status == 200, await reply.text()
    assert json.dumps(arguments) in server.engine.tokenizer.decode(server.engine.asked[0].prompt)


async def test_what_is_not_asked_for_is_cut_to_what_fits(start: StartServer) -> None:
    server = await start(FakeEngine(context_length=70))
    for route, body in (
        (TEXT, {"model": "fake", "prompt": "a" * 60}),
        (CHAT, {"model": "fake", "messages": HELLO}),
        (NATIVE, {"text": "a" * 60}),
    ):
        async with server.http.post(route, json=body) as reply:
            assert reply.status == 200, await reply.text()
    assert [a.params.max_tokens + len(a.prompt) for a in server.engine.asked] == [70, 70, 70]


async def test_an_empty_prompt_needs_a_token_that_starts_a_text(start: StartServer) -> None:
    body = {"model": "fake", "prompt": "", "max_tokens": 1}
    async with (await start()).http.post(TEXT, json=body) as reply:
        assert reply.status == 200
    async with (await start(FakeEngine(bos=False))).http.post(TEXT, json=body) as reply:
        assert "empty" in await refused(reply, 400, VALUE, "prompt")


async def test_zero_tokens_are_for_echo_only(server: Running) -> None:
    body = {"model": "fake", "prompt": "ab", "max_tokens": 0, "echo": True}
    async with server.http.post(TEXT, json=body) as reply:
        assert (await reply.json())["choices"][0]["text"] == "ab"


async def test_a_model_without_a_template_answers_text_but_no_chat(start: StartServer) -> None:
    server = await start(FakeEngine(chat=False))
    for route in (CHAT, NATIVE):
        async with server.http.post(
            route, json={"messages": HELLO, **({"model": "fake"} if route == CHAT else {})}
        ) as reply:
            assert "--chat-template" in await refused(reply, 400, "chat_template_error", "messages")
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        assert reply.status == 200


async def test_a_long_bad_value_is_not_repeated_whole(server: Running) -> None:
    async with server.http.post(CHAT, json={**GOOD[CHAT], "x" * 100_000: 1}) as reply:
        raw = await reply.read()
    assert reply.status == 400
    assert len(raw) < 1024
    async with server.http.post(CHAT, json={**GOOD[CHAT], "messages": [{"role": "\x01" * 9999}]}) as reply:
        await refused(reply, 400, VALUE, "messages[0].role")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_is_measured_after_it_is_unpacked(start: StartServer, encoding: str) -> None:
    server = await start(body_limit_bytes=1 << 20)
    packed = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    bomb = packed.compress(b" " * (50 << 20)) + packed.flush()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with server.http.post(TEXT, data=bomb, headers=headers) as reply:
        assert str(1 << 20) in await refused(reply, 413, "request_too_large", None)


async def test_a_packed_body_of_allowed_size_is_read(server: Running) -> None:
    packed = zlib.compressobj(wbits=31)
    data = packed.compress(json.dumps(GOOD[TEXT]).encode()) + packed.flush()
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with server.http.post(TEXT, data=data, headers=headers) as reply:
        assert reply.status == 200, await reply.text()


@pytest.mark.parametrize("encoding", ["br", "zstd"])  # a server with the packages for these can read them
async def test_a_body_that_is_badly_packed_is_refused(server: Running, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with server.http.post(TEXT, data=b"not packed at all", headers=headers) as reply:
        assert reply.status in (400, 415), await reply.text()
        assert "error" in await reply.json()
    headers["Content-Encoding"] = "gzip"
    async with server.http.post(TEXT, data=b"not packed at all", headers=headers) as reply:
        await refused(reply, 400, "invalid_json", None)


@pytest.mark.parametrize("encoding", ["wibble", "x-gzip", "gzip, gzip", "compress"])
async def test_a_body_that_is_packed_in_an_unknown_way_is_refused_by_that_name(server: Running, encoding: str) -> None:
    packed = zlib.compressobj(wbits=31)
    data = packed.compress(json.dumps(GOOD[TEXT]).encode()) + packed.flush()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with server.http.post(TEXT, data=data, headers=headers) as reply:
        assert "Content-Encoding" in await refused(reply, 415, "unsupported_media_type", None)


async def test_a_body_beyond_the_limit_is_refused_declared_or_not(start: StartServer) -> None:
    server = await start(body_limit_bytes=1000)

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 100

    for data in (b" " * 1001, pieces()):
        async with server.http.post(TEXT, data=data, headers={"Content-Type": "application/json"}) as reply:
            assert "1000" in await refused(reply, 413, "request_too_large", None)
    body = json.dumps(GOOD[TEXT]).encode().ljust(1000)
    async with server.http.post(TEXT, data=body, headers={"Content-Type": "application/json"}) as reply:
        assert reply.status == 200


async def test_unknown_addresses_and_methods_have_the_same_shape(server: Running) -> None:
    async with server.http.get("/v1/foo") as reply:
        await refused(reply, 404, "unknown_url", None)
    async with server.http.get(CHAT) as reply:
        await refused(reply, 405, "method_not_allowed", None)
        assert reply.headers["Allow"] == "POST"
    async with server.http.get("/v1/models/nope") as reply:
        await refused(reply, 404, "model_not_found", "model")


async def test_a_fault_of_ours_says_nothing_about_the_inside(server: Running) -> None:
    server.engine.fail_at = 0
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        await refused(reply, 500, "internal_error", None)
    server.engine.fail_at = None
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        assert reply.status == 200
