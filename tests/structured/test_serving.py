"""Constrained answers beside everything else that a request may ask, and beside other requests."""

from __future__ import annotations

import asyncio
import json
import random
import re
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stolon.lang.constraint import Constraint
from stolon.lang.errors import EngineError, InvalidRequest
from stolon.lang.types import SamplingParams
from stolon.runtime.engine import Engine, derive_seed
from stolon.runtime.grammar.automaton import AutomatonGrammar, AutomatonMatcher
from stolon.runtime.grammar.llg import LlgMatcher
from tests.runtime.answers import GREEDY, SEEDED, Answer, answer, answers, engine_of, family_prompts, token_texts
from tests.structured.forms import CHOICES, REGEXES, SCHEMAS, schema

PROMPT = [5, 17, 99, 42]
WORDS = Constraint("regex", "[a-z]{1,12}( [a-z]{1,12})*")
RECORD = schema(SCHEMAS["a record"])
FORMS = [
    *(schema(SCHEMAS[name]) for name in ("a record", "a manifest", "a tool call", "formats", "mixed", "a setting")),
    *(Constraint("regex", pattern) for pattern in REGEXES[:5]),
    *(Constraint("choices", choices=choices) for choices in CHOICES[:4]),
]
SAMPLED = replace(SEEDED, top_k=-1, top_p=1.0, temperature=1.3, max_tokens=90)


async def all_forms(engine: Engine, params: SamplingParams) -> list[Answer]:
    """One answer in each form, from prompts that share beginnings, all at the same time."""
    prompts = family_prompts(len(FORMS))
    asked = zip(prompts, FORMS, strict=True)
    return await asyncio.gather(*(answer(engine, prompt, params, constraint=form) for prompt, form in asked))


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> list[list[Answer]]:
    """All forms without jump-forward and without a cache, one request at a time; greedy, and sampled."""

    async def one_by_one() -> list[list[Answer]]:
        engine = engine_of(tiny_checkpoint, jump_forward=False, radix_cache=False)

        async def in_turn(params: SamplingParams) -> list[Answer]:
            asked = zip(family_prompts(len(FORMS)), FORMS, strict=True)
            return [await answer(engine, prompt, params, constraint=form) for prompt, form in asked]

        found = [await in_turn(params) for params in (replace(GREEDY, max_tokens=90), SAMPLED)]
        await engine.close()
        return found

    return asyncio.run(one_by_one())


@pytest.mark.parametrize("settings", [{}, {"token_budget": 5}, {"page_size": 16}, {"kv_tokens": 230}], ids=str)
async def test_neither_jumping_nor_batches_nor_preemption_change_an_answer(
    tiny_checkpoint: Path, plain: list[list[Answer]], settings: dict[str, object]
) -> None:
    engine = engine_of(tiny_checkpoint, **settings)
    greedy = await all_forms(engine, replace(GREEDY, max_tokens=90))
    sampled = await all_forms(engine, SAMPLED)
    stats = engine.stats()
    await engine.close()
    assert token_texts(greedy) == token_texts(plain[0])
    assert token_texts(sampled) == token_texts(plain[1])
    assert int(str(stats["forced"])) > 100
    assert ("kv_tokens" in settings) == (int(str(stats["preemptions"])) > 0)


async def test_forcing_keeps_the_text_of_a_trained_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked greedy decoding that forces no token, on the built-in model, which was trained on its tokenizer's text."""
    forms = [FORMS[0], FORMS[2], Constraint("regex", REGEXES[3]), Constraint("choices", choices=CHOICES[3])]
    asked = ["Give me a JSON object for a person.", "Call a tool to get the weather in Paris.", "I like this film."]
    params = replace(GREEDY, max_tokens=60)
    found: list[list[Answer]] = []
    for forcing in (True, False):
        if not forcing:
            for matcher in (AutomatonMatcher, LlgMatcher):
                monkeypatch.setattr(matcher, "forced_tokens", lambda self, said, budget: [])
        engine = engine_of(Path("tiny"))
        assert engine.chat is not None
        prompts = [engine.chat.encode([{"role": "user", "content": text}]) for text in asked]
        jobs = [answer(engine, prompt, params, constraint=form) for prompt in prompts for form in forms]
        found.append(await asyncio.gather(*jobs))
        assert (int(str(engine.stats()["forced"])) > 0) == forcing
        await engine.close()
    assert [one.text for one in found[0]] == [one.text for one in found[1]]


async def test_a_forced_answer_takes_one_step(engine: Engine) -> None:
    before = int(str(engine.stats()["steps"]))
    found = await answer(engine, PROMPT, GREEDY, constraint=Constraint("choices", choices=("the one and only answer",)))
    assert (found.text, found.finish) == ("the one and only answer", "stop")
    assert int(str(engine.stats()["steps"])) == before + 1
    assert found.usage is not None
    assert found.usage.completion_tokens == len(found.tokens) > 3


async def test_an_answer_ends_without_a_step_for_its_end(engine: Engine) -> None:
    before = int(str(engine.stats()["steps"]))
    found = await answer(engine, PROMPT, GREEDY, constraint=Constraint("regex", "[a-z]{3}"))
    assert int(str(engine.stats()["steps"])) - before == len(found.tokens)
    assert not set(found.tokens) & engine.tokenizer.eos_ids
    assert found.matched is None


async def test_free_answers_are_the_same_beside_constrained_ones(tiny_checkpoint: Path) -> None:
    jobs = [(prompt, replace(SEEDED, seed=index)) for index, prompt in enumerate(family_prompts(8, seed=3))]
    engine = engine_of(tiny_checkpoint)
    quiet = [await answer(engine, *job) for job in jobs]
    await engine.close()
    engine = engine_of(tiny_checkpoint)
    beside, _ = await asyncio.gather(
        asyncio.gather(*(answer(engine, *job) for job in jobs)), all_forms(engine, SAMPLED)
    )
    await engine.close()
    assert token_texts(beside) == token_texts(quiet)


async def test_three_answers_are_three_requests_with_derived_seeds(engine: Engine) -> None:
    together = await answers(engine, PROMPT, replace(SAMPLED, n=3), constraint=RECORD)
    apart = [
        await answer(engine, PROMPT, replace(SAMPLED, seed=derive_seed(1234, index)), constraint=RECORD)
        for index in range(3)
    ]
    assert token_texts(together) == token_texts(apart)
    assert len({found.text for found in together}) == 3


async def test_an_abort_ends_a_constrained_answer_and_no_other(engine: Engine) -> None:
    other = asyncio.create_task(answer(engine, PROMPT, SAMPLED, constraint=RECORD))
    for _ in range(3):
        async with aclosing(engine.generate(PROMPT, SAMPLED, constraint=WORDS)) as deltas:
            async for _ in deltas:
                break
    assert json.loads((await other).text)
    assert engine.stats()["running"] == 0


# -- logits


async def test_a_bias_does_not_bring_back_what_is_not_allowed(engine: Engine) -> None:
    token = engine.tokenizer.encode_run("Z", "inside")[0]
    eos = next(iter(engine.tokenizer.eos_ids))
    params = replace(SAMPLED, max_tokens=20, logit_bias=((token, 100.0), (eos, 100.0)))
    found = await answer(engine, PROMPT, params, constraint=Constraint("regex", "[a-y]{9}"))
    assert re.fullmatch("[a-y]{9}", found.text)


async def test_log_probabilities_are_of_the_model_and_cost_no_text(engine: Engine) -> None:
    params = replace(GREEDY, max_tokens=90, logprobs=2)
    told = await answer(engine, PROMPT, params, constraint=RECORD)
    untold = await answer(engine, PROMPT, replace(params, logprobs=None), constraint=RECORD)
    assert token_texts([told]) == token_texts([untold])
    scores = await engine.score([PROMPT + told.tokens], len(PROMPT))
    assert [entry.token for entry in told.logprobs] == told.tokens
    assert [entry.logprob for entry in told.logprobs] == pytest.approx(scores[0], abs=1e-4)


async def test_penalties_count_forced_tokens_like_drawn_ones(tiny_checkpoint: Path) -> None:
    found: list[Answer] = []
    for jump in (True, False):
        engine = engine_of(tiny_checkpoint, jump_forward=jump)
        params = replace(SAMPLED, frequency_penalty=1.0, presence_penalty=0.5, repetition_penalty=1.2)
        found.append(await answer(engine, PROMPT, params, constraint=RECORD))
        await engine.close()
    assert token_texts(found[:1]) == token_texts(found[1:])


# -- the end


async def test_a_budget_that_holds_no_answer_is_refused_with_the_number(engine: Engine) -> None:
    form = Constraint("regex", "[0-9]{20}")
    with pytest.raises(InvalidRequest, match=r"needs \d+ tokens, but max_tokens is 3") as caught:
        await answer(engine, PROMPT, SamplingParams(max_tokens=3), constraint=form)
    assert (caught.value.code, caught.value.param) == ("budget_too_small", "max_tokens")
    found = re.search(r"needs (\d+) tokens", str(caught.value))
    assert found is not None
    exact = await answer(engine, PROMPT, SamplingParams(max_tokens=int(found[1])), constraint=form)
    assert re.fullmatch("[0-9]{20}", exact.text)


@pytest.mark.parametrize("wish", [{"ignore_eos": True}, {"min_tokens": 12}], ids=str)
async def test_an_end_is_put_off_while_there_is_something_else_to_say(engine: Engine, wish: dict[str, object]) -> None:
    eos = next(iter(engine.tokenizer.eos_ids))
    params = replace(SAMPLED, max_tokens=20, logit_bias=((eos, 100.0),))
    short = await answer(engine, PROMPT, params, constraint=WORDS)
    assert len(short.tokens) < 12
    found = await answer(engine, PROMPT, replace(params, **wish), constraint=WORDS)
    assert len(found.tokens) == (20 if "ignore_eos" in wish else 13)
    assert re.fullmatch(WORDS.text, found.text)
    one = await answer(engine, PROMPT, replace(params, **wish), constraint=Constraint("choices", choices=("yes",)))
    assert (one.text, one.finish) == ("yes", "stop")


async def test_the_empty_answer_can_be_given(engine: Engine) -> None:
    for wish in ({}, {"ignore_eos": True}, {"min_tokens": 5}):
        found = await answer(engine, PROMPT, replace(SAMPLED, **wish), constraint=Constraint("choices", choices=("",)))
        assert (found.text, found.finish) == ("", "stop")


# -- stops


async def test_a_stop_ends_an_answer_only_where_it_is_whole(engine: Engine) -> None:
    free = await answer(engine, PROMPT, replace(SAMPLED, ignore_eos=True), constraint=WORDS)
    stop = next(char for char in free.text[3:] if char != " ")
    cut = await answer(engine, PROMPT, replace(SAMPLED, ignore_eos=True, stop=(stop,)), constraint=WORDS)
    places = [place for place, char in enumerate(free.text) if char == stop]
    ends = [place for place in places if re.fullmatch(WORDS.text, free.text[:place])]
    assert cut.text == free.text[: ends[0]]
    assert (cut.finish, cut.matched) == ("stop", stop)


async def test_what_is_forced_behind_a_stop_is_not_said(tiny_checkpoint: Path) -> None:
    form = Constraint("regex", "7(, and all of this by force)?")
    found: list[tuple[str, list[int], int]] = []
    for jump in (True, False):
        engine = engine_of(tiny_checkpoint, jump_forward=jump)
        one = await answer(engine, PROMPT, replace(SAMPLED, ignore_eos=True, stop=(", a",)), constraint=form)
        assert (one.text, one.matched) == ("7", ", a")
        assert one.usage is not None
        found.append((one.text, one.tokens, one.usage.completion_tokens))
        await engine.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("stop", ['"', ": ", "}", "a", "0"])
@pytest.mark.parametrize("include", [False, True])
async def test_no_stop_cuts_a_value_in_the_middle(engine: Engine, stop: str, include: bool) -> None:
    params = replace(SAMPLED, stop=(stop,), include_stop=include)
    found = await answer(engine, PROMPT, params, constraint=RECORD)
    unstopped = await answer(engine, PROMPT, replace(params, stop=()), constraint=RECORD)
    assert json.loads(found.text) == json.loads(unstopped.text)
    assert found.matched == (stop if include and stop == "}" else None)


async def test_a_stop_token_counts_only_where_the_answer_is_whole(engine: Engine) -> None:
    digit = engine.tokenizer.encode_run("7", "inside")[0]
    params = replace(SAMPLED, max_tokens=40, stop_token_ids=(digit,), logit_bias=((digit, 100.0),))
    found = await answer(engine, PROMPT, params, constraint=Constraint("regex", "[0-9]{4}([0-9]{4})*"))
    assert (found.text, found.finish, found.matched) == ("7777", "stop", digit)


# -- what comes before the form


@pytest.mark.parametrize("jump", [True, False])
async def test_what_comes_before_the_form_is_free_and_the_form_begins_behind_it(
    tiny_checkpoint: Path, jump: bool
) -> None:
    engine = engine_of(tiny_checkpoint, jump_forward=jump)
    form = replace(RECORD, after="</think>")
    for seed, budget in enumerate([120, 100, 80]):
        params = replace(SAMPLED, seed=seed, max_tokens=budget, stop=("e",), ignore_eos=seed == 1)
        found = await answer(engine, PROMPT, params, constraint=form)
        thoughts, value = found.text.split("</think>", 1)
        assert thoughts
        assert found.finish == "stop"
        assert json.loads(value).keys() >= {"name", "age"}
    await engine.close()


async def test_a_model_that_ends_its_thoughts_itself_is_heard_at_any_border_of_tokens(engine: Engine) -> None:
    after = "Fin."
    form = Constraint("regex", "[0-9]{3}", after=after)
    tokens = [engine.tokenizer.encode_run(char, "inside")[0] for char in after]
    rng = random.Random(0)
    for _ in range(5):
        bias = tuple((token, 100.0) for token in rng.sample(tokens, len(tokens)))
        params = replace(SAMPLED, logit_bias=bias, seed=rng.randrange(1000), max_tokens=1000)
        found = await answer(engine, PROMPT, params, constraint=form)
        head, _, tail = found.text.partition(after)
        assert re.fullmatch("[0-9]{3}", tail)
        assert len(head) < 900  # it came of itself: the budget would have ended it later


async def test_the_reserve_for_thoughts_is_part_of_the_least_budget(engine: Engine) -> None:
    form = Constraint("choices", choices=("yes", "no"), after="</think>")
    with pytest.raises(InvalidRequest, match=r"needs (\d+) tokens, \d+ of them to say") as caught:
        await answer(engine, PROMPT, SamplingParams(max_tokens=1), constraint=form)
    found = re.search(r"needs (\d+)", str(caught.value))
    assert found is not None
    least = int(found[1])
    exact = await answer(engine, PROMPT, SamplingParams(max_tokens=least), constraint=form)
    assert exact.text in ("</think>yes", "</think>no")


async def test_the_empty_answer_may_follow_thoughts(engine: Engine) -> None:
    form = Constraint("choices", choices=("",), after="</think>")
    least = len(engine.tokenizer.encode_run("</think>", "inside"))
    for more in (1, 4):  # one more for the end token, as something has to be drawn
        found = await answer(engine, PROMPT, SamplingParams(max_tokens=least + more, seed=1), constraint=form)
        assert found.text.endswith("</think>")
        assert found.finish == "stop"


# -- refusals and faults


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (Constraint("regex", "a("), "invalid_regex"),
        (Constraint("json_schema", '{"type": "any"}'), "invalid_schema"),
        (Constraint("grammar", "start: <|im_end|>"), "invalid_grammar"),
    ],
)
async def test_a_wrong_form_is_refused_before_anything_is_computed(engine: Engine, form: Constraint, code: str) -> None:
    before = engine.stats()["submitted"]
    for ask in (engine.check(form), answer(engine, PROMPT, GREEDY, constraint=form)):
        with pytest.raises(InvalidRequest) as caught:
            await ask
        assert caught.value.code == code
    assert engine.stats()["submitted"] == before


class Breaking(AutomatonMatcher):
    """Cannot go on after three tokens: when a mask is asked for, or when a token is taken."""

    where = "mask"

    def fill_mask(self, row: NDArray[np.int32], budget: int) -> None:
        if self.where == "mask" and len(self._states) > 3:
            raise EngineError("the grammar cannot go on", code="grammar_limit")
        super().fill_mask(row, budget)

    def advance(self, token: int) -> None:
        if self.where == "token" and len(self._states) > 3:
            raise EngineError("the grammar cannot go on", code="grammar_limit")
        super().advance(token)


@pytest.mark.parametrize("where", ["mask", "token"])
async def test_a_grammar_that_cannot_go_on_ends_its_own_answer_with_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    free = await answer(engine, PROMPT, SAMPLED)
    sound = await answer(engine, PROMPT, SAMPLED, constraint=RECORD)
    monkeypatch.setattr(Breaking, "where", where)
    monkeypatch.setattr(AutomatonGrammar, "matcher", lambda grammar: Breaking(grammar))  # RECORD is of the other engine
    broken, *others = await asyncio.gather(
        answer(engine, PROMPT, SAMPLED, constraint=WORDS),
        answer(engine, PROMPT, SAMPLED),
        answer(engine, PROMPT, SAMPLED, constraint=RECORD),
        return_exceptions=True,
    )
    assert isinstance(broken, EngineError)
    assert broken.code == "grammar_limit"
    assert token_texts([one for one in others if isinstance(one, Answer)]) == token_texts([free, sound])
    assert engine.stats()["running"] == 0
