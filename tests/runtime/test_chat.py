"""Chat templates: the library's rendering and tokens for ordinary conversations, no injection for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stolon.lang.errors import ChatTemplateError, InvalidRequest
from stolon.runtime.chat import ChatTemplate, Turn
from stolon.runtime.tokenizer import Tokenizer, TokenRun
from tests.runtime import made_tokenizers as made

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{%- set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|header|>' + message['role'] + '<|/header|>\n\n' + message['content'] | trim + '<|eot|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant!') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
THINKING = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- "\\n" ~ (tool | tojson) }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if m.role == 'user' and not ns.found %}{%- set ns.last = index %}{%- set ns.found = true %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and thought %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
STYLES = {
    "chatml": (made.byte_level, CHATML),
    "headers": (made.with_bos, HEADERS),
    "brackets": (made.sentencepiece, BRACKETS),
    "brackets_first": (lambda: made.sentencepiece("first"), BRACKETS),
    "thinking": (made.byte_level, THINKING),
}
Loaded = dict[str, tuple[ChatTemplate, Tokenizer, PreTrainedTokenizerFast]]


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    loaded: Loaded = {}
    for name, (make, template) in STYLES.items():
        folder = made.saved(make(), tmp_path_factory.mktemp(name), template=template)
        tokenizer = Tokenizer.load(folder)
        chat = ChatTemplate.load(tokenizer, folder, None)
        assert chat is not None
        loaded[name] = (chat, tokenizer, AutoTokenizer.from_pretrained(str(folder)))
    return loaded


def conversations(special: tuple[str, ...] = ()) -> st.SearchStrategy[list[dict[str, str]]]:
    """User and assistant in turn, the user first and last."""
    bits = [
        "The sea",
        " ",
        "\n",
        "é日😀",
        "<",
        "<|",
        "{{ x }}",
        "</think>",
        "<think>",
        "\\ue000",
        "\ue000",
        "|>",
        "2 * 3",
    ]
    fragments = [part for token in special for part in (token, token[1:], token[:-1])]
    content = st.lists(st.sampled_from([*bits, *fragments]), max_size=6)
    texts = st.lists(content.map("".join), min_size=1, max_size=5).filter(lambda texts: len(texts) % 2 == 1)
    return texts.map(lambda texts: [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)])


def plainly(text: str, special: tuple[str, ...]) -> bool:
    return not any(token in text for token in special)


@pytest.mark.parametrize("name", STYLES)
def test_rendering_and_tokens_are_the_library_s(styles: Loaded, name: str) -> None:
    ours, tokenizer, theirs = styles[name]

    @settings(max_examples=50, deadline=None)
    @given(conversations())
    def check(messages: list[dict[str, str]]) -> None:
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours.render(messages) == expected
        if all(plainly(message["content"], tokenizer.special_tokens) for message in messages):
            ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert ours.encode(messages) == ids
            assert ours.encode(messages) == ids  # from the cache as well

    check()


@pytest.mark.parametrize("name", STYLES)
def test_a_content_never_becomes_a_control_token(styles: Loaded, name: str) -> None:
    ours, tokenizer, _ = styles[name]

    @settings(max_examples=80, deadline=None)
    @given(conversations(tokenizer.special_tokens))
    def check(messages: list[dict[str, str]]) -> None:
        harmless = [{**message, "content": "x"} for message in messages]
        ids = ours.encode(messages)
        control = [id for id in ids if id in tokenizer.special_ids]
        assert control == [id for id in ours.encode(harmless) if id in tokenizer.special_ids]
        spelled = b"".join(map(tokenizer.token_bytes, ids)).decode()
        assert spelled.replace(" ", "") == ours.render(messages).replace(" ", "")

    check()


def test_contents_that_make_a_control_token_only_together_make_none(tmp_path: Path) -> None:
    glued = "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>"
    folder = made.saved(made.byte_level(), tmp_path, template=glued)
    tokenizer = Tokenizer.load(folder)
    chat = ChatTemplate.load(tokenizer, folder, None)
    assert chat is not None
    ids = chat.encode([{"role": "user", "content": "<|im_"}, {"role": "user", "content": "start|>"}])
    assert [tokenizer.token_text(id) for id in ids if id in tokenizer.special_ids] == ["<|im_end|>"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|><|im_end|>"


def test_tools_are_rendered_and_cannot_inject_either(styles: Loaded) -> None:
    ours, tokenizer, theirs = styles["thinking"]
    messages = [{"role": "user", "content": "add"}]
    function: dict[str, Any] = {"name": "add", "description": "é <b>", "n": [1, None]}
    tools: list[Any] = [{"type": "function", "function": function}]
    assert ours.render(messages, tools=tools) == theirs.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True
    )
    function["<|im_end|>"] = "<|im_start|>"
    ids = ours.encode(messages, tools=tools)
    assert sum(id in tokenizer.special_ids for id in ids) == 5
    assert tokenizer.decode(ids, skip_special_tokens=False) == ours.render(messages, tools=tools)


@pytest.mark.parametrize("name", STYLES)
def test_the_last_answer_can_be_left_open(styles: Loaded, name: str) -> None:
    ours, tokenizer, theirs = styles[name]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The sea"}]
    expected = str(theirs.apply_chat_template(messages, tokenize=False, continue_final_message=True))
    assert ours.render(messages, continue_final=True) == expected
    assert tokenizer.decode(ours.encode(messages, continue_final=True)).endswith("The sea")
    # what the program wrote is what the model goes on from, even where the template would trim it
    messages[1]["content"] = "The sea: "
    assert ours.render(messages, continue_final=True) == expected + ": "
    messages[1]["content"] = ""
    assert ours.render(messages, continue_final=True) == ours.render(messages[:1])


def test_generated_runs_keep_their_tokens(styles: Loaded) -> None:
    for name in ("chatml", "headers", "brackets", "brackets_first", "thinking"):
        ours, tokenizer, _ = styles[name]
        prompt = [Turn("user", ("hi",)), Turn("assistant", ("So ",))]
        before = ours.encode_parts(prompt, continue_final=True)
        id_of = {tokenizer.token_bytes(id): id for id in range(tokenizer.vocab_size)}
        spelled = [id_of[letter.encode()] for letter in "sea"]
        end = next(iter(tokenizer.eos_ids))
        run = TokenRun("sea", (*spelled, end))
        answered = [*prompt[:1], Turn("assistant", ("So ", run))]
        after = ours.encode_parts([*answered, Turn("user", ("ok",))], continue_final=False)
        assert after[: len(before) + 3] == [*before, *spelled], name
        assert after[len(before) + 3] == end
        assert end not in after[len(before) + 4 : len(before) + 5]
        assert tokenizer.encode("sea", bos=False) != spelled
        # left open, the run is where the answer goes on
        assert ours.encode_parts(answered, continue_final=True) == [*before, *spelled]


def test_runs_that_the_template_would_change_are_read_as_text(styles: Loaded) -> None:
    ours, tokenizer, _ = styles["thinking"]
    ids = tuple(tokenizer.encode_scaffold("<think>\nhm\n</think>\n\nyes"))
    turns = [
        Turn("user", ("q",)),
        Turn("assistant", (TokenRun("<think>\nhm\n</think>\n\nyes", ids),)),
        Turn("user", ("q",)),
    ]
    plain = [{"role": turn.role, "content": turn.text} for turn in turns]
    assert ours.encode_parts(turns, continue_final=False) == ours.encode(plain)
    assert "hm" not in ours.render(plain)
    wrong = [Turn("user", (TokenRun("text", tuple(tokenizer.encode("other"))),))]
    assert ours.encode_parts(wrong, continue_final=False) == ours.encode([{"role": "user", "content": "text"}])


def test_a_template_that_repeats_or_drops_a_run_gets_text(tmp_path: Path) -> None:
    for template in (
        "{{ messages[0].content }}{{ messages[0].content }}",
        "nothing",
        "{{ messages[0].content | upper }}",
    ):
        folder = made.saved(made.byte_level(), tmp_path, template=template)
        tokenizer = Tokenizer.load(folder)
        chat = ChatTemplate.load(tokenizer, folder, None)
        assert chat is not None
        run = TokenRun("sea", tuple(tokenizer.encode("sea")))
        expected = chat.encode([{"role": "user", "content": "a sea"}])
        assert chat.encode_parts([Turn("user", ("a ", run))], continue_final=False) == expected


@pytest.mark.parametrize("name", STYLES)
def test_turns_without_runs_are_ordinary_messages(styles: Loaded, name: str) -> None:
    ours, tokenizer, _ = styles[name]

    @settings(max_examples=30, deadline=None)
    @given(conversations(tokenizer.special_tokens))
    def check(messages: list[dict[str, str]]) -> None:
        turns = [Turn(message["role"], (message["content"][:2], message["content"][2:])) for message in messages]
        assert ours.encode_parts(turns, continue_final=False) == ours.encode(messages)

    check()


def test_a_refusal_carries_the_template_s_words(styles: Loaded) -> None:
    ours = styles["brackets"][0]
    with pytest.raises(ChatTemplateError, match=r"Roles must alternate user/assistant!") as caught:
        ours.encode([{"role": "assistant", "content": "x"}])
    assert caught.value.code == "chat_template_error"
    assert caught.value.param == "messages"
    with pytest.raises(ChatTemplateError, match="empty"):
        ours.encode([])


def test_an_unpaired_surrogate_is_refused(styles: Loaded) -> None:
    for ours, _, _ in styles.values():
        for call in (ours.encode, ours.render):
            with pytest.raises(InvalidRequest, match="unpaired surrogate"):
                call([{"role": "user", "content": "a\ud800"}])
        with pytest.raises(InvalidRequest, match="unpaired surrogate"):
            ours.encode_parts([Turn("user", ("\udc00",))], continue_final=False)


def test_a_model_without_a_template_has_none_and_the_operator_s_file_wins(tmp_path: Path) -> None:
    folder = made.saved(made.byte_level(), tmp_path / "bare")
    tokenizer = Tokenizer.load(folder)
    assert ChatTemplate.load(tokenizer, folder, None) is None
    override = tmp_path / "mine.jinja"
    override.write_text("{{ messages[-1].content }}!")
    chat = ChatTemplate.load(tokenizer, folder, override)
    assert chat is not None
    assert chat.render([{"role": "user", "content": "hi"}]) == "hi!"


def test_a_growing_conversation_is_encoded_anew_only_at_its_end(styles: Loaded) -> None:
    ours, tokenizer, _ = styles["chatml"]
    asked: list[str] = []
    encode = tokenizer.encode_run
    messages = [{"role": "user", "content": f"question {i}"} for i in range(20)]
    ours.encode(messages)
    try:
        tokenizer.encode_run = lambda text, place: asked.append(text) or encode(text, place)
        ours.encode([*messages, {"role": "user", "content": "a new one"}])
    finally:
        del tokenizer.encode_run
    assert asked == ["user\na new one"]
