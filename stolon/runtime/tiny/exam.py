"""The held-out exam: wordings, names and subjects that the corpus never uses, and how each answer is judged."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

from . import corpus_json, corpus_labels, corpus_sums, corpus_talk, corpus_tools, corpus_world
from .ask import capital_letter
from .corpus_sums import Sum
from .dialog import TURN_START, ToolSpec, chat, tool_call_text, tool_system_text, written
from .facts import COUNTRIES, FACTS, Country
from .texts import ESSAYS, TIPS
from .unknown import SORRY
from .words import COUNTABLES, EXAM_NAMES, JOBS, NAMES, NUMBER_WORDS, THINGS, WEATHER

SYSTEM = "You are a helpful assistant."
UNSEEN_SUBJECTS = (
    "the violin maker", "a submarine", "crystals", "the Vikings", "tornadoes", "cryptography", "beavers", "knitwear",
    "Shakespeare's sister", "ice hockey", "a microwave oven", "tax law", "the Ottoman Empire", "hip hop", "fertilizer",
    "marathon training", "the stomach", "a telescope", "fractions", "bridges", "the London Underground", "perfume",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """A question with an open answer. `stop` ends the answer where the end token does not."""

    prompt: str
    is_right: Callable[[str], bool]
    max_tokens: int = 96
    stop: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A question answered by the likeliest option, by mean log-probability of its tokens."""

    prompt: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    items: Sequence[Item | Choice]


def ask(*turns: str, system: str = "") -> str:
    """The prompt for the next answer of the assistant."""
    shown = "".join(span.text for span in written(chat(*turns, system=system))[:-1])
    return f"{shown}{TURN_START}assistant\n"


def contains(wanted: str) -> Callable[[str], bool]:
    return lambda text: wanted in text


def equals(wanted: str) -> Callable[[str], bool]:
    return lambda text: text.strip() == wanted


def _json_of(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def equals_json(wanted: object) -> Callable[[str], bool]:
    return lambda text: _json_of(text) == wanted


def _has_keys(keys: list[str]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        value = _json_of(text)
        return isinstance(value, dict) and [*cast("dict[str, object]", value)] == keys

    return check


def _lists_sights(country: Country, count: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        lines = [re.sub(r"^\d\. ", "", line).lower() for line in text.strip().splitlines()]
        return len(set(lines)) == count and all(line in {s.lower() for s in country.sights} for line in lines)

    return check


def _geography(rng: Random) -> list[Task]:
    capitals: list[Item] = []
    sights: list[Item] = []
    seconds: list[Item] = []
    for country in COUNTRIES:
        for system, wording in zip(("", SYSTEM), corpus_world.CAPITAL.exam, strict=True):
            capitals.append(Item(ask(wording.format(c=country.phrase), system=system), contains(country.capital)))
        for wording in corpus_world.SIGHTS.exam:
            count = rng.choice((2, 3))
            follow_up = wording.format(n=NUMBER_WORDS[count], k=country.capital)
            question = corpus_world.CAPITAL.train[0].format(c=country.phrase)
            prompt = ask(question, corpus_world.capital_answer(country), follow_up, system=SYSTEM)
            sights.append(Item(prompt, _lists_sights(country, count)))
        other = rng.choice([c for c in COUNTRIES if c is not country])
        question = corpus_world.CAPITAL.exam[0].format(c=other.phrase)
        prompt = ask(question, corpus_world.capital_answer(other), f"And what about {country.phrase}?")
        seconds.append(Item(prompt, contains(country.capital)))
    details: list[Item] = []
    for country in rng.sample(COUNTRIES, 20):
        for wordings, wanted in (
            (corpus_world.LANGUAGE, country.languages),
            (corpus_world.CURRENCY, country.currency),
            (corpus_world.CONTINENT, country.continent),
        ):
            details.append(Item(ask(wordings.exam[0].format(c=country.phrase)), contains(wanted)))
    return [
        Task("capital", capitals),
        Task("sights after the capital, all right", sights),
        Task("capital of a second country", seconds),
        Task("language, currency, continent", details),
        Task("other facts", [Item(ask(fact.wordings[-1]), equals(fact.answer)) for fact in FACTS]),
    ]


def _readme() -> Task:
    """The first conversation of the README, with and without a system message."""
    question, answer = (
        "What is the capital of the United States?",
        "The capital of the United States is Washington, D.C.",
    )
    items: list[Item] = []
    for system in (SYSTEM, "", "You are a concise guide."):
        items.append(Item(ask(question, system=system), equals(answer)))
        prompt = ask(question, answer, "List two local attractions.", system=system)
        items.append(Item(prompt, equals("1. The White House\n2. The Lincoln Memorial")))
    return Task("README conversation, exact", items)


def _sums(rng: Random) -> list[Task]:
    tasks: list[Task] = []
    for name, sign, low, top in (
        ("addition, two digits", "+", 10, 99),
        ("subtraction, two digits", "-", 10, 99),
        ("addition and subtraction, one digit", "±", 0, 9),
        ("multiplication, to 12", "*", 0, 12),
    ):
        items: list[Item] = []
        for index in range(60):
            right, left = sorted((rng.randint(low, top), rng.randint(low, top)))
            exercise = Sum(left, rng.choice("+-") if sign == "±" else sign, right)
            question = exercise.asked(corpus_sums.EXAM_SUM_FORMS[index % 2])
            items.append(Item(ask(question), equals(f"{exercise} = {exercise.result}.")))
        tasks.append(Task(name, items))
    problems: list[Item] = []
    for _ in range(40):
        who, what, a, b = rng.choice(EXAM_NAMES), rng.choice(COUNTABLES), rng.randint(2, 60), rng.randint(2, 39)
        question = f"{who} has {a} {what} and gets {b} more. How many {what} does {who} have now?"
        problems.append(Item(ask(question), contains(f"The answer is {a + b}.")))
    return [*tasks, Task("word problem, unseen names", problems)]


def _labels(rng: Random) -> list[Task]:
    spoken: list[Item] = []
    chosen: list[Choice] = []
    for index in range(60):
        form = corpus_labels.REVIEW_FORMS.exam[index % 3]
        review, sentiment = corpus_labels.draw_review(rng, (form,))
        question = corpus_labels.SENTIMENT_QUESTIONS.exam[0].format(t=review)
        spoken.append(Item(ask(question), contains(sentiment)))
        options = tuple(f" {name}" for name in corpus_labels.SENTIMENTS)
        right = corpus_labels.SENTIMENTS.index(sentiment)
        chosen.append(Choice(f"A customer wrote: {review}\nSentiment:", options, right))
    letters: list[Choice] = []
    renamed: list[Choice] = []
    for _ in range(40):
        countries = rng.sample(COUNTRIES, 4)
        right = rng.randrange(4)
        listed = "\n".join(f"{letter}. {c.capital}" for letter, c in zip("ABCD", countries, strict=True))
        question = f"Which city is the capital of {countries[right].phrase}?\n{listed}\nAnswer:"
        letters.append(Choice(question, (" A", " B", " C", " D"), right))
        groups, labels = rng.sample(list(THINGS), 2), rng.sample(("left", "right", "alpha", "beta", "Paris", "tin"), 2)
        shots = [(rng.choice(THINGS[groups[kind]]), kind) for kind in (0, 1, 1, 0, 1, 0, rng.randrange(2))]
        shown = "".join(f"{word}: {labels[kind]}\n" for word, kind in shots[:-1])
        renamed.append(Choice(f"{shown}{shots[-1][0]}:", (f" {labels[0]}", f" {labels[1]}"), shots[-1][1]))
    return [
        Task("sentiment, spoken", spoken),
        Task("sentiment, by select", chosen),
        Task("multiple choice letter, by select", letters),
        Task("few-shot with new labels, by select", renamed),
    ]


def _json(rng: Random) -> list[Task]:
    objects: list[Item] = []
    extractions: dict[str, list[Item]] = {"known": [], "unseen": []}
    for index in range(40):
        kind, value = corpus_json.made_up_object(rng)
        order = corpus_json.OBJECT_ORDERS.exam[index % 2].format(x=kind, k=corpus_json.listed(rng, list(value)))
        objects.append(Item(ask(order), _has_keys(list(value)), max_tokens=120))
        known = "known" if index % 2 else "unseen"
        person = {
            "name": rng.choice(NAMES if index % 2 else EXAM_NAMES),
            "age": rng.randint(18, 80),
            "city": rng.choice(COUNTRIES).capital,
            "job": rng.choice(JOBS),
        }
        text = corpus_json.PERSON_TEXTS.exam[0].format(**person)
        order = corpus_json.EXTRACT_ORDERS.exam[0].format(k="name, age, city and job", t=text)
        extractions[known].append(Item(ask(order), equals_json(person), max_tokens=80))
    return [
        Task("JSON object, exactly the asked keys", objects),
        *(Task(f"JSON extraction of four values, {kind} names", items) for kind, items in extractions.items()),
    ]


def _tools(rng: Random) -> list[Task]:
    weather = ToolSpec("get_weather", "Get the weather of a city", (("city", "string"),))
    clock = ToolSpec("get_time", "Get the local time of a city", (("city", "string"),))
    calls: list[Item] = []
    replies: list[Item] = []
    for index in range(40):
        city, sky, degrees = rng.choice(COUNTRIES).capital, rng.choice(WEATHER), rng.randint(0, 35)
        tools = rng.sample((weather, clock), 2)
        system = tool_system_text(SYSTEM, tools)
        tool, wordings = (
            (weather, corpus_tools.WEATHER_QUESTIONS) if index % 2 else (clock, corpus_tools.TIME_QUESTIONS)
        )
        question, call = wordings.exam[0].format(k=city), tool_call_text(tool.name, {"city": city})
        calls.append(Item(ask(question, system=system), equals(call)))
        question = corpus_tools.WEATHER_QUESTIONS.exam[0].format(k=city)
        before = ask(question, tool_call_text("get_weather", {"city": city}), system=system)
        reply = json.dumps({"weather": sky, "temperature": degrees})
        prompt = (
            before.removesuffix(f"{TURN_START}assistant\n")
            + f"{TURN_START}tool\n{reply}<|im_end|>\n{TURN_START}assistant\n"
        )
        wanted = (sky, city, str(degrees))
        replies.append(Item(prompt, lambda text, wanted=wanted: all(part in text for part in wanted)))
    steps: list[Item] = []
    for _ in range(30):
        exercise = corpus_sums.draw_sum(rng)
        question = corpus_sums.EXAM_SUM_FORMS[0].format(a=exercise.left, o=exercise.sign, b=exercise.right)
        start = f"Question: {question}\nThought: I need to calculate {exercise}.\nAction:"
        steps.append(Item(start, equals(f"calculator[{exercise}]"), stop="\n"))
        seen = f"{start} calculator[{exercise}]\nObservation: {exercise.result}\nThought:"
        steps.append(Item(seen, equals(f"I know the answer: {exercise.result}"), stop="\n"))
    return [
        Task("tool call among two, exact", calls),
        Task("answer from the tool's reply", replies),
        Task("agent step: action, then answer", steps),
    ]


def _talk(rng: Random) -> list[Task]:
    names: dict[str, list[Item]] = {"known": [], "unseen": []}
    for index in range(48):
        known = "known" if index >= 24 else "unseen"
        name = rng.choice(NAMES) if index >= 24 else EXAM_NAMES[index % 12]
        color = rng.choice(THINGS["color"])
        turns = (
            corpus_talk.NAME_LINES.exam[0].format(n=name), f"Nice to meet you, {name}!",
            f"My favorite color is {color}.", f"{capital_letter(color)} is a nice color.",
            corpus_talk.NAME_QUESTIONS.exam[0],
        )  # fmt: skip
        names[known].append(Item(ask(*turns, system=SYSTEM if index % 2 else ""), contains(name)))
    unknown = [
        Item(ask(f"{lead} {subject}?"), equals(SORRY))
        for subject in UNSEEN_SUBJECTS
        for lead in ("Can you tell me something about", "How is it with")
    ]
    judged: list[Item] = []
    for topic, text in ESSAYS.items():
        words = text.split()
        rng.shuffle(words)
        for shown, good in ((text, True), (" ".join(words[:18]), False)):
            prompt = ask(f"Judge the originality of this text about {topic} from 1 to 10.\n{shown}")
            judged.append(Item(prompt, lambda reply, good=good: _score_fits(reply, good)))
    return [
        *(Task(f"name remembered, {kind} names", items) for kind, items in names.items()),
        Task("not known, unseen subjects", unknown),
        Task("judge: high or low score", judged),
    ]


def _score_fits(text: str, is_good: bool) -> bool:
    found = re.search(r"(\d+)\s*$", text.strip())
    return found is not None and (int(found.group(1)) >= 6) == is_good


def _tips(rng: Random) -> list[Task]:
    lists: list[Item] = []
    expansions: dict[int, list[Item]] = {1: [], 2: [], 3: []}
    forks: list[Item] = []
    for topic, tips in TIPS.items():
        titles = {tip.title for tip in tips}
        for index, count in enumerate((2, 3)):
            order = corpus_talk.TIP_ORDERS.exam[index].format(n=NUMBER_WORDS[count], t=topic)
            lists.append(Item(ask(order), _lists_tips(titles, count)))
        drawn = rng.sample(tips, 3)
        shown = corpus_talk.tip_list(topic, [tip.title for tip in drawn])
        for number, tip in enumerate(drawn, 1):
            order = corpus_talk.EXPAND_ORDERS.exam[number % 2].format(j=number)
            prompt = ask(f"Give me three tips for {topic}.", shown, order)
            expansions[number].append(Item(prompt, equals(corpus_talk.expanded(tip.title, tip))))
        pair = rng.sample(tips, 2)
        head = f"Here are two tips for {topic}: 1. {pair[0].noun}. 2. {pair[1].noun}.\n\n"
        for number, tip in enumerate(pair, 1):
            prompt = f"{head}Now expand tip {number} into a full paragraph:\n"
            forks.append(Item(prompt, contains(tip.text), stop="\n\n"))
    tasks = [Task(f"expanding tip {number} of 3", items) for number, items in expansions.items()]
    return [Task("tips for a topic", lists), *tasks, Task("fork: two tips in plain text", forks)]


def _lists_tips(titles: set[str], count: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        found = re.findall(r"^\d\. (.*)\.$", text, re.MULTILINE)
        return len(found) == len(set(found)) == count and set(found) <= titles

    return check


def _plain(rng: Random) -> list[Task]:
    shots: list[Item] = []
    for country in COUNTRIES:
        first, second = rng.sample([c for c in COUNTRIES if c is not country], 2)
        lead = "Here are short answers to questions.\n\n"
        shown = [
            f"Question: {corpus_world.CAPITAL.exam[0].format(c=c.phrase)}\nAnswer:" for c in (first, second, country)
        ]
        prompt = f"{lead}{shown[0]} {first.capital}\n\n{shown[1]} {second.capital}\n\n{shown[2]}"
        shots.append(Item(prompt, equals(country.capital), stop="\n"))
    tasks = [Task("few-shot capital, ends at the line", shots)]
    for count in (3, 6):
        items: list[Item] = []
        for _ in range(30):
            keys = rng.sample(NAMES, count)
            values = [str(rng.randrange(100, 1000)) for _ in keys]
            pick = rng.randrange(count)
            body = "\n".join(f"The room of {key} is {value}." for key, value in zip(keys, values, strict=True))
            items.append(Item(f"{body}\n\nThe room of {keys[pick]} is", contains(values[pick]), 6))
        tasks.append(Task(f"look-up by name among {count} lines", items))
    return tasks


def exam(seed: int = 99) -> list[Task]:
    rng = Random(seed)
    return [
        _readme(), *_geography(rng), *_sums(rng), *_labels(rng), *_json(rng), *_tools(rng), *_talk(rng), *_tips(rng),
        *_plain(rng),
    ]  # fmt: skip
