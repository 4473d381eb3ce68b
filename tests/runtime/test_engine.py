"""The engine as its callers see it: every request ends once, with an answer or an error, whatever happens."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from stolon.lang.constraint import Constraint
from stolon.lang.errors import (
    BackendTimeout,
    CheckpointError,
    ContextLengthError,
    EngineClosedError,
    InvalidRequest,
    OverloadedError,
)
from stolon.lang.types import Delta, SamplingParams
from stolon.runtime.engine import Engine, derive_seed
from stolon.runtime.sequence import Plan, Step
from tests.runtime.answers import (
    GREEDY,
    SEEDED,
    answer,
    answer_all,
    answers,
    engine_of,
    family_prompts,
    random_prompt,
    token_texts,
)

LONG = SamplingParams(max_tokens=900, temperature=0, ignore_eos=True)
PROMPT = random_prompt(random.Random(5), 30)


@pytest.fixture
async def engine(tiny_checkpoint: Path) -> AsyncIterator[Engine]:
    engine = engine_of(tiny_checkpoint)
    yield engine
    await engine.close()


async def until(engine: Engine, **expected: int) -> None:
    """Wait for these statistics."""
    for _ in range(2000):
        stats = engine.stats()
        if all(stats[name] == value for name, value in expected.items()):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{expected} never came, but {engine.stats()}")


async def rest(engine: Engine) -> None:
    """Wait until no step is under way."""
    for _ in range(2000):
        if not engine.heartbeat.busy:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the engine never came to rest")


async def idle(engine: Engine) -> None:
    """Wait until nothing is under way; then every slot must be free or cached for later."""
    await until(engine, running=0, waiting=0)
    await rest(engine)
    stats = engine.stats()
    assert stats["kv_free"] + stats["kv_evictable"] == stats["kv_total"]  # type: ignore[operator]


# -- answers


async def test_the_second_identical_prompt_is_cached_but_for_its_last_token(engine: Engine) -> None:
    prompt = random_prompt(random.Random(1), 200)
    first, second = await answer(engine, prompt, GREEDY), await answer(engine, prompt, GREEDY)
    assert (first.cached_tokens, second.cached_tokens) == (0, 199)
    assert token_texts([first]) == token_texts([second])


async def test_a_shared_beginning_is_cached(engine: Engine) -> None:
    rng = random.Random(2)
    stem = random_prompt(rng, 120)
    await answer(engine, [*stem, 100, *random_prompt(rng, 20)], GREEDY)
    second = await answer(engine, [*stem, 101, *random_prompt(rng, 20)], GREEDY)
    assert second.cached_tokens == 120


async def test_eight_branches_compute_their_prefix_once(engine: Engine) -> None:
    rng = random.Random(3)
    stem = random_prompt(rng, 150)
    branches = [[*stem, 50 + index, *random_prompt(rng, 9)] for index in range(8)]
    params = replace(GREEDY, max_tokens=1)
    await answer_all(engine, [(branch, params) for branch in branches])
    assert engine.stats()["computed"] == 150 + 8 * 10


async def test_sixteen_equal_beginnings_that_come_together_are_computed_once(engine: Engine) -> None:
    rng = random.Random(4)
    stem = random_prompt(rng, 300)
    prompts = [[*stem, 50 + index] for index in range(16)]
    await answer_all(engine, [(prompt, replace(GREEDY, max_tokens=1)) for prompt in prompts])
    assert engine.stats()["computed"] == 300 + 16


async def test_other_salts_share_nothing(engine: Engine) -> None:
    await answer(engine, PROMPT, GREEDY, salt="a")
    assert (await answer(engine, PROMPT, GREEDY, salt="b")).cached_tokens == 0
    assert (await answer(engine, PROMPT, GREEDY, salt="a")).cached_tokens == len(PROMPT) - 1


async def test_a_flushed_cache_is_empty_and_a_running_one_is_not_flushed(engine: Engine) -> None:
    await answer(engine, PROMPT, GREEDY)
    assert await engine.flush_cache()
    assert (await answer(engine, PROMPT, GREEDY)).cached_tokens == 0
    async with aclosing(engine.generate(PROMPT, LONG)) as deltas:
        await anext(deltas)
        assert not await engine.flush_cache()


async def test_several_answers_end_each_and_count_the_prompt_once(engine: Engine) -> None:
    found = await answers(engine, PROMPT, replace(SEEDED, n=4))
    usage = [a.usage for a in found if a.usage is not None]
    assert len(usage) == 1
    assert usage[0].prompt_tokens == len(PROMPT)
    assert usage[0].requests == 1
    # each of the others computes the prompt's last token again, to draw from it
    assert engine.stats()["computed"] == len(PROMPT) + 3 + sum(len(a.tokens) - 1 for a in found)


async def test_no_tokens_asked_for_computes_the_prompt_only(engine: Engine) -> None:
    found = await answer(engine, PROMPT, SamplingParams(max_tokens=0))
    assert (found.text, found.tokens, found.finish) == ("", [], "length")
    await engine.prefill([*PROMPT, 7])
    assert (await answer(engine, [*PROMPT, 7], GREEDY)).cached_tokens == len(PROMPT)


async def test_an_end_token_ends_the_answer_without_a_text_of_its_own(engine: Engine) -> None:
    free = await answer(engine, PROMPT, LONG)
    end = next(token for token in free.tokens[3:] if free.tokens.index(token) >= 3)
    stopped = await answer(engine, PROMPT, replace(LONG, stop_token_ids=(end,)))
    cut = free.tokens.index(end)
    assert (stopped.finish, stopped.matched) == ("stop", end)
    assert stopped.tokens == free.tokens[: cut + 1]
    assert free.text.startswith(stopped.text)
    kept = await answer(engine, PROMPT, replace(LONG, stop_token_ids=(end,), include_stop=True))
    assert kept.text.rstrip("\ufffd").startswith(stopped.text.rstrip("\ufffd"))
    assert len(kept.text) > len(stopped.text)


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_is_found_across_tokens(engine: Engine, include: bool) -> None:
    free = await answer(engine, PROMPT, replace(LONG, max_tokens=100))
    for start in range(0, 60, 7):
        stop = free.text[start : start + 4]
        if "\ufffd" in stop:
            continue
        found = await answer(engine, PROMPT, replace(LONG, max_tokens=100, stop=(stop,), include_stop=include))
        end = free.text.index(stop)
        assert found.text == free.text[: end + len(stop) * include]
        assert (found.finish, found.matched) == ("stop", stop)
        assert free.tokens[: len(found.tokens)] == found.tokens


async def test_a_stop_string_is_not_looked_for_in_the_first_tokens(engine: Engine) -> None:
    free = await answer(engine, PROMPT, replace(LONG, max_tokens=60))
    early = await answer(engine, PROMPT, replace(LONG, max_tokens=60, stop=(free.text[4:6],)))
    late = await answer(engine, PROMPT, replace(LONG, max_tokens=60, stop=(free.text[4:6],), min_tokens=30))
    assert len(early.tokens) < 30 < len(late.tokens)


async def test_only_allowed_tokens_are_drawn_and_an_end_if_it_is_among_them(engine: Engine) -> None:
    end = min(engine.tokenizer.eos_ids)
    for temperature in (0.0, 5.0):
        free = SamplingParams(max_tokens=60, temperature=temperature, seed=3, allowed_token_ids=(40, 41, 300))
        found = await answer(engine, PROMPT, free)
        assert set(found.tokens) <= {40, 41, 300}
        assert (found.finish, len(found.tokens)) == ("length", 60)
    ending = await answer(engine, PROMPT, SamplingParams(max_tokens=9, allowed_token_ids=(end,)))
    assert (ending.tokens, ending.finish) == ([end], "stop")
    with pytest.raises(InvalidRequest, match="which says by itself what may come"):
        await answer(engine, PROMPT, SamplingParams(allowed_token_ids=(1,)), constraint=Constraint("regex", "a"))


async def test_a_stop_in_the_prompt_is_no_stop(engine: Engine) -> None:
    prompt = engine.tokenizer.encode("one STOP two")
    assert (await answer(engine, prompt, replace(GREEDY, stop=("STOP",)))).finish == "length"


async def test_logprobs_carry_the_texts_of_their_tokens(engine: Engine) -> None:
    found = await answer(engine, PROMPT, replace(GREEDY, logprobs=3))
    assert len(found.logprobs) == len(found.tokens)
    for token, entry in zip(found.tokens, found.logprobs, strict=True):
        assert entry.token == token == entry.top[0][0]  # greedy
        assert entry.text == engine.tokenizer.token_text(token) == entry.top_texts[0]
        assert len(entry.top) == len(entry.top_texts) == 3
        assert entry.logprob == pytest.approx(entry.top[0][1])


@pytest.mark.parametrize("start", [0, 1, 17])
@pytest.mark.parametrize("budget", [512, 7])
async def test_prompt_logprobs_come_once_whole_and_first(tiny_checkpoint: Path, start: int, budget: int) -> None:
    engine = engine_of(tiny_checkpoint, token_budget=budget)
    params = replace(GREEDY, max_tokens=3, prompt_logprobs=0, logprob_start=start)
    whole: list[list[float]] = []
    for _ in range(2):  # cold and warm
        deltas = [delta async for delta in engine.generate(PROMPT, params)]
        assert [delta.prompt_logprobs is not None for delta in deltas] == [True, False, False]
        told = deltas[0].prompt_logprobs
        assert told is not None
        expected = [None, *PROMPT[1:]] if start == 0 else PROMPT[start:]
        assert [entry and entry.token for entry in told] == expected
        whole.append([entry.logprob for entry in told if entry is not None])
    assert whole[0] == pytest.approx(whole[1], abs=1e-5)
    await engine.close()


async def test_a_prompt_is_computed_whole_in_one_step(tiny_checkpoint: Path) -> None:
    prompt = random_prompt(random.Random(6), 900)
    found: dict[int, tuple[object, list[int]]] = {}
    for budget in (-1, 512):
        engine = engine_of(tiny_checkpoint, token_budget=budget)
        tokens = (await answer(engine, prompt, replace(GREEDY, max_tokens=1))).tokens
        found[budget] = engine.stats()["steps"], tokens
        await engine.close()
    assert found == {-1: (1, found[512][1]), 512: (2, found[512][1])}


# -- what is refused


async def test_what_does_not_fit_the_context_is_refused_with_three_numbers(engine: Engine) -> None:
    room, limit = engine.room(len(PROMPT)), engine.context_length
    assert room == limit - len(PROMPT)
    with pytest.raises(ContextLengthError, match=rf"{len(PROMPT)} tokens and max_tokens is {room + 1}.*{limit}"):
        await answer(engine, PROMPT, SamplingParams(max_tokens=room + 1))


async def test_what_does_not_fit_the_kv_cache_is_refused_with_three_numbers(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint, kv_tokens=50)
    assert engine.room(len(PROMPT)) == 20
    with pytest.raises(ContextLengthError, match=r"30 tokens and max_tokens is 21, but the KV cache holds 50"):
        await answer(engine, PROMPT, SamplingParams(max_tokens=21))
    await answer(engine, PROMPT, SamplingParams(max_tokens=20, ignore_eos=True))
    with pytest.raises(ContextLengthError, match=r"the KV cache holds 50 tokens; shorten the prompt$"):
        await answer(engine, PROMPT * 2, SamplingParams(max_tokens=0))
    await engine.close()


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], GREEDY, "no tokens"),
        ([3, 480], GREEDY, r"prompt: .* 0 to 479, got 480"),
        ([3, -1], GREEDY, r"prompt: .* got -1"),
        ([3], replace(GREEDY, logit_bias=((999, 1.0),)), r"logit_bias: .* got 999"),
        ([3], replace(GREEDY, stop_token_ids=(1 << 40,)), "stop_token_ids"),
        ([3], replace(GREEDY, logprob_token_ids=(-5,)), "logprob_token_ids"),
        ([3], replace(GREEDY, allowed_token_ids=(3, 480)), "allowed_token_ids: .* got 480"),
        ([3], replace(GREEDY, stop_regex=("(",)), "regex"),
    ],
)
async def test_impossible_requests_are_refused(
    engine: Engine, prompt: list[int], params: SamplingParams, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await answer(engine, prompt, params)
    assert (await answer(engine, PROMPT, GREEDY)).tokens  # and nothing else is harmed


@pytest.mark.parametrize("path", ["/nope", __file__])
def test_a_checkpoint_that_is_no_folder_is_refused(path: str) -> None:
    with pytest.raises(CheckpointError, match=path):
        engine_of(Path(path))


async def test_a_full_queue_refuses_the_next(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint, max_running_requests=1, max_queued_requests=2)
    streams = [engine.generate(random_prompt(random.Random(i), 10), LONG) for i in range(4)]
    await anext(streams[0])
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams[1:3]]
    await until(engine, waiting=2)
    with pytest.raises(OverloadedError) as refusal:
        await anext(streams[3])
    assert refusal.value.retry_after_s is not None
    with pytest.raises(OverloadedError):  # at once: whatever it waited for would come out of `send`
        engine.generate(PROMPT, LONG).asend(None).send(None)
    for future in waiting:
        future.cancel()
    await asyncio.wait(waiting)
    for stream in streams:
        await stream.aclose()
    await idle(engine)
    await engine.close()


async def test_more_lists_than_may_wait_are_scored_all_the_same(tiny_checkpoint: Path) -> None:
    lists = [[*PROMPT, token, token] for token in range(20)]
    engine = engine_of(tiny_checkpoint, max_queued_requests=3)
    found = await engine.score(lists, len(PROMPT))
    await engine.close()
    roomy = engine_of(tiny_checkpoint)
    assert [pytest.approx(scores, abs=1e-4) for scores in await roomy.score(lists, len(PROMPT))] == found
    await roomy.close()


# -- leaving early


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 5, 8, 13])
async def test_leaving_at_any_step_leaves_nothing_behind(engine: Engine, step: int, n: int) -> None:
    deltas = engine.generate(PROMPT, replace(LONG, n=n))
    for _ in range(step):
        await anext(deltas)
    await deltas.aclose()
    await idle(engine)
    assert engine.stats()["finished"] == (n if step else 0)  # what was never asked for was never submitted
    assert not engine._core._answers
    assert not engine._thread._receivers


async def test_cancelling_the_task_ends_the_request(engine: Engine) -> None:
    started = asyncio.Event()

    async def read() -> None:
        async with aclosing(engine.generate(PROMPT, LONG)) as deltas:
            async for _ in deltas:
                started.set()

    task = asyncio.ensure_future(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle(engine)
    assert engine.stats()["generated"] < 900  # type: ignore[operator]


async def test_a_passed_deadline_ends_the_request_with_an_error(engine: Engine) -> None:
    with pytest.raises(BackendTimeout, match="deadline"):
        await answer(engine, PROMPT, LONG, timeout_s=0.05)
    await idle(engine)


async def test_five_hundred_random_requests_leave_every_slot_free_or_cached(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint, kv_tokens=160, token_budget=48, max_running_requests=8)
    rng = random.Random(7)
    prompts = family_prompts(40, seed=7)
    ends: list[str] = []

    async def one(index: int) -> None:
        await asyncio.sleep(rng.random() * 1.5)
        params = replace(SEEDED, max_tokens=rng.randrange(0, 20), n=rng.choice([1, 1, 1, 2]), seed=index)
        if rng.random() < 0.2:
            params = replace(params, stop=("e", "t"))
        patience = rng.choice([None, None, 0, 1, 3])
        timeout = rng.choice([None, None, None, 0.02])
        try:
            async with aclosing(engine.generate(rng.choice(prompts), params, timeout_s=timeout)) as deltas:
                seen = 0
                async for _ in deltas:
                    if seen == patience:
                        ends.append("left")
                        return
                    seen += 1
            ends.append("answered")
        except BackendTimeout:
            ends.append("late")

    await asyncio.gather(*(one(index) for index in range(500)))
    await idle(engine)
    stats = engine.stats()
    await engine.close()
    assert len(ends) == 500
    assert set(ends) == {"left", "answered", "late"}
    assert stats["submitted"] == stats["finished"]


# -- the engine's own life


async def test_a_closed_engine_refuses_and_closing_twice_does_nothing(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    await engine.close()
    await engine.close()
    engine.shutdown()
    with pytest.raises(EngineClosedError, match="closed; make a new one"):
        await answer(engine, PROMPT, GREEDY)
    with pytest.raises(EngineClosedError):
        await engine.flush_cache()
    assert not engine.heartbeat.alive


async def test_a_closed_engine_lets_go_of_its_model(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    await answer(engine, PROMPT, GREEDY)
    pipeline = engine._core._pipeline
    assert pipeline is not None
    model = weakref.ref(pipeline._runner)
    del pipeline
    await engine.close()
    gc.collect()
    assert model() is None


async def test_closing_ends_what_is_running_with_an_error(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    deltas = engine.generate(PROMPT, LONG)
    await anext(deltas)
    await engine.close()
    with pytest.raises(EngineClosedError, match="before this request ended"):
        async for _ in deltas:
            pass


async def test_closing_with_time_to_drain_lets_requests_end(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    deltas = engine.generate(PROMPT, replace(LONG, max_tokens=60))
    first = await anext(deltas)
    closing = asyncio.ensure_future(engine.close(drain_s=60))
    others = [token async for delta in deltas for token in delta.tokens]
    assert len(first.tokens + others) == 60
    await asyncio.wait_for(closing, 30)
    with pytest.raises(EngineClosedError):
        await answer(engine, PROMPT, GREEDY)


def test_several_threads_with_event_loops_of_their_own_share_an_engine(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    expected = token_texts([asyncio.run(answer(engine, PROMPT, GREEDY))])
    found: list[object] = []

    def client() -> None:
        found.append(token_texts(asyncio.run(answer_all(engine, [(PROMPT, GREEDY)] * 3))))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.shutdown()
    assert found == [expected * 3] * 4


def test_an_event_loop_that_closes_with_requests_under_way_harms_nobody(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    loop = asyncio.new_event_loop()
    stream = engine.generate(PROMPT, LONG)

    async def begin() -> Delta:
        return await anext(stream)

    loop.run_until_complete(begin())
    loop.close()
    assert asyncio.run(answer(engine, PROMPT, GREEDY)).tokens
    asyncio.run(idle(engine))
    engine.shutdown()


def test_an_engine_cannot_be_used_after_fork_but_lives_on_in_the_parent(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(answer(engine, PROMPT, GREEDY))
            message = "it answered"
        except EngineClosedError as error:
            message = str(error)
        engine.shutdown()
        os.write(write_end, message.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        message = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert "cannot be used after fork" in message
    assert asyncio.run(answer(engine, PROMPT, GREEDY)).tokens
    engine.shutdown()


async def test_an_idle_engine_makes_no_steps(engine: Engine) -> None:
    await answer(engine, PROMPT, GREEDY)
    await rest(engine)
    before = engine.heartbeat
    await asyncio.sleep(0.2)
    after = engine.heartbeat
    assert (
        (before.alive, before.busy, before.steps)
        == (after.alive, after.busy, after.steps)
        == (True, False, after.steps)
    )
    assert after.at_s - before.at_s >= 0.2  # idle is alive


async def test_a_step_that_hangs_shows_in_the_heartbeat(engine: Engine) -> None:
    entered, release = threading.Event(), threading.Event()
    pipeline = engine._core._pipeline
    assert pipeline is not None
    runner = pipeline._runner
    assert runner is not None
    launch = runner.launch

    def hang(plan: Plan) -> Step:
        entered.set()
        release.wait(60)
        return launch(plan)

    runner.launch = hang
    running = asyncio.ensure_future(answer(engine, PROMPT, GREEDY))
    await asyncio.to_thread(entered.wait, 60)
    first = engine.heartbeat
    await asyncio.sleep(0.1)
    second = engine.heartbeat
    assert (first.at_s, first.steps, first.busy) == (second.at_s, second.steps, True)
    release.set()
    await running


async def test_requests_without_a_seed_differ_unless_the_engine_has_one(tiny_checkpoint: Path) -> None:
    unseeded = replace(SEEDED, seed=None)

    async def four(random_seed: int | None) -> list[object]:
        engine = engine_of(tiny_checkpoint, random_seed=random_seed)
        found = [token_texts([await answer(engine, PROMPT, unseeded)])[0] for _ in range(4)]
        await engine.close()
        return list(found)

    free = await four(None)
    assert len(set(free)) == 4
    assert await four(7) == await four(7) != free


def test_derived_seeds_keep_the_first_and_differ_otherwise() -> None:
    seeds = [derive_seed(seed, index) for seed in range(-50, 50) for index in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(derive_seed(seed, 0) == seed for seed in (-(2**63), -1, 0, 2**63 - 1))
    assert all(0 <= derive_seed(seed, 3) < 2**63 for seed in (-(2**63), -1, 0, 2**63 - 1))


# -- ended by others


async def test_requests_are_ended_by_their_name_running_waiting_or_held_in_a_form(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint, max_running_requests=1)
    regex = Constraint("regex", "[a-z]{600}")

    async def asked(rid: str, constraint: Constraint | None = None) -> list[Delta]:
        deltas = engine.generate(PROMPT, replace(LONG, n=2), rid=rid, constraint=constraint)
        return [delta async for delta in deltas]

    tasks = [asyncio.create_task(asked(rid, how)) for rid, how in (("a", None), ("b", None), ("a", regex))]
    await until(engine, running=1)
    assert engine.abort("c") == 0
    assert engine.abort("a") == 2
    for found in (await tasks[0], await tasks[2]):
        assert [delta.finish for delta in found if delta.finish] == ["abort"] * 2
        assert found[-1].usage is not None
        assert found[-1].usage.completion_tokens == sum(len(delta.tokens) for delta in found) < 600
    assert not tasks[1].done()
    assert engine.abort(None) == 1
    assert [delta.finish for delta in await tasks[1] if delta.finish] == ["abort"] * 2
    assert engine.abort(None) == 0
    await idle(engine)
    await engine.close()
