"""`@function`: arguments, options, nesting, binding, and what goes wrong in a body."""

from __future__ import annotations

import traceback

import pytest

from stolon import (
    Cancelled,
    Capabilities,
    GenerationError,
    InvalidRequest,
    NoBackendError,
    ProgramError,
    Scripted,
    UnsupportedError,
    flush_cache,
    function,
    gen,
    get_server_info,
    select,
    set_default_backend,
    user,
)


@function
def echo(s, question, *, times=1):
    """Asks a question."""
    for _ in range(times):
        s += question + gen("answer")
    return s["answer"]


def test_running_waits_for_everything_and_gives_the_state(scripted):
    scripted("r", latency_s=0.05)

    @function
    def program(s):
        s += gen("x")
        s.fork(2)[1].append(gen("y"))

    state = program.run()
    assert "x" in state
    assert state.usage.requests == 2


def test_the_state_may_have_any_name_and_programs_may_be_methods(scripted):
    scripted("r")

    class Asker:
        def __init__(self, word):
            self.word = word

        @function
        def ask(self, state, question):
            state += self.word + question + gen("x")
            return state["x"]

    asker = Asker("Please: ")
    assert asker.ask.run("why?").text() == "Please: why?r"
    assert asker.ask(question="why?").value == "r"
    assert asker.ask.bind(question="how?").run().text() == "Please: how?r"
    with pytest.raises(TypeError, match="question"):
        asker.ask.run()
    assert Asker.ask.run(asker, "why?").text() == Asker.ask(asker, question="why?").text() == "Please: why?r"
    for call in (Asker.ask.run, Asker.ask, Asker.ask.map):
        with pytest.raises(TypeError, match="ask is a method of Asker: call it on an instance"):
            call(["why?"])


def test_the_decorator_works_with_and_without_arguments(scripted):
    scripted("r")
    for decorate in (function, function(), function(num_api_spec_tokens=64)):
        assert decorate(lambda s: s.append(gen("x"))).run()["x"] == "r"
    assert echo.__name__ == "echo"
    assert echo.__doc__ == "Asks a question."
    with pytest.raises(TypeError, match="first parameter must be the state"):
        function(lambda: None)  # pyright: ignore


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "echo() misses 'question'"),
        (("q",), {"qestion": 1}, "echo() has no parameter 'qestion'; parameters: question, times"),
        (("q", "r"), {}, "echo() takes 1 arguments, got 2"),
        (("q",), {"question": "r"}, "echo() got its argument 'question' twice"),
    ],
)
def test_b73_wrong_arguments_are_a_type_error_with_names(scripted, args, kwargs, words):
    backend = scripted("r")
    for call in (echo.run, echo):
        with pytest.raises(TypeError) as caught:
            call(*args, **kwargs)
        assert words in str(caught.value)
    assert backend.requests == []


def test_a_parameter_named_like_an_option_belongs_to_the_program(scripted):
    backend = scripted("r")

    @function
    def program(s, n, seed, temperature=5):
        s += f"{n} {seed} {temperature} {gen('x')}"

    state = program.run(n=3, seed="abc", top_k=4)  # pyright: ignore[reportArgumentType]
    assert state.text() == "3 abc 5 r"
    assert backend.requests[0].params.n == 1
    assert backend.requests[0].params.top_k == 4


def test_options_of_a_generation_win_over_those_of_the_run(scripted):
    backend = scripted("r")

    @function
    def program(s):
        s += gen("a") + gen("b", max_tokens=5, temperature=0) + gen("c", stop=["x"])

    program.run(max_new_tokens=9, temperature=0.5, stop="y", use_thread=False)
    assert [(r.params.max_tokens, r.params.temperature, r.params.stop) for r in backend.requests] == [
        (9, 0.5, ("y",)),
        (5, 0, ("y",)),
        (9, 0.5, ("x",)),
    ]


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1}, {"top_p": 2}, {"max_new_tokens": -5}, {"stop": [""]}, {"retries": -1}, {"stop": [5]}],
)
def test_options_out_of_range_are_refused_before_the_body_runs(scripted, options):
    scripted("r")
    with pytest.raises(InvalidRequest):
        echo.run("q", **options)


def test_a_timeout_must_be_positive(scripted):
    scripted("r")
    with pytest.raises(ValueError, match="timeout"):
        echo.run("q", timeout=0)


def test_bound_arguments_can_be_overridden_and_unknown_ones_are_refused(scripted):
    scripted("r")
    bound = echo.bind(question="bound ")
    assert bound.run().text() == "bound r"
    assert bound.run(question="given ").text() == "given r"
    assert bound.run("by position ").text() == "by position r"
    assert bound.bind(times=2).run().text() == "bound rbound r"
    assert echo.bind(times=2).run("q ").text() == "q rq r"
    with pytest.raises(TypeError, match="no parameter 'quetion'; parameters: question"):
        echo.bind(quetion=1)


def test_b72_without_a_backend_the_error_says_what_to_do():
    with pytest.raises(NoBackendError, match=r"set_default_backend\(\.\.\.\), or pass backend="):
        echo.run("q")
    assert echo.run("q", backend=Scripted("r"))["answer"] == "r"


def test_flush_cache_and_server_info_ask_the_backend(scripted):
    backend = scripted("r")
    assert flush_cache() is True
    assert backend.flushes == 1
    assert get_server_info() == {"model": "scripted"}


def test_a_nested_program_inherits_backend_and_options(scripted):
    outer, other = scripted("r"), Scripted("other")

    @function
    def inner(s):
        s += gen("x")
        return s["x"]

    @function
    def outer_program(s):
        one = inner.run()
        two = inner.run(temperature=0.9)
        three = inner(backend=other)
        s += gen("y")
        return one["x"], two["x"], three["x"]

    set_default_backend(None)
    state = outer_program.run(backend=outer, temperature=0.2, max_new_tokens=3)
    assert state.value == ("r", "r", "other")
    assert [r.params.temperature for r in outer.requests] == [0.2, 0.9, 0.2]
    assert {r.params.max_tokens for r in (*outer.requests, *other.requests)} == {3}
    assert state.usage.requests == 4


def test_a_program_called_with_a_state_goes_on_in_it_and_shares_its_prefix(scripted):
    backend = scripted("r")

    @function
    def critique(s, what):
        s += f"Criticise {what}: {gen('critique')}"
        return s["critique"] + "!"

    @function
    def program(s):
        s += "Prefix. " + gen("x")
        shouted = critique(s, "it")
        for branch, view in s.fork(["a", "b"]):
            critique(branch, view)
        return shouted

    state = program.run()
    assert state.value == "r!"
    assert state.text() == "Prefix. rCriticise it: r"
    assert [r.prompt.text() for r in backend.requests[2:]] == [
        "Prefix. rCriticise it: rCriticise a: ",
        "Prefix. rCriticise it: rCriticise b: ",
    ]


def test_b74_an_error_in_the_body_is_raised_itself_and_cancels_the_forks(scripted):
    backend = scripted("r", latency_s=30)

    class Mine(Exception):
        pass

    @function
    def program(s):
        forks = s.fork(3)
        forks += gen("x")
        while backend.active < 3:
            pass
        raise Mine("here")

    with pytest.raises(Mine, match="here") as caught:
        program.run()
    assert "raise Mine" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert backend.active == 0
    assert backend.aborts == 3


def test_b68_an_undeclared_name_is_a_key_error_at_once_with_the_defined_names(scripted):
    scripted("r", latency_s=0.01)

    @function
    def program(s):
        s += gen("x") + gen("y")
        with pytest.raises(KeyError, match=r"'nope' is not a variable of this program; defined: 'x', 'y'"):
            s["nope"]

    state = program.run()
    with pytest.raises(KeyError, match="defined: 'x', 'y'"):
        state.get_meta_info("nope")


def test_b67_two_generations_of_one_name_overwrite_in_order(scripted):
    scripted(["1", "2"])

    @function
    def program(s):
        s += gen("x")
        first = s["x"]
        s += gen("x")
        return first, s["x"]

    assert program.run().value == ("1", "2")


def test_b71_appending_after_the_end_is_an_error(scripted):
    scripted("r")
    state = echo.run("q")
    with pytest.raises(ProgramError, match="has ended"):
        state += "more"


def test_b76_an_unsupported_option_names_backend_and_alternatives(scripted):
    few = Capabilities(params=frozenset({"max_tokens", "stop"}), refusals=(("seed", "its draws cannot be repeated"),))
    scripted("r", capabilities=few)
    with pytest.raises(UnsupportedError, match=r"Scripted cannot honour temperature=0.5; it honours max_tokens, stop"):
        echo.run("q", temperature=0.5)
    with pytest.raises(UnsupportedError, match="its draws cannot be repeated"):
        echo.run("q", seed=1)
    with pytest.raises(UnsupportedError, match="return_logprob"):
        function(lambda s: s.append(gen("x", return_logprob=True))).run()
    # a default that is spelled out asks for nothing
    assert echo.run("q", temperature=1.0, top_k=-1, stop="zzz")["answer"] == "r"


def test_a_refused_turn_leaves_no_turn_open(scripted):
    scripted("r", capabilities=Capabilities(params=frozenset()))

    @function
    def program(s):
        with pytest.raises(UnsupportedError):
            s += user("a" + gen("x", seed=5))
        s += user("b")

    assert [m["content"] for m in program.run().messages()] == ["a", "b"]


def test_a_backend_that_only_chooses_selects_without_scores(scripted):
    chooser = Capabilities(params=frozenset({"temperature"}), choose=True)
    scripted("b", capabilities=chooser)
    state = function(lambda s: s.append("q " + select("x", ["a", "b"]))).run()
    assert state["x"] == "b"
    assert state.info("x").probs == {}

    def by_method(s):
        from stolon import token_length_normalized

        s += select("x", ["a", "b"], choices_method=token_length_normalized)

    with pytest.raises(UnsupportedError, match="choices_method"):
        function(by_method).run()


def test_a_failure_that_was_handled_is_not_raised_again(scripted):
    scripted({"bad": ConnectionError("x"), "": "fine"})

    @function
    def program(s):
        good, bad = s.fork(2)
        good += "good" + gen("x")
        bad += "bad" + gen("x")
        with pytest.raises(GenerationError, match=r"in fork\[1\]"):
            bad["x"]
        return good["x"]

    assert program.run().value == "fine"


def test_a_failed_branch_that_nobody_read_fails_the_run(scripted):
    scripted({"bad": ConnectionError("x"), "": "fine"})

    @function
    def program(s):
        s.fork(2)[1].append("bad" + gen("x"))
        s += gen("y")

    with pytest.raises(GenerationError, match=r"in fork\[1\]"):
        program.run()


def test_an_aborted_or_truncated_answer_is_an_error(scripted):
    from stolon import Delta, StreamTruncatedError

    class Broken(Scripted):
        async def stream(self, request):
            yield Delta("half")
            if "abort" in request.prompt.text():
                yield Delta("", finish="abort")

    set_default_backend(Broken())
    with pytest.raises(GenerationError) as caught:
        function(lambda s: s.append("q" + gen("x"))).run()
    assert isinstance(caught.value.__cause__, StreamTruncatedError)
    assert caught.value.__cause__.text == "half"
    with pytest.raises(GenerationError, match="aborted"):
        function(lambda s: s.append("abort" + gen("x"))).run()


def test_cancelling_a_branch_on_purpose_does_not_fail_the_run(scripted):
    backend = scripted({"slow": "never", "": "quick"}, latency_s=0.0)

    class Slow(Scripted):
        async def stream(self, request):
            import asyncio

            if "slow" in request.prompt.text():
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    backend.aborts += 1
                    raise
            async for delta in backend.stream(request):
                yield delta

    @function
    def race(s):
        slow, quick = s.fork(2)
        slow += "slow" + gen("x")
        quick += "quick" + gen("x")
        value = quick["x"]
        slow.cancel()
        with pytest.raises(Cancelled):
            slow["x"]
        return value

    assert race.run(backend=Slow()).value == "quick"
    assert backend.aborts == 1


def test_meta_information_has_the_names_that_sglang_uses(scripted):
    scripted("one two", tokens_per_delta=1)

    @function
    def program(s):
        s += "q w e" + gen("x", return_logprob=True, top_logprobs_num=2, return_text_in_logprobs=True, max_tokens=1)

    meta = program.run().get_meta_info("x")
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (3, 1, 0)
    assert meta["finish_reason"] == {"type": "length", "length": 1}
    assert len(meta["output_token_logprobs"]) == 1
    logprob, token, text = meta["output_token_logprobs"][0]
    assert (logprob, text) == (-0.5, "one")
    assert isinstance(token, int)
    assert len(meta["output_top_logprobs"][0]) == 2


def test_the_trace_of_a_run_is_a_tree(scripted):
    scripted("r")

    @function
    def program(s):
        s += user("q") + gen("x")
        s.fork(2)[0].append("branch" + gen("y"))

    tree = program.run().trace.tree().splitlines()
    assert [line.split("  (")[0] for line in tree] == [
        "role: user",
        "text: 'q'",
        "gen x: 'r'",
        "fork: 2 branches",
        "  [0]",
        "    text: 'branch'",
        "    gen y: 'r'",
        "  [1]",
    ]


@pytest.mark.parametrize("join", [False, True])
def test_reading_a_list_tells_of_all_the_branches_that_failed(scripted, join):
    scripted({"bad": ConnectionError("x"), "": "fine"})

    @function
    def program(s, read):
        forks = s.fork(3)
        forks += ["bad", "good", "bad"]
        forks += gen("x")
        if join:
            forks.join()
        with pytest.raises(GenerationError, match=r"in fork\[0\].*2 branches failed" if read else r"in fork\[0\]"):
            (s if join else forks)["x"] if read else forks[0]["x"]
        s += gen("y")
        return s["y"]

    assert program.run(True).value == "fine"
    with pytest.raises(GenerationError, match=r"in fork\[2\]"):  # only the first was looked at
        program.run(False)


def test_a_generator_function_is_refused_where_it_is_decorated():
    def program(s):
        yield s

    async def async_program(s):
        yield s

    for body in (program, async_program):
        with pytest.raises(TypeError, match="program cannot be a program: it has a `yield`"):
            function(body)
