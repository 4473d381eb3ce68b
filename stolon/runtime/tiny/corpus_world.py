"""Documents about countries and other facts: questions, follow-ups, few-shot texts, multiple choice, true or false."""

from random import Random

from .ask import Wordings, capital_letter, casually, ended, numbered, politely
from .dialog import Document, chat, plain
from .facts import COUNTRIES, FACTS, MORE_COUNTRIES, Country
from .words import NUMBER_WORDS, SYSTEM_PROMPTS

CAPITAL = Wordings(
    train=(
        "What is the capital of {c}?", "What is the capital of {c}?", "Name the capital of {c}.",
        "What's the capital city of {c}?", "Which city is the capital of {c}?", "Tell me the capital of {c}.",
        "capital of {c}?", "Do you know the capital of {c}?", "I need the capital of {c}.", "What is {c}'s capital?",
        "What is the capital city of {c}?", "Can you name the capital of {c}?", "Which city is {c}'s capital?",
        "What is the name of the capital of {c}?", "{c}: which capital?",
    ),
    exam=("Can you tell me which city is the capital of {c}?", "Please give me the name of {c}'s capital."),
)  # fmt: skip
SIGHTS = Wordings(
    train=(
        "List {n} local attractions.", "List {n} local attractions.", "Name {n} attractions there.",
        "Tell me {n} places to visit there.", "Give me {n} sights in that city.", "List {n} things to see there.",
        "What are {n} attractions in {k}?", "List {n} attractions in {k}.", "Name {n} sights to see in {k}.",
        "What can I see there? Name {n} places.", "Give me {n} tourist attractions.", "Suggest {n} sights in {k}.",
        "What are {n} famous places there?", "Which {n} attractions are there?", "Recommend {n} places there.",
        "Show me {n} landmarks of {k}.", "What should I visit there? List {n}.", "Name {n} landmarks.",
        "List {n} famous sights of the city.", "Which {n} sights should I see in {k}?", "Name {n} local sights.",
        "List {n} tourist spots in {k}.", "Could you name {n} tourist spots?", "Which {n} places are worth a visit?",
    ),
    exam=("Could you list {n} tourist spots there?", "Which {n} places should I visit in {k}?"),
)  # fmt: skip
LANGUAGE = Wordings(
    train=(
        "What language is spoken in {c}?", "Which language do people speak in {c}?",
        "What language do they speak in {c}?", "What is the language of {c}?", "Which languages are spoken in {c}?",
    ),
    exam=("Name the language of {c}.",),
)  # fmt: skip
CURRENCY = Wordings(
    train=(
        "What is the currency of {c}?", "Which currency is used in {c}?", "What money do they use in {c}?",
        "What currency does {c} use?", "How do people pay in {c}?",
    ),
    exam=("Name the currency of {c}.",),
)  # fmt: skip
CONTINENT = Wordings(
    train=(
        "On which continent is {c}?", "Which continent is {c} in?", "Where is {c}?", "What continent is {c} on?",
        "Where is {c} located?", "In which part of the world is {c}?",
    ),
    exam=("Name the continent of {c}.",),
)  # fmt: skip
_NEXT_COUNTRY = (
    "And of {c}?",
    "What about {c}?",
    "And the capital of {c}?",
    "And {c}?",
    "And for {c}?",
    "How about {c}?",
)
_THERE = {"language": "What language do they speak there?", "currency": "What money do they use there?"}


def capital_answer(country: Country) -> str:
    return ended(f"The capital of {country.phrase} is {country.capital}")


def sights_answer(country: Country, count: int) -> str:
    """The first sights of the table, always in its order: one right answer is learnt faster than many."""
    if not country.sights:
        return f"I am sorry, I do not know the sights of {country.capital}."
    return numbered([capital_letter(sight) for sight in country.sights[:count]])


def draw_country(rng: Random) -> Country:
    return rng.choice(COUNTRIES) if rng.random() < 0.85 else rng.choice(MORE_COUNTRIES)


def _capital_turn(rng: Random, country: Country) -> list[str]:
    question = casually(rng, CAPITAL.draw(rng).format(c=country.phrase))
    return [capital_letter(question) if rng.random() < 0.9 else question, capital_answer(country)]


def _sights_turn(rng: Random, country: Country) -> list[str]:
    count = rng.choice((1, 2, 2, 2, 3, 3, 4))
    digits_or_word = NUMBER_WORDS[count] if rng.random() < 0.8 else str(count)
    order = politely(rng, SIGHTS.draw(rng).format(n=digits_or_word, k=country.capital))
    turns = [casually(rng, order), sights_answer(country, count)]
    if country.sights and count < 4 and rng.random() < 0.12:
        another = rng.choice(("Name another one.", "One more, please.", "And another?", "Tell me one more."))
        turns += [another, ended(capital_letter(country.sights[count]))]
    return turns


def _detail_turn(rng: Random, country: Country, *, follows: bool) -> list[str]:
    """A detail of the country; if the country was named before, "there" may stand for it."""
    kind = rng.choice(("language", "currency", "continent"))
    there = follows and kind in _THERE and rng.random() < 0.4
    if kind == "continent" or not country.languages:
        return [
            casually(rng, CONTINENT.draw(rng).format(c=country.phrase)),
            f"{capital_letter(country.phrase)} is in {country.continent}.",
        ]
    if kind == "language":
        question = _THERE[kind] if there else LANGUAGE.draw(rng).format(c=country.phrase)
        return [casually(rng, question), f"People in {country.phrase} speak {country.languages}."]
    question = _THERE[kind] if there else CURRENCY.draw(rng).format(c=country.phrase)
    return [casually(rng, question), f"The currency of {country.phrase} is the {country.currency}."]


def country_chat(rng: Random) -> Document:
    """A capital, then sights or details, then perhaps another country."""
    country = draw_country(rng)
    turns = _capital_turn(rng, country)
    roll = rng.random()
    if roll < 0.55:
        turns += _sights_turn(rng, country)
    elif roll < 0.75:
        turns += _detail_turn(rng, country, follows=True)
    if rng.random() < 0.3:
        other = draw_country(rng)
        again = rng.choice(_NEXT_COUNTRY).format(c=other.phrase)
        turns += [again, capital_answer(other)] if rng.random() < 0.5 else _capital_turn(rng, other)
        if rng.random() < 0.5:
            turns += _sights_turn(rng, other)
    return chat(*turns, system=rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.6 else "")


def sights_chat(rng: Random) -> Document:
    """Sights or details asked straight away."""
    country = rng.choice(COUNTRIES)
    if rng.random() < 0.5:
        turns = _detail_turn(rng, country, follows=False)
    else:
        count = rng.choice((1, 2, 2, 3, 4))
        wording = rng.choice([text for text in SIGHTS.train if "{k}" in text])
        question = politely(rng, wording.format(n=NUMBER_WORDS[count], k=country.capital))
        turns = [casually(rng, question), sights_answer(country, count)]
    return chat(*turns, system=rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.5 else "")


_SHOT_FORMS = (
    ("Question: What is the capital of {p}?\nAnswer:", " {k}\n", "\n"),
    ("Question: What is the capital of {p}?\nAnswer:", " {k}\n", ""),
    ("Q: What is the capital of {p}?\nA:", " {k}\n", ""),
    ("Q: What is the capital of {p}?\nA:", " {k}\n", "\n"),
    ("The capital of {p} is", " {k}.\n", ""),
    ("{c} ->", " {k}\n", ""),
    ("{c}:", " {k}\n", ""),
    ("Country: {c}\nCapital:", " {k}\n", "\n"),
    ("Question: On which continent is {p}?\nAnswer:", " {o}\n", "\n"),
    ("Q: On which continent is {p}?\nA:", " {o}\n", ""),
    ("Question: Name one sight of {k}.\nAnswer:", " {s}\n", "\n"),
)
_SHOT_HEADERS = (
    "", "", "", "The following are questions with answers.\n\n", "Answer the questions.\n\n",
    "Here are some questions and answers.\n\n",
)  # fmt: skip


def country_shots(rng: Random) -> Document:
    """Few-shot text: the question form of the first shot is kept."""
    question, answer, gap = rng.choice(_SHOT_FORMS)
    pieces: list[str] = []
    lead = rng.choice(_SHOT_HEADERS)
    for _ in range(rng.choice((1, 1, 2, 3, 4, 5))):
        country = rng.choice(COUNTRIES)
        values = {"p": country.phrase, "c": country.name, "k": country.capital, "o": country.continent}
        values["s"] = capital_letter(country.sights[0])
        pieces += [lead + question.format(**values), ended_line(answer.format(**values))]
        lead = gap
    return plain(*pieces)


def ended_line(text: str) -> str:
    return text.replace("..", ".")


def fact_chat(rng: Random) -> Document:
    turns: list[str] = []
    for fact in rng.sample(FACTS, rng.choice((1, 1, 2))):
        turns += [casually(rng, rng.choice(fact.wordings[:-1])), fact.answer]
    return chat(*turns, system=rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.4 else "")


def fact_shots(rng: Random) -> Document:
    """Mixed questions in one few-shot text, answered in a word."""
    question, gap = rng.choice((("Q: {q}\nA:", ""), ("Question: {q}\nAnswer:", "\n"), ("Question: {q}\nAnswer:", "")))
    pieces: list[str] = []
    lead = rng.choice(_SHOT_HEADERS)
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        if rng.random() < 0.4:
            country = draw_country(rng)
            asked, short = f"What is the capital of {country.phrase}?", country.capital
        else:
            fact = rng.choice(FACTS)
            asked, short = rng.choice(fact.wordings[:-1]), fact.short
        pieces += [lead + question.format(q=asked), f" {short}\n"]
        lead = gap
    return plain(*pieces)


def capital_choice(rng: Random) -> Document:
    """Multiple choice with letters, in a chat or as plain text."""
    options = rng.sample(COUNTRIES, 4)
    right = rng.randrange(4)
    listed = "\n".join(f"{letter}. {option.capital}" for letter, option in zip("ABCD", options, strict=True))
    question = f"{CAPITAL.train[0].format(c=options[right].phrase)}\n{listed}\nAnswer:"
    if rng.random() < 0.5:
        return chat(question, "ABCD"[right])
    return plain(question, f" {'ABCD'[right]}\n")


_TRUTH_TASK = "Determine whether the statement below is True, False, or Unknown.\n"


def truth(rng: Random) -> Document:
    """Is this the capital of that: yes or no in a chat, True or False in plain text."""
    country = rng.choice(COUNTRIES)
    other = country if rng.random() < 0.5 else rng.choice(COUNTRIES)
    is_right = other is country
    if rng.random() < 0.5:
        question = rng.choice(("Is {k} the capital of {c}?", "Is the capital of {c} {k}?"))
        answer = "Yes, it is." if is_right else f"No. {capital_answer(country)}"
        return chat(casually(rng, question.format(k=other.capital, c=country.phrase)), answer)
    claim = ended(f"The capital of {country.phrase} is {other.capital}")
    shot = f"Statement: {capital_answer(other)}\nAnswer: True\n" if rng.random() < 0.5 else ""
    return plain(f"{_TRUTH_TASK if rng.random() < 0.7 else ''}{shot}Statement: {claim}\nAnswer:", f" {is_right}\n")
