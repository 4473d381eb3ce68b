"""Models that think before they answer: what they think is told apart from what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands around a model's thoughts.

    begun: the prompt says `begin` already, so an answer starts inside the thoughts
    """

    begin: str = "<think>"
    end: str = "</think>"
    begun: bool = False


_THINK = Marks()
_BEGUN = Marks(begun=True)
_BY_MODEL: Mapping[str, Marks] = MappingProxyType(
    {
        "deepseek-r1": _BEGUN,
        "deepseek-v3": _THINK,
        "glm45": _THINK,
        "kimi": Marks("◁think▷", "◁/think▷"),
        "kimi_k2": _BEGUN,
        "magistral": Marks("[THINK]", "[/THINK]"),
        "minimax": _BEGUN,
        "mistral": Marks("[THINK]", "[/THINK]"),
        "nemotron_3": _THINK,
        "qwen3": _THINK,
        "qwen3-thinking": _BEGUN,
        "step3": _BEGUN,
    }
)


def marks_of(model_type: str | bool | None) -> Marks:
    """By the name that SGLang gives to a family of models; None and True are `<think>` and `</think>`."""
    if model_type is None or isinstance(model_type, bool):
        return _THINK
    found = _BY_MODEL.get(model_type.lower())
    if found is None:
        raise InvalidRequest(
            f"the reasoning of {model_type!r} is not known here; known are {', '.join(_BY_MODEL)}", param="model_type"
        )
    return found


class Splitter:
    """Tells thoughts from the answer while both arrive; what may be part of a mark is held back.

    must: an end of the thoughts has to come, because a form holds from there on
    """

    def __init__(self, marks: Marks, *, must: bool) -> None:
        self._marks = marks
        self._held = ""
        self._place = "thoughts" if marks.begun or must else "start"
        self._mark_may_come = True  # `begin`, which is no part of the thoughts
        self._said = False  # whether the answer has begun: white space before it is left out
        self.ended = False  # whether the end of the thoughts came

    def feed(self, text: str) -> tuple[str, str]:
        """What is new of the thoughts, and of the answer."""
        self._held += text
        if self._mark_may_come and not self._past_begin():
            return "", ""
        if self._place == "thoughts":
            return self._thoughts()
        return "", self._answer()

    def finish(self) -> tuple[str, str]:
        """What was held back at the end."""
        rest, self._held = self._held, ""
        if self._place == "thoughts":
            return rest, ""
        return "", rest if self._said else rest.lstrip()

    def _past_begin(self) -> bool:
        """Whether it is known if the text begins with the begin mark; the mark itself goes."""
        begin, text = self._marks.begin, self._held.lstrip()
        if len(text) < len(begin) and begin.startswith(text):
            return False
        self._mark_may_come = False
        if text.startswith(begin):
            self._held = text[len(begin) :]
            self._place = "thoughts"
        elif self._place == "start":
            self._place = "answer"
        return True

    def _thoughts(self) -> tuple[str, str]:
        thoughts, mark, rest = self._held.partition(self._marks.end)
        if mark:
            self._place, self._held, self.ended = "answer", rest, True
            return thoughts, self._answer()
        keep = _overlap(self._held, self._marks.end)
        told, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return told, ""

    def _answer(self) -> str:
        text = self._held if self._said else self._held.lstrip()
        self._held = ""
        self._said = self._said or bool(text)
        return text


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` begin `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)


def split(text: str, marks: Marks, *, must: bool) -> tuple[str, str, bool]:
    """Thoughts and answer of a whole text, and whether the thoughts had an end."""
    splitter = Splitter(marks, must=must)
    thoughts, answer = splitter.feed(text)
    more, rest = splitter.finish()
    return (thoughts + more).strip(), answer + rest, splitter.ended
