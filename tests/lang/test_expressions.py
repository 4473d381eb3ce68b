"""Nodes, `+`, f-strings and handles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from stolon import GenerationError, InvalidRequest, ProgramError, assistant, function, gen, select, user
from stolon.lang.ir import RoleBegin, Seq, parts_of


def test_plus_makes_one_flat_sequence_from_either_side():
    node = gen("x")
    seq = "a" + node + "b" + (user("c") + "d")
    assert isinstance(seq, Seq)
    assert [part for part in seq if isinstance(part, str)] == ["a", "b", "c", "d"]
    assert seq[1] is node
    assert len(seq) == 7


def test_a_node_knows_the_line_that_made_it():
    node, line = gen("x"), sys._getframe().f_lineno
    assert node.origin == (__file__, line)
    turn, line = user("x"), sys._getframe().f_lineno
    begin = turn[0]
    assert isinstance(begin, RoleBegin)
    assert begin.origin == (__file__, line)
    assert Path(node.origin[0]).name == "test_expressions.py"


@pytest.mark.parametrize("make", ["f-string", "format", "percent", "concatenation"])
def test_a_generation_works_inside_text(scripted, make):
    scripted("Bob")

    @function
    def program(s):
        node = gen("name", stop="\n")
        s += {
            "f-string": f"Name: {node}!",
            "format": "Name: {}!".format(node),  # noqa: UP032
            "percent": "Name: %s!" % node,  # noqa: UP031
            "concatenation": "Name: " + node + "!",
        }[make]

    state = program.run()
    assert state["name"] == "Bob"
    assert state.text() == "Name: Bob!"


def test_turns_and_selections_work_inside_f_strings_too(scripted):
    scripted("r", scores=lambda prompt, option: -len(option))

    @function
    def program(s):
        answer = f"a {gen('x')} b {select('y', ['long', 's'])}"
        s += f"{user('hi')}{assistant(answer)}"

    state = program.run()
    assert state.messages() == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a r b s"}]


def test_one_f_string_can_be_appended_many_times(scripted):
    scripted(["1", "2", "3"])

    @function
    def program(s):
        text = f"<{gen('x')}>"
        values = []
        for _ in range(3):
            s += text
            values.append(s["x"])
        return values

    assert program.run().value == ["1", "2", "3"]


def test_text_from_elsewhere_cannot_name_a_generation(scripted):
    backend = scripted("r")
    mark = f"{gen('x')}"
    forged = mark[:1] + "0" * 16 + mark[17:]

    @function
    def program(s):
        s += forged + "\ue5b4\ue5b5"

    assert program.run().text() == forged + "\ue5b4\ue5b5"
    assert backend.requests == []


def test_a_generation_in_an_f_string_takes_no_format():
    with pytest.raises(TypeError, match="takes no format"):
        f"{gen('x'):>10}"


def test_a_handle_reads_what_its_own_node_became(scripted):
    scripted(["7", "a", "b"])

    @function
    def program(s):
        age = gen()
        s += "Age: " + age
        forks = s.fork(2)
        note = gen("note")
        forks += note
        assert forks[note] == ["a", "b"]
        forks.join()
        return s[age], s[note], age in s

    assert program.run().value == ("7", ["a", "b"], True)


def test_unnamed_generations_need_no_name(scripted):
    scripted(["1", "2"])

    @function
    def program(s):
        s += gen() + "," + gen()
        return s[None]

    state = program.run()
    assert (state.value, state.text()) == ("2", "1,2")


@pytest.mark.parametrize("value", [5, None, 1.5, object(), ["a", 5], {"a": 1}])
def test_b70_what_cannot_be_appended_is_refused_at_once(scripted, value):
    scripted("r")

    @function
    def program(s):
        with pytest.raises(TypeError, match=r"cannot append .* to a program state"):
            s += value
        with pytest.raises(TypeError):
            s += user(value) if value is not None else user([None])  # pyright: ignore[reportArgumentType]

    assert program.run().text() == ""


def test_lists_are_appended_in_order(scripted):
    scripted("r")

    @function
    def program(s):
        s += ["a", gen("x"), ("b", ["c"])]

    assert program.run().text() == "arbc"
    assert parts_of([]) == ()


@pytest.mark.parametrize("choices", [None, [], "ab", ["a", "a"], ["a", 1], [""]])
def test_b69_wrong_choices_are_refused_naming_the_selection(choices):
    with pytest.raises(InvalidRequest, match=r"select\('c'\)"):
        select("c", choices)


def test_names_must_be_text():
    wrong: Any = 5
    for make in (lambda: gen(wrong), lambda: select(wrong, ["a"])):
        with pytest.raises(TypeError, match="name must be text"):
            make()


def test_roles_used_wrongly_are_refused_at_the_line(scripted):
    scripted("r")

    @function
    def nested(s):
        s += user("a" + assistant("b"))

    @function
    def unopened(s):
        from stolon import user_end

        s += user_end()

    @function
    def crossed(s):
        from stolon import assistant_end, user_begin

        s += user_begin() + "q" + assistant_end()

    for program, words in ((nested, "begins inside"), (unopened, "none has begun"), (crossed, "open one is")):
        with pytest.raises(ProgramError, match=words):
            program.run()


def test_turns_by_method_by_block_and_by_begin_and_end_are_the_same(scripted):
    from stolon import user_begin, user_end

    scripted("r")

    @function
    def methods(s):
        s.system("be brief")
        s += s.user("q")  # appended once: what the method returns is ignored
        s.assistant(gen("x"))

    @function
    def blocks(s):
        with s.system():
            s += "be brief"
        s += user_begin() + "q" + user_end()
        with s.assistant():
            s += gen("x")

    assert methods.run().messages() == blocks.run().messages()
    assert [m["content"] for m in methods.run().messages()] == ["be brief", "q", "r"]


def test_an_unused_turn_method_cannot_be_appended(scripted):
    scripted("r")

    @function
    def program(s):
        s += s.user()

    with pytest.raises(TypeError, match=r"with s\.user"):
        program.run()


def test_messages_are_a_fresh_list_each_time(scripted):
    scripted("r")
    state = function(lambda s: s.append(user("q"))).run()
    state.messages().clear()
    assert state.messages() == [{"role": "user", "content": "q"}]


def test_a_scope_names_the_text_said_inside(scripted):
    scripted(["1", "2"])

    @function
    def program(s):
        s += "before "
        with s.var_scope("sum"):
            s += "a" + gen("x") + "b" + gen("y")
        s += " after"
        return s["sum"]

    assert program.run().value == "a1b2"


def test_a_scope_read_inside_itself_is_an_error_and_no_hang(scripted):
    scripted("r")

    @function
    def program(s):
        with s.var_scope("v"):
            s += gen("x")
            return s["v"]

    with pytest.raises(ProgramError, match="inside its own block"):
        program.run()


def test_assigned_variables_are_read_like_generated_ones(scripted):
    scripted("r")

    @function
    def program(s):
        s["a"] = 5
        s.set_var("b", [1])
        assert "a" in s
        assert "c" not in s
        s += gen("a")
        return s["a"], s.get_var("b")

    assert program.run().value == ("r", [1])


def test_an_error_names_the_line_of_a_scope_and_of_a_turn_method(scripted):
    scripted(ConnectionError("down"))

    @function
    def program(s):
        with s.var_scope("v"):
            line = sys._getframe().f_lineno - 1
            s += gen("x")
        with pytest.raises(GenerationError) as caught:
            s["v"]
        return line, str(caught.value)

    line, message = program.run().value
    assert message.startswith(f"var_scope('v') at {__file__}:{line} has no value, because of gen('x')")
