"""The choices methods, against numbers worked out by hand and by SGLang's own test data."""

from __future__ import annotations

import math

import pytest

from stolon import (
    InvalidRequest,
    Score,
    function,
    greedy_token_selection,
    select,
    token_length_normalized,
    unconditional_likelihood_normalized,
)

CHOICES = ["organ", "organism", "antidisestablishmentarianism"]
LOGPROBS = ([-0.1, -0.3], [-0.1, -0.2, -0.5], [-0.5, -0.1, -0.1, -0.1, -0.05, -0.05, -0.05, -0.05])
ALONE = ([-0.2, -0.4], [-0.2, -0.8, -1.3], [-0.4, -0.1, -0.1, -0.1, -0.05, -0.05, -0.05, -0.05])


def scores(logprobs=LOGPROBS, alone=ALONE):
    return [
        Score(tuple(range(len(values))), tuple(values), None if alone is None else tuple(alone[i]))
        for i, values in enumerate(logprobs)
    ]


def test_token_length_normalized_takes_the_best_mean():
    decision = token_length_normalized(CHOICES, scores())
    assert decision.decision == "antidisestablishmentarianism"
    assert decision.scores == pytest.approx((-0.2, -0.8 / 3, -0.125))


def test_greedy_token_selection_drops_options_token_by_token():
    logprobs = ([-0.1, -0.2], [-0.1, -0.3, -0.4], [-0.5, -0.1, -0.1])
    decision = greedy_token_selection(CHOICES, scores(logprobs, None))
    assert decision.decision == "organ"
    assert decision.meta_info["greedy_logprob_matrix"] == [
        pytest.approx([-0.1, -0.2, -0.15]),
        pytest.approx([-0.1, -0.3, -0.4]),
        pytest.approx([-0.5, -0.1, -0.1]),
    ]


def test_equal_options_go_to_the_first():
    for method in (token_length_normalized, greedy_token_selection):
        assert method(["a", "b"], scores([[-1.0], [-1.0]], None)).decision == "a"


def test_unconditional_likelihood_takes_what_the_prompt_made_likelier():
    decision = unconditional_likelihood_normalized(CHOICES, scores())
    assert decision.decision == "organism"
    expected = [0.1, (0.1 + 0.6 + 0.8) / 3, -0.1 / 8]
    assert decision.meta_info["normalized_unconditional_prompt_logprobs"] == pytest.approx(expected)


def test_unconditional_likelihood_needs_those_numbers():
    with pytest.raises(InvalidRequest, match="token_length_normalized"):
        unconditional_likelihood_normalized(CHOICES, scores(alone=None))


@pytest.mark.parametrize(
    "method", [token_length_normalized, greedy_token_selection, unconditional_likelihood_normalized]
)
def test_a_log_probability_that_the_server_left_out_breaks_no_method(method):
    padded = scores([[None, -0.3], [None, -0.2]], [[None, -1.0], [None, -1.0]])
    assert method(["a", "b"], padded).decision == "b"


def test_probabilities_are_the_softmax_of_the_ranking(scripted):
    scripted(scores=lambda prompt, option: {"yes": -0.5, "no": -1.5, "never": -math.inf}[option])

    @function
    def program(s):
        s += select("x", ["yes", "no", "never"])

    info = program.run().info("x")
    assert info.probs == pytest.approx({"yes": 1 / (1 + math.exp(-1)), "no": 1 / (1 + math.e), "never": 0.0})
    assert info.scores["no"].mean == -1.5


def test_a_method_of_ones_own_is_a_callable(scripted):
    from stolon.lang.choices import ChoicesDecision

    class Last:
        requires_unconditional_logprobs = False

        def __call__(self, choices, scores):
            return ChoicesDecision(choices[-1], tuple(float(i) for i in range(len(choices))))

    scripted()
    state = function(lambda s: s.append(select("x", ["a", "b"], choices_method=Last()))).run()
    assert state["x"] == "b"
