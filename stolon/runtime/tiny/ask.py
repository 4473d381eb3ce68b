"""How people ask: wordings with some held out for the exam, polite and careless variants."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Wordings:
    """Ways to ask the same; `exam` is never used in training."""

    train: tuple[str, ...]
    exam: tuple[str, ...] = ()

    def draw(self, rng: Random) -> str:
        return rng.choice(self.train)


_POLITE = (
    "Please {0}.", "Can you {0}?", "Could you {0}?", "{1}, please.", "I want you to {0}.", "Could you please {0}?",
    "I would like you to {0}.", "Help me: {0}.", "Now {0}.", "Hi, can you {0}?", "Would you {0}?",
)  # fmt: skip
_OPENERS = ("Hi! ", "Hello. ", "Hey, ", "Ok. ", "I have a question. ", "Tell me: ", "One more thing: ", "And ")


def capital_letter(text: str) -> str:
    return text[:1].upper() + text[1:]


def politely(rng: Random, order: str) -> str:
    """Vary an order such as "List two sights." now and then."""
    if rng.random() < 0.55 or not order.endswith("."):
        return order
    bare = order[:-1]
    return rng.choice(_POLITE).format(bare[0].lower() + bare[1:], bare)


def casually(rng: Random, question: str) -> str:
    """Add an opener, or drop the capital letter or the end mark, now and then."""
    roll = rng.random()
    if roll < 0.8:
        return question
    if roll < 0.88:
        opener = rng.choice(_OPENERS)
        return opener + (question if opener.endswith((". ", "! ")) else question[0].lower() + question[1:])
    if roll < 0.94:
        return question[0].lower() + question[1:]
    return question.rstrip("?.") if "\n" not in question else question


def ended(sentence: str) -> str:
    """Close a sentence with one full stop, also after "D.C."."""
    return sentence if sentence.endswith(".") else sentence + "."


def numbered(items: list[str]) -> str:
    return "\n".join(f"{index}. {item}" for index, item in enumerate(items, 1))


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
