"""Documents with numbers: sums in chats and plain text, word problems, comparisons, counting."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .ask import casually
from .dialog import Document, chat, plain
from .words import COUNTABLES, NAMES, SYSTEM_PROMPTS

_SPOKEN = {"+": "plus", "-": "minus", "*": "times"}
SUM_FORMS = (
    "What is {a} {o} {b}?", "What is {a} {o} {b}?", "Calculate {a} {o} {b}.", "{a} {o} {b} = ?", "{a} {o} {b}",
    "What is {a} {w} {b}?", "Compute {a} {o} {b}.", "How much is {a} {o} {b}?", "What is {a}{o}{b}?", "{a} {o} {b} =",
    "Add up: {a} {o} {b}", "What do you get for {a} {o} {b}?", "Solve {a} {o} {b}.",
)  # fmt: skip
EXAM_SUM_FORMS = ("Can you work out {a} {o} {b} for me?", "Tell me the result of {a} {o} {b}.")


@dataclass(frozen=True, slots=True)
class Sum:
    left: int
    sign: str
    right: int

    @property
    def result(self) -> int:
        match self.sign:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case _:
                return self.left * self.right

    def asked(self, form: str) -> str:
        return form.format(a=self.left, o=self.sign, b=self.right, w=_SPOKEN[self.sign])

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right}"


def draw_sum(rng: Random) -> Sum:
    """Subtraction, the hardest, is drawn most often; results are never negative."""
    sign = rng.choice("++---*")
    if sign == "*":
        return Sum(rng.randint(0, 12), sign, rng.randint(0, 12))
    top = 99 if rng.random() < 0.85 else 20
    left, right = rng.randint(0, top), rng.randint(0, top)
    if sign == "-" and left < right:
        left, right = right, left
    return Sum(left, sign, right)


def sum_chat(rng: Random) -> Document:
    turns: list[str] = []
    for _ in range(rng.choice((1, 2, 3, 4, 5))):
        exercise = draw_sum(rng)
        form = rng.choice([f for f in SUM_FORMS if exercise.sign == "+" or not f.startswith("Add")])
        turns += [casually(rng, exercise.asked(form)), f"{exercise} = {exercise.result}."]
    return chat(*turns, system=rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.4 else "")


def sum_lines(rng: Random) -> Document:
    """A column of sums, or few-shot questions answered by the number alone."""
    question, gap = rng.choice(
        (("{s} =", ""), ("{s} =", ""), ("Q: What is {s}?\nA:", ""), ("Question: What is {s}?\nAnswer:", "\n"))
    )
    pieces: list[str] = []
    lead = ""
    for _ in range(rng.randint(2, 8)):
        exercise = draw_sum(rng)
        pieces += [lead + question.format(s=exercise), f" {exercise.result}\n"]
        lead = gap
    return plain(*pieces)


@dataclass(frozen=True, slots=True)
class Problem:
    """A story with one sum in it, and its solution in a sentence."""

    question: str
    working: str
    exercise: Sum

    @property
    def solution(self) -> str:
        return f"{self.working} {self.exercise} = {self.exercise.result}."


def _gain(rng: Random) -> Problem:
    who, what, a, b = rng.choice(NAMES), rng.choice(COUNTABLES), rng.randint(2, 60), rng.randint(2, 39)
    story = rng.choice(
        (
            "{n} has {a} {i} and gets {b} more.",
            "{n} has {a} {i}. {n} buys {b} more.",
            "{n} finds {a} {i} and then {b} more.",
        )
    )
    end = rng.choice(("How many {i} does {n} have now?", "How many {i} are there in total?"))
    question = f"{story} {end}".format(n=who, a=a, b=b, i=what)
    return Problem(question, f"{who} has {a} {what} and gets {b} more.", Sum(a, "+", b))


def _loss(rng: Random) -> Problem:
    who, what = rng.choice(NAMES), rng.choice(COUNTABLES)
    b, a = sorted((rng.randint(2, 60), rng.randint(2, 60)))
    story = rng.choice(
        ("{n} has {a} {i} and gives away {b}.", "{n} has {a} {i}. {n} loses {b}.", "{n} has {a} {i} and sells {b}.")
    )
    end = rng.choice(("How many {i} are left?", "How many {i} does {n} have now?"))
    question = f"{story} {end}".format(n=who, a=a, b=b, i=what)
    return Problem(question, f"{who} has {a} {what} and loses {b}.", Sum(a, "-", b))


def _boxes(rng: Random) -> Problem:
    who, what, a, b = rng.choice(NAMES), rng.choice(COUNTABLES), rng.randint(2, 12), rng.randint(2, 12)
    question = f"{who} has {a} boxes with {b} {what} in each box. How many {what} are there?"
    return Problem(question, f"There are {a} boxes with {b} {what} each.", Sum(a, "*", b))


_PROBLEMS: tuple[Callable[[Random], Problem], ...] = (_gain, _loss, _boxes)


def draw_problem(rng: Random) -> Problem:
    return rng.choice(_PROBLEMS)(rng)


def problem_chat(rng: Random) -> Document:
    problem = draw_problem(rng)
    return chat(problem.question, f"{problem.solution} The answer is {problem.exercise.result}.")


def problem_shots(rng: Random) -> Document:
    pieces: list[str] = []
    lead = ""
    for _ in range(rng.choice((1, 2, 3))):
        problem = draw_problem(rng)
        pieces += [
            f"{lead}Question: {problem.question}\nAnswer:",
            f" {problem.solution} The answer is {problem.exercise.result}.\n",
        ]
        lead = "\n"
    return plain(*pieces)


def number_chat(rng: Random) -> Document:
    """Comparing and counting."""
    a, b = rng.sample(range(100), 2)
    match rng.randrange(4):
        case 0:
            return chat(
                f"Is {a} greater than {b}?", f"Yes, {a} is greater than {b}." if a > b else f"No, {a} is less than {b}."
            )
        case 1:
            return chat(f"Which number is larger, {a} or {b}?", f"{max(a, b)} is larger than {min(a, b)}.")
        case 2:
            start, steps = rng.randint(1, 30), rng.randint(2, 9)
            return chat(f"Count from {start} to {start + steps}.", ", ".join(map(str, range(start, start + steps + 1))))
        case _:
            return chat(f"What number comes after {a}?", f"{a + 1} comes after {a}.")
