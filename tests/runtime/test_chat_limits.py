"""Hostile templates are refused at start-up or at the request, quickly, and reach nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stolon.lang.errors import ChatTemplateError, CheckpointError
from stolon.runtime.chat import ChatTemplate
from stolon.runtime.chat_cache import RunCache
from stolon.runtime.chat_render import RENDER_SECONDS, ChatRenderer, probe
from stolon.runtime.tokenizer import Tokenizer
from tests.runtime import made_tokenizers as made

GROW = "{%% set ns = namespace(x='aa') %%}{%% for i in range(99) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
LARGE = [
    "{{ 'a' * 999999999 }}",
    "{{ [1] * 999999999 }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999) }}",
    "{{ 'a'.center(999999999) }}",
    "{{ 'a'.zfill(999999999) }}",
    "{{ 'a' | center(999999999) }}",
    "{{ [1] | batch(999999999, 0) | list }}",
    "{{ [1, [2]] | tojson(indent=999999999) }}",
    "{{ (10 ** 5000) ** 5000 }}",
    GROW % "ns.x ~ ns.x",
    GROW % "ns.x + ns.x",
    GROW % "ns.x.replace('a', 'aa')",
    GROW % "ns.x | replace('a', 'aa')",
    GROW % "[ns.x, ns.x] | join",
    GROW % "ns.x.join([ns.x, ns.x])",
]
LONG = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
]
OTHER = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({}) }}",
    "{{ range(10000000) }}",
    "{% include 5 %}",
    "{% include 'x' %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{{ 1 / 0 }}",
    "{{ 1e308 * 10 | int }}{{ (1e308 * 10) | round | int }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ raise_exception('no') }}",
    "{{ lipsum(n=9999) }}",
    "{% for",
    "{{ " + "(" * 5000 + ")" * 5000 + " }}",
]


def render(source: str) -> str:
    message = {"role": "user", "content": "hi"}
    return ChatRenderer(source).render([message], tools=None, add_generation_prompt=True, named_tokens={})


@pytest.mark.parametrize("source", [*LARGE, *OTHER])
def test_a_hostile_template_is_refused_at_the_request(source: str) -> None:
    started = time.process_time()
    with pytest.raises(ChatTemplateError):
        render(source)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("source", LONG)
def test_a_template_that_does_not_end_is_stopped_at_start_up(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="more than 1 s"):
        probe(source, {})


def test_a_template_that_does_not_end_is_stopped_at_the_request() -> None:
    started = time.monotonic()
    with pytest.raises(ChatTemplateError, match="takes more than"):
        render(LONG[1])
    assert time.monotonic() - started < RENDER_SECONDS + 3


def test_a_good_template_passes_its_trial_quickly() -> None:
    started = time.monotonic()
    probe("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", {"bos_token": "<s>"})
    assert time.monotonic() - started < 3  # about 0.1 s on a machine with nothing else to do


def test_a_template_that_takes_only_some_roles_passes() -> None:
    probe("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}ok", {})


@pytest.mark.parametrize("source", [LARGE[0], LONG[0], "{% for", "{{ raise_exception('never') }}"])
def test_loading_a_hostile_template_is_an_error_of_the_checkpoint(tmp_path: Path, source: str) -> None:
    folder = made.saved(made.byte_level(), tmp_path, template=source)
    with pytest.raises(CheckpointError, match="chat template"):
        ChatTemplate.load(Tokenizer.load(folder), folder, None)


def test_an_operator_s_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    folder = made.saved(made.byte_level(), tmp_path)
    tokenizer = Tokenizer.load(folder)
    (tmp_path / "latin.jinja").write_bytes(b"\xff\xfe")
    for name in ("missing.jinja", "latin.jinja"):
        with pytest.raises(CheckpointError, match=name):
            ChatTemplate.load(tokenizer, folder, tmp_path / name)


def test_ordinary_uses_of_what_is_bounded_still_work() -> None:
    source = (
        "{{ 'a' * 3 }}|{{ 'x' | center(5) }}|{{ '%05.1f' % 2.5 }}|{{ '{:>4}'.format(7) }}|{{ [1, 'b'] | join('-') }}|"
        "{{ 'aXa' | replace('X', 'y') }}|{{ {'k': [1]} | tojson(indent=2) }}|{{ 2 ** 10 }}|{{ 1 ~ 'x' ~ none }}|"
        "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}"
        "{% else %}none{% endfor %}|{% generation %}said{% endgeneration %}|{{ 'a b'.split(' ') | length }}|"
        "{{ strftime_now('%%') }}|{{ messages | map(attribute='role') | list }}"
    )
    assert render(source) == (
        "aaa|  x  |002.5|   7|1-b|aya|{\n  \"k\": [\n    1\n  ]\n}|1024|1xNone|02|said|2|%|['user']"
    )


def test_the_cache_forgets_the_least_recently_used_and_stays_within_its_bytes() -> None:
    made_for: list[str] = []

    def encode(text: str, place: str) -> list[int]:
        made_for.append(text)
        return [len(text)] * len(text)

    cache = RunCache(max_bytes=4000)
    for text in ["a" * 100, "b" * 100, "a" * 100, "c" * 100, "d" * 100, "e" * 100, "a" * 100]:
        assert list(cache.tokens(text, "first", encode)) == [100] * 100
    assert [text[0] for text in made_for] == ["a", "b", "c", "d", "e"]
    cache.tokens("b" * 100, "first", encode)
    assert made_for[-1] == "b" * 100
    cache.tokens("x" * 10_000, "first", encode)  # larger than the whole cache: not kept
    cache.tokens("x" * 10_000, "first", encode)
    assert made_for[-2:] == ["x" * 10_000] * 2
