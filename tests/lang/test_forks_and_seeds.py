"""Forks, joins, copies, and the seeds of their branches."""

from __future__ import annotations

import pytest

from stolon import ProgramError, function, gen, select


def names(count):
    return [f"v{i}" for i in range(count)]


def test_b71_a_fork_needs_at_least_one_branch(scripted):
    scripted("r")

    @function
    def program(s):
        for size in (0, -1, []):
            with pytest.raises(ValueError, match="at least one branch"):
                s.fork(size)
        for size in ("ab", True):
            with pytest.raises(TypeError):
                s.fork(size)

    program.run()


def test_forks_have_a_length_an_order_and_items(scripted):
    scripted(lambda request: request.prompt.text()[-1])

    @function
    def program(s):
        forks = s.fork(["a", "b", "c"])
        for branch, item in forks:
            branch += item + gen("x")
        assert len(forks) == 3
        assert [state["x"] for state in forks[:2]] == ["a", "b"]
        return forks["x"], [item for _, item in forks]

    assert program.run().value == (["a", "b", "c"], ["a", "b", "c"])


def test_appending_to_all_branches_broadcasts_zips_or_calls(scripted):
    scripted("r")

    @function
    def program(s):
        forks = s.fork(2)
        forks += "t"
        forks += gen("x")
        forks += ["1", "2"]
        forks += lambda i: f"<{i}>"
        forks[0] += "!"
        with pytest.raises(ValueError, match="must have 2 items, got 3"):
            forks += ["a", "b", "c"]
        with pytest.raises(TypeError, match="cannot be replaced"):
            forks[0] = forks[1]
        return [state.text() for state in forks]

    assert program.run().value == ["tr1<0>!", "tr2<1>"]


def test_branches_see_the_variables_and_the_open_turn_of_their_parent(scripted):
    scripted(["p", "c"])

    @function
    def program(s):
        with s.assistant():
            s += gen("x")
            (branch,) = s.fork(1)
            assert branch["x"] == "p"
            branch += gen("y")
            with pytest.raises(KeyError):
                s["y"]
        return branch.messages()

    assert program.run().value == [{"role": "assistant", "content": "pc"}]


def test_joining_gathers_lists_and_keeps_what_the_parent_has(scripted):
    scripted(lambda request: str(len(request.prompt.text())))

    @function
    def program(s):
        s += gen("kept")
        kept = s["kept"]
        forks = s.fork(2)
        forks += ["a", "bbb"]
        forks += gen("kept") + gen("new")
        forks.join()
        assert s["kept"] == kept
        return s["new"], forks["kept"]

    new, inner = program.run().value
    assert new == ["3", "5"]
    assert inner == ["2", "4"]


def test_b71_joining_twice_and_using_a_branch_after_its_end_are_errors(scripted):
    scripted("r")

    @function
    def program(s):
        forks = s.fork(2)
        forks += gen("x")
        forks.join()
        with pytest.raises(ProgramError, match="joined before"):
            forks.join()
        with pytest.raises(ProgramError, match="was joined"):
            forks[0] += "more"
        assert forks[0]["x"] == "r"
        with pytest.raises(ValueError, match="modes"):
            s.fork(1).join("other")

    program.run()


def test_a_copy_is_joined_at_the_end_of_its_block(scripted):
    scripted("r")

    @function
    def program(s):
        s += "a"
        with s.copy() as c:
            c += "b" + gen("x")
        return s["x"], s.text(), c.text()

    assert program.run().value == (["r"], "a", "abr")


def test_forks_of_forks_run_at_once_and_share_the_chain(scripted):
    backend = scripted("r", latency_s=0.05)

    @function
    def program(s):
        s += "p" + gen("x")
        for outer in s.fork(3):
            outer += "o"
            inner = outer.fork(3)
            inner += gen("y")

    program.run()
    assert backend.most_active == 9
    outers = {id(r.prompt.parent.parent) for r in backend.requests if r.width == 3}
    assert len({id(r.prompt) for r in backend.requests[1:]}) == 3
    assert len(outers) == 1


@function
def branching(s):
    s += gen("root")
    forks = s.fork(3)
    forks += gen("b")
    for state in s.fork(2):
        state += gen("c")
        state.fork(2)[1].append(gen("d"))


def seeds(backend, **options):
    before = len(backend.requests)
    branching.run(backend=backend, **options)
    return sorted(str(r.params.seed) for r in backend.requests[before:])


def test_branches_draw_with_seeds_of_their_own_and_reruns_repeat_them(scripted):
    backend = scripted("r")
    first, again, other = seeds(backend, seed=1), seeds(backend, seed=1), seeds(backend, seed=2)
    assert first == again
    assert len(set(first)) == len(first) == 1 + 3 + 2 + 2
    assert not set(first) & set(other)
    assert "1" in first
    assert all(abs(int(seed)) < 2**63 for seed in first)


def test_without_a_seed_none_is_sent(scripted):
    assert set(seeds(scripted("r"))) == {"None"}


def test_a_seed_of_one_generation_is_derived_by_branch_too(scripted):
    backend = scripted("r")

    @function
    def program(s):
        s += gen("a", seed=7)
        forks = s.fork(2)
        forks += gen("b", seed=7)

    program.run()
    drawn = [r.params.seed for r in backend.requests]
    assert drawn[0] == 7
    assert len(set(drawn)) == 3


def test_a_warm_selection_draws_by_the_scores_and_repeats_with_its_seed(scripted):
    scripted(scores=lambda prompt, option: {"a": -0.1, "b": -0.7}[option])

    @function
    def program(s):
        s += select("x", ["a", "b"], temperature=1.0)

    picks = [program.run(seed=seed)["x"] for seed in range(200)]
    assert picks == [program.run(seed=seed)["x"] for seed in range(200)]
    share = picks.count("a") / len(picks)
    assert 0.5 < share < 0.8  # 0.646 by the softmax
    cold = function(lambda s: s.append(select("x", ["a", "b"])))
    assert {cold.run(seed=seed)["x"] for seed in range(20)} == {"a"}
