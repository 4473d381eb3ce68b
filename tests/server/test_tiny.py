"""The built-in model behind the real server, spoken to by clients that others wrote: nothing is faked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from anthropic import Anthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, SecretStr

from tests.server.test_real import Process, launch

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ADD: dict[str, Any] = {
    "name": "add",
    "description": "Add two numbers",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
TOOLS: list[Any] = [{"type": "function", "function": each} for each in (WEATHER, ADD)]
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
PARIS = {"city": "Paris"}


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    running = launch("tiny", "--log-level", "warning")  # nobody reads its log, and a full pipe would stop it
    yield running
    running.popen.kill()
    running.popen.communicate()


@pytest.fixture(scope="module")
def client(process: Process) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def the_call(reply: ChatCompletion) -> ChatCompletionMessageFunctionToolCall:
    """The only one."""
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert call.type == "function"
    return call


def test_the_model_calls_the_tool_it_needs_and_answers_with_its_result(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "tools": TOOLS, "temperature": 0, "max_tokens": 300}
    first = client.chat.completions.create(**asked, messages=QUESTION)
    assert first.choices[0].finish_reason == "tool_calls"
    call = the_call(first)
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", PARIS)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny, 25 degrees"}
    history: list[Any] = [*QUESTION, first.choices[0].message, result]
    second = client.chat.completions.create(**asked, messages=history)
    assert "sunny" in (second.choices[0].message.content or "")


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_required_call_is_valid_whatever_the_question(client: OpenAI, temperature: int) -> None:
    schemas = {each["name"]: each["parameters"] for each in (WEATHER, ADD)}
    for question in ("Hello", "What is the capital of France?"):
        reply = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": question}],
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=temperature,
            max_tokens=300,
            seed=7,
        )
        call = the_call(reply)
        jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])


def test_a_tool_that_is_not_allowed_is_not_called(client: OpenAI) -> None:
    for mode in ("auto", "required"):
        allowed: Any = {"mode": mode, "tools": [{"type": "function", "function": {"name": "add"}}]}
        reply = client.chat.completions.create(
            model="tiny",
            messages=QUESTION,  # of the weather
            tools=TOOLS,
            tool_choice={"type": "allowed_tools", "allowed_tools": allowed},
            temperature=0,
            max_tokens=300,
        )
        names = [call.function.name for call in reply.choices[0].message.tool_calls or () if call.type == "function"]
        assert set(names) <= {"add"}
        assert bool(names) or mode == "auto"
        assert "get_weather" not in (reply.choices[0].message.content or "")


def test_a_model_without_thoughts_answers_as_ever_however_hard_it_is_to_think(client: OpenAI) -> None:
    efforts: list[Any] = [None, "none", "low", "high"]
    replies = [
        client.chat.completions.create(
            model="tiny", messages=QUESTION, reasoning_effort=effort, temperature=0, max_tokens=20
        )
        for effort in efforts
    ]
    assert len({reply.choices[0].message.content for reply in replies}) == 1
    assert len({reply.usage.prompt_tokens for reply in replies if reply.usage}) == 1


def test_a_conversation_can_be_read_without_the_start_of_an_answer(process: Process, client: OpenAI) -> None:
    def tokens(**more: object) -> list[int]:
        body = {"messages": QUESTION, **more}
        return client.post(f"{process.url}/tokenize", body=body, cast_to=object)["tokens"]  # pyright: ignore[reportIndexIssue]

    opened, closed = tokens(), tokens(add_generation_prompt=False)
    assert opened[: len(closed)] == closed
    assert len(opened) > len(closed)
    reply = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=1, extra_body={"add_generation_prompt": False}
    )
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(closed)


def test_a_named_tool_is_called_and_streamed_in_fragments(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        temperature=0,
        max_tokens=300,
        stream=True,
    )
    parts = [part for chunk in stream for part in chunk.choices[0].delta.tool_calls or ()]
    assert [part.function.name for part in parts if part.function and part.function.name] == ["get_weather"]
    fragments = [part.function.arguments for part in parts if part.function and part.function.arguments]
    assert len(fragments) > 1
    assert json.loads("".join(fragments)) == PARIS


def test_strict_tools_leave_the_choice_to_the_model(client: OpenAI) -> None:
    strict: list[Any] = [{"type": "function", "function": {**each, "strict": True}} for each in (WEATHER, ADD)]
    reply = client.chat.completions.create(model="tiny", messages=QUESTION, tools=strict, temperature=0, max_tokens=300)
    call = the_call(reply)
    assert json.loads(call.function.arguments) == PARIS


@pytest.mark.parametrize("temperature", [0, 1])
def test_beside_tools_an_answer_has_its_schema(client: OpenAI, temperature: int) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {**schema, "additionalProperties": False}},
    }
    schemas = {each["name"]: each["parameters"] for each in (WEATHER, ADD)}
    for question in (QUESTION, [{"role": "user", "content": "What is the capital of France?"}]):
        reply = client.chat.completions.create(
            model="tiny",
            messages=question,  # pyright: ignore[reportArgumentType]
            tools=TOOLS,
            response_format=form,
            temperature=temperature,
            max_tokens=300,
            seed=3,
        )
        said = reply.choices[0].message
        if reply.choices[0].finish_reason == "tool_calls":
            for call in said.tool_calls or ():
                assert call.type == "function"
                jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
        else:
            jsonschema.validate(json.loads(said.content or ""), schema)


class City(BaseModel):
    name: str
    country: str


def test_typed_models_are_parsed_from_chat_and_responses(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Give me Paris as JSON."}]
    chat = client.chat.completions.parse(
        model="tiny", messages=messages, response_format=City, temperature=0, max_tokens=300
    )
    assert isinstance(chat.choices[0].message.parsed, City)
    response = client.responses.parse(
        model="tiny", input=messages, text_format=City, temperature=0, max_output_tokens=300
    )
    assert response.output_parsed == chat.choices[0].message.parsed


def test_a_bad_tool_of_a_request_is_named_and_the_next_request_is_served(process: Process, client: OpenAI) -> None:
    bad: Any = {"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/nowhere"}}}
    with pytest.raises(Exception, match="nowhere") as caught:
        client.chat.completions.create(
            model="tiny", messages=QUESTION, tools=[*TOOLS, bad], tool_choice="required", max_tokens=300
        )
    param = str(getattr(caught.value, "param", ""))
    assert param.startswith("tools[2].function.parameters")
    assert client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=3).choices


def test_anthropics_client_calls_a_tool_and_sends_its_result(process: Process) -> None:
    tools: list[Any] = [
        {"name": "get_weather", "description": WEATHER["description"], "input_schema": WEATHER["parameters"]}
    ]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 300, "tools": tools, "extra_body": {"temperature": 0}}
    with Anthropic(base_url=process.url, api_key="none", max_retries=0) as client:
        with client.messages.stream(**asked, messages=QUESTION) as stream:
            first = stream.get_final_message()
        use = first.content[-1]
        assert use.type == "tool_use"
        assert use.input == PARIS
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
        history = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = client.messages.create(**asked, messages=history)
    assert second.content[0].type == "text"
    assert "sunny" in second.content[0].text


def test_anthropics_thinking_changes_nothing_on_a_model_without_thoughts(process: Process) -> None:
    kinds: list[Any] = [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}, {"type": "disabled"}]
    with Anthropic(base_url=process.url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "max_tokens": 1025, "messages": QUESTION, "extra_body": {"temperature": 0}}
        (plain,) = client.messages.create(**asked).content
        for kind in kinds:
            with client.messages.stream(**asked, thinking=kind) as stream:
                (block,) = stream.get_final_message().content
            assert block.model_dump() == plain.model_dump()


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city"""
    return "sunny, 25 degrees"


@pytest.mark.parametrize("through_responses", [False, True])
def test_langchain_calls_tools_streams_and_reads_structured_answers(process: Process, through_responses: bool) -> None:
    model = ChatOpenAI(
        base_url=f"{process.url}/v1",
        api_key=SecretStr("none"),
        model="tiny",
        temperature=0,
        max_retries=0,
        max_completion_tokens=300,
        use_responses_api=through_responses,
    )
    with_tools = model.bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    answer = with_tools.invoke([question])
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", PARIS)
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert "sunny" in with_tools.invoke([question, answer, result]).text
    assert "".join(chunk.text for chunk in model.stream("What is the capital of France?"))
    city = model.with_structured_output(City, method="json_schema").invoke("Give me Paris as JSON.")
    assert isinstance(city, City)


PAGE = "Paris is the capital of France. The capital of France is Paris. Paris has the Louvre. " * 3


def test_increments_of_several_tokens_have_the_log_probability_of_each() -> None:
    """A server that guesses: what it streams is what it tells at once."""
    running = launch("tiny", "--speculative-algorithm", "NGRAM", "--deterministic", "--log-level", "warning")
    try:
        with OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            asked: dict[str, Any] = {"model": "tiny", "prompt": PAGE, "max_tokens": 60}
            asked |= {"temperature": 0, "logprobs": 1, "extra_body": {"ignore_eos": True}}
            whole = client.completions.create(**asked).choices[0]
            events = list(client.completions.create(**asked, stream=True))
            metrics = client.with_options(base_url=running.url).get("/metrics", cast_to=str)
    finally:
        running.popen.kill()
        running.popen.communicate()
    choices = [event.choices[0] for event in events if event.choices]
    assert "".join(choice.text for choice in choices) == whole.text
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.tokens or ()]
    assert whole.logprobs is not None
    assert tokens == whole.logprobs.tokens
    assert len(tokens) == 60
    assert len(choices) < 55
    accepted = re.search(r"^stolon:spec_decode_num_accepted_tokens_total (.+)$", metrics, re.MULTILINE)
    assert accepted is not None
    assert float(accepted[1]) >= 10
