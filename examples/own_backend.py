"""A backend of one's own: any asynchronous function from messages to text can answer programs.

Here it is a calculator, so this runs offline:  python examples/own_backend.py
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from stolon import Backend, Capabilities, Delta, GenerateRequest, Usage, assistant, function, gen, user
from stolon.lang.prompt import Message

Answer = Callable[[list[Message]], Awaitable[str]]


class Calls(Backend):
    """Answers with what `answer` makes of the messages so far. A word counts as a token."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    @property
    def capabilities(self) -> Capabilities:
        # whatever is not named here is refused at the user's line, before `stream` is called
        honoured = frozenset({"max_tokens", "stop"})
        return Capabilities(params=honoured, chat_only=True, continue_assistant=False)

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        messages = request.prompt.messages()[:-1]  # the last turn is the one to be answered
        text = await self.answer(messages)
        for stop in request.params.stop:
            text = text.split(stop, 1)[0]
        words = re.findall(r"\s*\S+\s*$|\s*\S+", text)
        kept = words[: request.params.max_tokens]
        for word in kept:
            yield Delta(word)
        usage = Usage(completion_tokens=len(kept), requests=1)
        yield Delta("", finish="stop" if len(kept) == len(words) else "length", usage=usage)


OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value_of(node: ast.AST) -> float:
    """Raises ValueError for anything but numbers and the four operations."""
    match node:
        case ast.Expression(body):
            return value_of(body)
        case ast.Constant(int() | float() as value):
            return value
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value_of(left), value_of(right))
        case ast.UnaryOp(ast.USub(), operand):
            return -value_of(operand)
        case _:
            raise ValueError("that is no sum")


async def calculate(messages: list[Message]) -> str:
    """The sum in the last question, worked out."""
    question = messages[-1]["content"]
    found = re.search(r"[-\d(][\d\s.()+*/-]*", question)
    if found is None:
        return "I only do sums."
    try:
        return f"{found.group().strip()} = {value_of(ast.parse(found.group().strip(), mode='eval')):g}"
    except (ValueError, SyntaxError, ZeroDivisionError) as error:
        return f"I cannot work that out: {error}"


@function
def two_sums(s: Any, first: str, second: str) -> None:
    s += user(first)
    s += assistant(gen("first"))
    s += user(second)
    s += assistant(gen("second", stop=" ="))


def main() -> None:
    state = two_sums.run(first="What is 6 * (3 + 4)?", second="And 1 / 8?", backend=Calls(calculate))
    for message in state.messages():
        print(message["role"], ":", message["content"])


if __name__ == "__main__":
    main()
