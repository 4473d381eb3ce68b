"""What has the wrong kind is refused by name, where it is given and before anything is asked."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stolon import (
    InvalidRequest,
    Runtime,
    RuntimeEndpoint,
    flush_cache,
    function,
    gen,
    get_server_info,
    select,
    set_default_backend,
)


@function
def program(s, a=1):
    s += gen("x")


@function
def forked(s, size):
    s.fork(size)


OPTIONS = [
    ({"stop": 5}, "stop must be text or a list of those, got 5"),
    ({"stop_regex": [b"a"]}, "stop_regex must be text or a list of those, got b'a' in it"),
    ({"stop_token_ids": 3.0}, "stop_token_ids must be a whole number or a list of those, got 3.0"),
    ({"timeout": "x"}, "timeout must be a number of seconds, got 'x'"),
    ({"timeout": True}, "timeout must be a number of seconds, got True"),
    ({"seed": "abc"}, "seed must be a whole number, got 'abc'"),
    ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
    ({"seed": True}, "seed must be a whole number, got True"),
    ({"retries": "x"}, "retries must be a whole number, got 'x'"),
    ({"return_logprob": True, "logprob_start_len": "x"}, "logprob_start_len must be a whole number, got 'x'"),
    ({"top_logprobs_num": "x"}, "top_logprobs_num must be a whole number, got 'x'"),
    ({"ignore_eos": "no"}, "ignore_eos must be True or False, got 'no'"),
]

wrong: Any = "tiny"
five: Any = 5
class_itself: Any = Runtime
nothing: Any = iter(())
CALLS = [
    (
        lambda: program.run(max_new_tokens=3, max_tokens=4),
        "max_tokens=4 and max_new_tokens=3 are two names of one option",
    ),
    (lambda: program.run_batch([{"a": 1}], errors=wrong), 'errors must be "raise" or "return", got \'tiny\''),
    (lambda: program.map([{"a": 1}], errors=wrong), "errors must be"),
    (
        lambda: program.run_batch({"a": 1}),
        "a list of items is needed, one for each run, got {'a': 1}; of one item, [item]",
    ),
    (lambda: program.run_batch("ab"), "a list of items is needed, one for each run, got 'ab'"),
    (lambda: program.map(wrong), "a list of items is needed"),
    (
        lambda: set_default_backend(wrong),
        "a backend is needed, such as Runtime('tiny') or OpenAI('gpt-4o-mini'), got 'tiny'",
    ),
    (lambda: program.run(backend=wrong), "a backend is needed"),
    (lambda: program.map([1], backend=wrong), "a backend is needed"),
    (lambda: flush_cache(wrong), "a backend is needed"),
    (lambda: get_server_info(wrong), "a backend is needed"),
    (lambda: program.run(backend=class_itself), "a backend is needed, got the class Runtime; make one: Runtime(...)"),
    (lambda: RuntimeEndpoint(five), "base_url must be an address such as http://127.0.0.1:30000, got 5"),
    (lambda: forked.run(1.5), "fork takes a number or a list, got 1.5"),
    (lambda: forked.run(None), "fork takes a number or a list, got None"),
    (lambda: forked.run(iter("ab")), "fork takes a number or a list, got <"),
    (lambda: select("x", five), "select('x'): a list of choices is needed, got 5"),
    (lambda: gen("x", choices=nothing), "gen('x'): a list of choices is needed, got <"),
    (
        lambda: select("x", ["a"], temperature=wrong),
        "select('x'): temperature must be a number of at least 0, got 'tiny'",
    ),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[message for _, message in OPTIONS])
@pytest.mark.parametrize("where", ["run", "gen"])
def test_an_option_of_the_wrong_kind_is_refused(scripted, where, options, message):
    backend = scripted("r")
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        program.run(**options) if where == "run" else function(lambda s: s.append(gen("x", **options))).run()
    assert backend.requests == []


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[message for _, message in CALLS])
def test_an_argument_of_the_wrong_kind_is_refused(scripted, call, message):
    backend = scripted("r")
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()
    assert backend.requests == []


def test_choices_may_be_any_iterable(scripted):
    scripted("b", scores=lambda prompt, option: -len(option))
    choices: Any = iter(["aa", "b"])
    assert function(lambda s: s.append(select("x", choices))).run()["x"] == "b"
    choices = iter(["aa", "b"])
    assert function(lambda s: s.append(gen("x", choices=choices, max_tokens=5))).run()["x"] == "b"
