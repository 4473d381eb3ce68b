"""Documents that label or copy what they show: sentiment, word categories, lists, look-ups, questions on a text."""

import json
import re
from random import Random

from .ask import Wordings, article, capital_letter, numbered
from .dialog import Document, chat, plain
from .facts import COUNTRIES
from .words import (
    ADJECTIVES,
    ALL_THINGS,
    NAMES,
    NUMBER_WORDS,
    ORDINALS,
    REVIEWED,
    SYLLABLE_PARTS,
    SYSTEM_PROMPTS,
    THINGS,
    VERDICTS,
)

SENTIMENTS = ("positive", "negative", "neutral")
REVIEW_FORMS = Wordings(
    train=(
        "This {i} was {a}.", "The {i} was {a} and {b}.", "What a {a} {i}!", "{v}. The {i} was {a}.",
        "The {i} is {a}. {v}.", "{v}!", "{v}.", "I think the {i} is {a}.", "It was a {a} {i}.", "Such a {a} {i}.",
        "The {i} was really {a}.", "The {i} was so {a}!", "We had a {a} time at the {i}.", "The {i}? {A}.", "{A} {i}.",
        "My friends said the {i} was {a}.", "I found the {i} {a}.", "A {a} {i} with {b} people.", "{A}! {v}.",
        "I bought this {i} and it is {a}.", "For me the {i} was {a}, {b} even.", "Yesterday we tried the {i}. {v}.",
        "The {i} looks {a} and feels {b}.", "All in all a {a} {i}.", "{v}, the {i} is {a}.", "it was {a}",
    ),
    exam=(
        "Honestly, the {i} felt {a} to me.", "In my opinion this is a {a} {i}.",
        "The {i} turned out {a} in the end.",
    ),
)  # fmt: skip
SENTIMENT_QUESTIONS = Wordings(
    train=(
        "Is this review positive, negative or neutral?\n{t}", "Classify the sentiment of the review.\nReview: {t}",
        "What is the sentiment of this text? {t}", "Review: {t}\nSentiment (positive, negative, neutral):",
        "Classify as positive, negative or neutral: {t}", "Sentiment of this review: {t}",
        "What is the sentiment of this review?\n{t}", "Is the following text positive, negative or neutral?\nText: {t}",
        "Label the sentiment: {t}", "Read the review and give its sentiment.\nReview: {t}\nSentiment:",
    ),
    exam=("Tell me the sentiment of this review: {t}",),
)  # fmt: skip
_MODIFIERS = {
    "positive": ("very {}", "really {}", "absolutely {}", "{}", "{}", "{}"),
    "negative": ("very {}", "really {}", "absolutely {}", "{}", "{}", "{}", "not {good}"),
    "neutral": ("rather {}", "just {}", "{}", "{}", "{}"),
}


_ARTICLE = re.compile(r"\b([Aa]) ([aeiou])")


def adjective(rng: Random, sentiment: str) -> str:
    form = rng.choice(_MODIFIERS[sentiment])
    if "{good}" in form:
        return form.format(good=rng.choice(("good", "great", "nice", "worth it", "pleasant")))
    return form.format(rng.choice(ADJECTIVES[sentiment]))


def draw_review(rng: Random, forms: tuple[str, ...] = REVIEW_FORMS.train, sentiment: str = "") -> tuple[str, str]:
    """A review and its sentiment."""
    sentiment = sentiment or rng.choice(SENTIMENTS)
    a = adjective(rng, sentiment)
    values = {"a": a, "b": rng.choice(ADJECTIVES[sentiment]), "A": capital_letter(a), "i": rng.choice(REVIEWED)}
    text = rng.choice(forms).format(v=rng.choice(VERDICTS[sentiment]), **values)
    return _ARTICLE.sub(r"\1n \2", text), sentiment


def sentiment_chat(rng: Random) -> Document:
    turns: list[str] = []
    question = SENTIMENT_QUESTIONS.draw(rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        review, sentiment = draw_review(rng)
        turns += [question.format(t=review), sentiment]
    return chat(*turns, system=rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.4 else "")


_SHOT_FORMS = ("Review: {t}\nSentiment:", "Text: {t}\nLabel:", "Text: {t}\nSentiment:", "{t} =>", "Review: {t}\nLabel:")


def _shots(rng: Random, form: str, pairs: list[tuple[str, str]]) -> Document:
    gap = "\n" if rng.random() < 0.6 and "\n" in form else ""
    pieces: list[str] = []
    for index, (shown, label) in enumerate(pairs):
        pieces += [(gap if index else "") + form.format(t=shown), f" {label}\n"]
    return plain(*pieces)


def sentiment_shots(rng: Random) -> Document:
    pairs = [draw_review(rng) for _ in range(rng.randint(1, 6))]
    return _shots(rng, rng.choice(_SHOT_FORMS), pairs)


def _new_labels(rng: Random, count: int) -> list[str]:
    pool = rng.choice(
        (ALL_THINGS, tuple("ABCDEFGXYZ"), ("good", "bad", "up", "down", "yes", "no"), NAMES, NUMBER_WORDS)
    )
    return rng.sample(pool, count)


def renamed_shots(rng: Random) -> Document:
    """Labels that mean something else in every document: they must be read off the shots."""
    if rng.random() < 0.5:
        labels: dict[str, str] = dict(zip(("positive", "negative"), _new_labels(rng, 2), strict=True))
        pairs = [draw_review(rng, sentiment=rng.choice(("positive", "negative"))) for _ in range(rng.randint(4, 7))]
        return _shots(rng, rng.choice(_SHOT_FORMS), [(text, labels[kind]) for text, kind in pairs])
    groups = rng.sample(list(THINGS), 2)
    keep = rng.random() < 0.3
    labels = {group: group if keep else label for group, label in zip(groups, _new_labels(rng, 2), strict=True)}
    drawn = [rng.choice(groups) for _ in range(rng.randint(5, 10))]
    pairs = [(rng.choice(THINGS[group]), labels[group]) for group in drawn]
    return _shots(rng, rng.choice(("{t}:", "{t} ->", "Word: {t}\nCategory:", "Text: {t}\nLabel:")), pairs)


def category_choice(rng: Random) -> Document:
    """Which of these is a fruit: by letter or by name."""
    group = rng.choice(list(THINGS))
    options = [rng.choice(THINGS[other]) for other in rng.sample([g for g in THINGS if g != group], 3)]
    right = rng.randrange(4)
    options.insert(right, rng.choice(THINGS[group]))
    question = f"Which of these is {article(group)}"
    if rng.random() < 0.4:
        return chat(f"{question}: {', '.join(options)}?", f"{capital_letter(options[right])} is {article(group)}.")
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    letter = "ABCD"[right]
    if rng.random() < 0.5:
        return chat(f"{question}?\n{listed}\nAnswer:", letter)
    return plain(f"{question}?\n{listed}\nAnswer:", f" {letter}\n")


def made_up_word(rng: Random) -> str:
    onsets, vowels, codas = SYLLABLE_PARTS
    return "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas) for _ in range(rng.choice((1, 2, 2, 3))))


def draw_words(rng: Random, count: int) -> list[str]:
    """Words to copy: things, names, made-up words or numbers."""
    pool = rng.randrange(4)
    if pool == 0:
        return [made_up_word(rng) for _ in range(count)]
    if pool == 1:
        return [str(rng.randrange(10 ** rng.choice((1, 2, 3, 4)))) for _ in range(count)]
    return rng.sample(ALL_THINGS if pool == 2 else NAMES, count)


def copying(rng: Random) -> Document:
    count = rng.randint(2, 6)
    words = draw_words(rng, count)
    listed = ", ".join(words)
    match rng.randrange(7):
        case 0 | 1:
            form = rng.choice(("Repeat: {}", "Say this again: {}", "Repeat after me: {}", "Echo: {}"))
            return chat(form.format(" ".join(words)), " ".join(words))
        case 2:
            return chat(f"Write the list as JSON: {listed}", json.dumps(words))
        case 3:
            return chat(f"Make a numbered list of: {listed}", numbered(words))
        case 4:
            index = rng.randrange(count)
            return chat(
                f"Here is a list: {listed}. What is the {ORDINALS[index]} word?", capital_letter(words[index]) + "."
            )
        case 5:
            return plain(f"{listed}\n", f"{listed}\n")
        case _:
            return chat(f"How many words are in this list: {listed}?", f"There are {count} words.")


def lookup(rng: Random) -> Document:
    """Find the value of a key a few lines up."""
    count = rng.randint(2, 8)
    keys = rng.sample(ALL_THINGS if rng.random() < 0.5 else NAMES, count)
    values = [str(rng.randrange(10 ** rng.choice((1, 2, 3, 4)))) for _ in keys]
    form = rng.choice(("Line {k}: the content is {v}.", "{k}: {v}", "The number of {k} is {v}.", "{k} = {v}"))
    body = "\n".join(form.format(k=k, v=v) for k, v in zip(keys, values, strict=True))
    picks = rng.sample(range(count), min(count, rng.choice((1, 2, 3))))
    cut = form.index("{v}")
    if rng.random() < 0.6:
        pieces = [
            text for i in picks for text in (form[:cut].format(k=keys[i]).rstrip(), f" {values[i]}{form[cut + 3 :]}\n")
        ]
        return plain(f"Here is a list.\n{body}\nNow again.\n{pieces[0]}", *pieces[1:])
    turns = [
        text
        for i in picks
        for text in (f"What is the number of {keys[i]}?", f"The number of {keys[i]} is {values[i]}.")
    ]
    return chat(f"Here is a list.\n{body}\n{turns[0]}", *turns[1:])


def document_question(rng: Random) -> Document:
    """People, cities and animals in a few sentences, and questions about them."""
    people = rng.sample(NAMES, rng.randint(1, 4))
    cities = rng.sample([country.capital for country in COUNTRIES if "." not in country.capital], len(people))
    animals = rng.sample(THINGS["animal"], len(people))
    rows = list(zip(people, cities, animals, strict=True))
    body = "\n".join(f"{p} lives in {c} and has a {a}." for p, c, a in rows)
    turns: list[str] = []
    for person, city, animal in rng.choices(rows, k=rng.choice((1, 2))):
        turns += rng.choice((
            [f"Where does {person} live?", f"{person} lives in {city}."],
            [f"Which animal does {person} have?", f"{person} has a {animal}."],
            [f"Who lives in {city}?", f"{person} lives in {city}."],
        ))  # fmt: skip
    label = rng.choice(("Documents:\n{}\nQuestion: {}", "{}\n{}", "Text:\n{}\n\n{}", "Read this: {}\n{}"))
    return chat(label.format(body, turns[0]), *turns[1:])
