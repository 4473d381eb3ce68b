"""`--grammar-backend`: each engine alone makes whole answers, and refuses at once what it does not take."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stolon.lang.constraint import Constraint
from stolon.lang.errors import UnsupportedError
from tests.runtime.answers import GREEDY, SEEDED, answer, engine_of
from tests.structured.edges import schema

PROMPT = [5, 17, 99, 42]
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": -9, "maximum": 99}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
    "additionalProperties": False,
}
FORMS: dict[str, tuple[Constraint, Callable[[str], bool]]] = {
    "a regex": (
        Constraint("regex", r"[a-f]{2,4}-\d\d(?:é|yes)?"),
        lambda text: re.fullmatch(r"[a-f]{2,4}-\d\d(?:é|yes)?", text) is not None,
    ),
    "choices": (Constraint("choices", choices=("yes", "yesterday", "東京")), ("yes", "yesterday", "東京").__contains__),
    "a small schema": (schema(POINT), lambda text: set(json.loads(text)) == {"x", "on"}),
}
TAKEN = {
    "auto": list(FORMS),
    "automaton": list(FORMS),
    "llguidance": list(FORMS),
    "outlines": ["a regex", "choices"],
}


@pytest.mark.parametrize("backend", TAKEN)
async def test_every_backend_makes_answers_of_the_forms_that_it_takes(tiny_checkpoint: Path, backend: str) -> None:
    engine = engine_of(tiny_checkpoint, grammar_backend=backend)
    try:
        for name, (form, is_of) in FORMS.items():
            if name not in TAKEN[backend]:
                with pytest.raises(UnsupportedError) as caught:
                    await engine.check(form)
                assert (caught.value.code, caught.value.param) == ("unsupported_constraint", form.kind)
                continue
            ways = [replace(GREEDY, max_tokens=30), *(replace(SEEDED, max_tokens=30, seed=seed) for seed in range(3))]
            for found in await asyncio.gather(*(answer(engine, PROMPT, way, constraint=form) for way in ways)):
                assert found.finish == "stop"
                assert is_of(found.text), found.text
    finally:
        await engine.close()


async def test_a_schema_that_is_not_regular_is_refused_by_the_automaton_with_its_place(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint, grammar_backend="automaton")
    try:
        with pytest.raises(UnsupportedError, match="anything may stand there") as caught:
            await engine.check(schema({"type": "array", "items": {"type": "array"}, "maxItems": 2}))
    finally:
        await engine.close()
    assert (caught.value.code, caught.value.param) == ("unsupported_constraint", "/items")
