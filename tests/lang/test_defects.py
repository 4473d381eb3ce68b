"""Each known defect of SGLang's frontend, shown to be absent. The numbers are those of the list they were found in."""

from __future__ import annotations

import threading
import time

import pytest

from stolon import (
    BackendUnavailable,
    Capabilities,
    GenerationError,
    Scripted,
    UnsupportedError,
    assistant,
    assistant_begin,
    function,
    gen,
    greedy_token_selection,
    select,
    system,
    unconditional_likelihood_normalized,
    user,
)


@function
def reads(s):
    s += "Q" + gen("x")
    s += "more" + gen("y")
    return s["x"]


def test_defect_1_a_failed_generation_raises_at_the_read_and_never_hangs(scripted):
    cause = BackendUnavailable("no server answers")
    scripted(cause)
    told = []

    @function
    def program(s):
        s += gen("x")
        s += "text" + gen("y")
        for name in ("x", "y"):
            with pytest.raises(GenerationError) as caught:
                s[name]
            told.append(caught.value)
        with pytest.raises(GenerationError):
            s.text()
        with pytest.raises(GenerationError):
            s.sync()
        assert isinstance(s.error(), GenerationError)
        with pytest.raises(GenerationError):
            s += "later"

    program.run()
    assert all(error.__cause__ is cause for error in told)
    assert "gen('x') at " in str(told[0])
    assert __file__ in str(told[0])
    assert "BackendUnavailable: no server answers" in str(told[0])
    assert "gen('y')" in str(told[1])
    assert "because of gen('x')" in str(told[1])


def test_defect_1_a_failure_that_nobody_read_raises_at_the_end_of_run(scripted):
    scripted(BackendUnavailable("down"))

    @function
    def program(s):
        s += gen("x")

    with pytest.raises(GenerationError, match=r"gen\('x'\).*down"):
        program.run()


def test_defect_2_join_with_concatenation_works_on_every_backend(scripted):
    scripted("r")

    @function
    def program(s):
        s += "a"
        forks = s.fork(3)
        forks += lambda i: f"<{i}"
        forks += gen("x")
        forks += ">"
        forks.join("concate_and_append")
        s += gen("end")

    assert program.run().text() == "a<0r><1r><2r>r"


@pytest.mark.parametrize("method", [greedy_token_selection, unconditional_likelihood_normalized])
def test_defect_3_every_choices_method_works_through_a_backend(scripted, method):
    scripted(scores=lambda prompt, option: -0.2 if option == "b" and prompt else -0.9)

    @function
    def program(s):
        s += "pick " + select("c", ["a", "b"], choices_method=method)

    assert program.run()["c"] == "b"


def test_defect_4_a_slow_reader_of_a_stream_loses_nothing(scripted):
    words = " ".join(f"w{i}" for i in range(50))
    scripted(words, tokens_per_delta=1)

    @function
    def program(s):
        s += gen("x", return_logprob=True)

    state = program.run(stream=True)
    pieces = []
    for piece in state.text_iter("x"):
        if len(pieces) < 5:
            time.sleep(0.005)
        pieces.append(piece)
    assert "".join(pieces) == words
    assert len(pieces) == 50
    assert len(state.get_meta_info("x")["output_token_logprobs"]) == 50


def test_defect_5_and_b_the_users_stop_list_is_never_changed(scripted):
    backend = scripted("a")
    stop = ["END"]
    node = gen("x", stop=stop)

    @function
    def program(s):
        s += user("q") + assistant(node)

    for _ in range(3):
        program.run(stop=stop)
    stop.append("later")
    program.run()
    assert [r.params.stop for r in backend.requests] == [("END",)] * 4


def test_defect_6_a_name_that_is_generated_twice_gives_the_newest_value(scripted):
    for _ in range(20):
        scripted(["first", "second"])

        @function
        def program(s):
            s += gen("x")
            s += gen("x")
            return s["x"]

        assert program.run().value == "second"


def test_defect_7_branches_tell_the_backend_that_they_share_their_prefix(scripted):
    backend = scripted("r")

    @function
    def program(s):
        s += "a long prefix"
        forks = s.fork(3)
        forks += gen("x")
        forks += "on" + gen("y")
        forks.join()

    program.run()
    first = [r for r in backend.requests if r.width == 3]
    assert len(first) == 3
    assert len({id(r.prompt) for r in first}) == 1
    assert len({r.program for r in backend.requests}) == 1
    assert [r.width for r in backend.requests if r not in first] == [1, 1, 1]


def test_defect_8_a_batch_runs_each_body_exactly_once(scripted):
    scripted("r")
    seen = []
    table = {"de": "Hallo", "fr": "Salut", "it": "Ciao"}

    @function
    def program(s, lang):
        seen.append(lang)
        s += table[lang] + gen("x")

    program.run_batch([{"lang": lang} for lang in table])
    assert sorted(seen) == ["de", "fr", "it"]


def test_defect_9_states_and_forks_need_no_threads(scripted):
    scripted("r", latency_s=0.3)

    @function
    def program(s, i):
        forks = s.fork(4)
        forks += gen("x")
        forks.join()

    before = threading.active_count()
    batch = program.map(range(200), wait=False)
    time.sleep(0.15)
    during = threading.active_count()
    batch.wait()
    assert during - before <= 6


def test_defect_11_n_gives_a_list_and_the_text_goes_on_with_the_first(scripted):
    scripted(["one", "two", "three", "after"])

    @function
    def program(s):
        s += "q " + gen("x", n=3) + "; " + gen("y")

    state = program.run()
    assert state["x"] == ["one", "two", "three"]
    assert state.text() == "q one; after"
    assert [one.text for one in state.info("x").alternatives] == ["one", "two", "three"]


POOR = Capabilities(params=frozenset({"max_tokens"}), chat_only=True, continue_assistant=False)


def test_defect_11_and_g_what_a_backend_cannot_honour_is_refused_at_the_users_line(scripted):
    backend = scripted("r", capabilities=POOR)

    def refused(body):
        with pytest.raises(UnsupportedError) as caught:
            function(body).run()
        return str(caught.value)

    def penalty(s):
        s += user("q") + assistant(gen("x", top_k=5))

    def outside(s):
        s += "text outside a role"

    def generation_outside(s):
        s += user("q")
        s += gen("x")

    def prefixed(s):
        s += user("q") + assistant("Sure, " + gen("x"))

    def scored(s):
        s += user("q") + assistant(select("x", ["a", "b"]))

    assert "gen('x') at " in (message := refused(penalty))
    assert "top_k=5" in message
    assert "max_tokens" in message
    assert "outside a role" in refused(outside)
    assert "outside a role" in refused(generation_outside)
    assert "before a generation" in refused(prefixed)
    assert "select" in refused(scored)
    assert backend.requests == []


def test_defect_12_there_is_no_silent_template(scripted):
    class NoTemplate(Scripted):
        def render(self, prompt):
            return None

    backend = NoTemplate("r")

    @function
    def program(s):
        s += system("be brief") + user("q") + assistant(gen("x"))

    state = program.run(backend=backend)
    # roles travel as roles; the plain transcript is for people, and no markers of any model are in it
    assert backend.requests[0].prompt.messages() == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": ""},
    ]
    assert state.text() == "system: be brief\nuser: q\nassistant: r\n"


def test_defect_a_the_error_at_a_read_is_no_bare_key_error(scripted):
    scripted(ConnectionError("refused"))
    with pytest.raises(GenerationError) as caught:
        reads.run()
    assert not isinstance(caught.value, KeyError)
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_defect_c_an_error_inside_a_turn_ends_the_turn(scripted):
    scripted("r")

    @function
    def program(s):
        try:
            with s.user():
                s += "half"
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        with s.assistant():
            s += gen("x")

    assert program.run().messages() == [
        {"role": "user", "content": "half"},
        {"role": "assistant", "content": "r"},
    ]


def test_defects_d_and_f_nodes_are_plain_values_that_can_be_looked_at():
    for node in (gen("x"), select("y", ["a"]), user("q"), assistant_begin()):
        assert type(node).__name__ in repr(node)
        assert hash(node) == hash(node)


def test_defect_e_no_option_is_lost_on_the_way(scripted):
    backend = scripted("r")

    @function
    def program(s):
        s += gen(
            "x", 7, 2, 1, "a", 5, "b+", 0.5, 0.9, 40, 0.1, 0.2, 0.3, True,
            repetition_penalty=1.1, seed=3,
        )  # fmt: skip

    program.run()
    params = backend.requests[0].params
    assert (params.max_tokens, params.min_tokens, params.n) == (7, 2, 1)
    assert (params.stop, params.stop_token_ids, params.stop_regex) == (("a",), (5,), ("b+",))
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 40, 0.1)
    assert (params.frequency_penalty, params.presence_penalty, params.repetition_penalty) == (0.2, 0.3, 1.1)
    assert (params.ignore_eos, params.seed) == (True, 3)
