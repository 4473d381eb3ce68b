"""Documents whose answer is JSON: objects with asked keys, extraction from a text, character sheets, cities."""

import json
from collections.abc import Callable, Mapping
from random import Random

from .ask import Wordings, casually, politely
from .corpus_labels import draw_review, draw_words, made_up_word
from .dialog import Document, chat, plain
from .facts import COUNTRIES, Country
from .words import CLASSES, HEROES, HOBBIES, HOMES, JOBS, NAMES, PRODUCTS, RACES, SYSTEM_PROMPTS, THINGS

Value = str | int | float | bool | list[str]

_TITLES = ("The Lost Key", "Night Train", "Blue Harbor", "The Last Garden", "Silent River", "A Winter Letter")
_DATES = ("2024-01-15", "2024-05-03", "2025-03-21", "2025-07-30", "2025-12-24", "2026-02-11")
VALUES: Mapping[str, Callable[[Random], Value]] = {
    "name": lambda rng: rng.choice(NAMES),
    "age": lambda rng: rng.randint(18, 80),
    "city": lambda rng: rng.choice(COUNTRIES).capital,
    "country": lambda rng: rng.choice(COUNTRIES).name,
    "job": lambda rng: rng.choice(JOBS),
    "hobby": lambda rng: rng.choice(HOBBIES),
    "color": lambda rng: rng.choice(THINGS["color"]),
    "animal": lambda rng: rng.choice(THINGS["animal"]),
    "fruit": lambda rng: rng.choice(THINGS["fruit"]),
    "product": lambda rng: rng.choice(PRODUCTS),
    "price": lambda rng: rng.randint(1, 200),
    "quantity": lambda rng: rng.randint(1, 20),
    "in_stock": lambda rng: rng.random() < 0.5,
    "size": lambda rng: rng.choice(("small", "medium", "large")),
    "title": lambda rng: rng.choice(_TITLES),
    "author": lambda rng: f"{rng.choice(NAMES)} {rng.choice(('Smith', 'Brown', 'Miller', 'Garcia', 'Novak', 'Rossi'))}",
    "year": lambda rng: rng.randint(1950, 2025),
    "date": lambda rng: rng.choice(_DATES),
    "rating": lambda rng: rng.randint(1, 5),
    "score": lambda rng: rng.randint(1, 10),
    "active": lambda rng: rng.random() < 0.5,
    "email": lambda rng: f"{rng.choice(NAMES).lower()}@example.com",
    "language": lambda rng: rng.choice(("English", "French", "German", "Spanish", "Japanese")),
    "tags": lambda rng: rng.sample(("new", "sale", "home", "travel", "food", "music"), 2),
    "level": lambda rng: rng.randint(1, 20),
    "sentiment": lambda rng: rng.choice(("positive", "negative", "neutral")),
}
KINDS: Mapping[str, tuple[str, ...]] = {
    "a person": ("name", "age", "city", "country", "job", "hobby", "email", "language", "active"),
    "a user": ("name", "age", "email", "country", "active", "language", "level"),
    "a product": ("product", "price", "color", "size", "quantity", "in_stock", "rating", "tags"),
    "a book": ("title", "author", "year", "rating", "price", "language", "tags"),
    "a movie": ("title", "year", "rating", "country", "language", "score"),
    "a pet": ("name", "animal", "age", "color", "size"),
    "an order": ("name", "product", "quantity", "price", "date", "city"),
    "an event": ("title", "date", "city", "country", "quantity"),
}
JSON_TYPES: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}
OBJECT_ORDERS = Wordings(
    train=(
        "Write a JSON object for {x} with the keys {k}.", "Give me a JSON object with the keys {k}.",
        "Write a small JSON object for {x}. Keys: {k}.", "Create JSON for {x} with the fields {k}.",
        "Return a JSON object about {x}. Fields: {k}.", "Make up {x} as JSON with the keys {k}.",
        "Describe {x} as JSON with {k}.", "Answer with a JSON object that has the keys {k}.",
        "I need {x} in JSON. Use the fields {k}.", "Output JSON for {x}: {k}.", "Make a JSON object: {k}.",
    ),
    exam=("Produce a JSON object for {x} having the keys {k}.", "Generate {x} in JSON format with the fields {k}."),
)  # fmt: skip


def dumped(rng: Random, value: Mapping[str, Value]) -> str:
    """On one line in nine of ten cases: one right form is learnt faster than many."""
    roll = rng.random()
    return json.dumps(value, indent=2 if roll < 0.05 else 4 if roll < 0.1 else None)


def listed(rng: Random, keys: list[str]) -> str:
    if len(keys) > 1 and rng.random() < 0.6:
        return ", ".join(keys[:-1]) + " and " + keys[-1]
    return ", ".join(keys)


def schema_of(value: Mapping[str, Value]) -> str:
    properties = {key: {"type": JSON_TYPES[type(item)]} for key, item in value.items()}
    return json.dumps({"type": "object", "properties": properties, "required": list(value)})


def made_up_object(rng: Random) -> tuple[str, dict[str, Value]]:
    kind = rng.choice(list(KINDS))
    pool = KINDS[kind] if rng.random() < 0.7 else tuple(VALUES)
    keys = rng.sample(pool, rng.randint(1, min(5, len(pool))))
    if rng.random() < 0.5:
        keys.sort(key=pool.index)
    return kind, {key: VALUES[key](rng) for key in keys}


def object_chat(rng: Random) -> Document:
    kind, value = made_up_object(rng)
    if rng.random() < 0.15:
        value = {made_up_word(rng) if rng.random() < 0.5 else key: item for key, item in value.items()}
    if rng.random() < 0.12:
        order = f"Return JSON for {kind} that follows this schema: {schema_of(value)}"
    else:
        order = politely(rng, OBJECT_ORDERS.draw(rng).format(x=kind, k=listed(rng, list(value))))
    return chat(order, dumped(rng, value), system=rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.4 else "")


def hero(rng: Random) -> dict[str, Value]:
    title = rng.choice(list(CLASSES))
    fitting = CLASSES[title]
    return {
        "name": rng.choice(HEROES) if rng.random() < 0.7 else made_up_word(rng).capitalize(),
        "race": rng.choice(RACES),
        "class": title,
        "level": rng.randint(1, 20),
        "hp": rng.randint(*fitting.hit_points),
        "weapon": fitting.weapon,
        "skill": fitting.skill,
        "home": rng.choice(HOMES),
        "alive": rng.random() < 0.8,
    }


_HERO_ORDERS = (
    "Make a character sheet in JSON for {n}.", "Create a fantasy character named {n} as JSON.",
    "{n} is a character in a fantasy game. Please fill in the following information about this character.",
    "Write a JSON character sheet for {n}.", "Generate a JSON profile of the hero {n}.",
)  # fmt: skip


def hero_sheet(rng: Random) -> Document:
    full = hero(rng)
    keys = ["name", *(key for key in full if key != "name" and rng.random() < 0.55)]
    order = rng.choice(_HERO_ORDERS).format(n=full["name"])
    if rng.random() < 0.85:
        order += " " + rng.choice(("Fields: ", "Keys: ", "Use the fields ")) + ", ".join(keys) + "."
    else:
        keys = list(full)
    sheet = {key: full[key] for key in keys}
    if rng.random() < 0.25:
        return plain(f"{order}\n", json.dumps(sheet, indent=rng.choice((None, 4))) + "\n")
    return chat(order, dumped(rng, sheet))


def hero_extraction(rng: Random) -> Document:
    full = hero(rng)
    text = f"{full['name']} is a level {full['level']} {full['race']} {full['class']} from {full['home']}."
    keys = [key for key in ("name", "race", "class", "level", "home", "weapon") if key == "name" or rng.random() < 0.8]
    order = f"Extract the character as JSON with the fields {', '.join(keys)}.\nText: {text}"
    return chat(order, dumped(rng, {key: full[key] for key in keys}))


def city_object(country: Country) -> dict[str, Value]:
    return {
        "name": country.capital,
        "country": country.name,
        "continent": country.continent,
        "language": country.languages,
        "currency": country.currency,
        "landmarks": list(country.sights[:2]),
    }


def city_text(rng: Random, country: Country) -> str:
    rest = [
        f"It is in {country.continent}.",
        f"People speak {country.languages}.",
        f"The currency is the {country.currency}.",
        f"Visitors go to {country.sights[0]} and {country.sights[1]}.",
    ]
    rng.shuffle(rest)
    return f"{country.capital} is the capital of {country.phrase}. " + " ".join(rest)


_CITY_ORDERS = (
    "Give me the information of the capital of {p} in JSON.", "Describe {k} as JSON.", "Write a JSON object about {k}.",
    "Give me information about the city {k} in the JSON format.", "Write a JSON object for the city {k}.",
    "Generate a JSON object to describe the basic information of the city {k}.",
)  # fmt: skip


def city_sheet(rng: Random) -> Document:
    """From what the model knows, or from a page that says it."""
    country = rng.choice(COUNTRIES)
    full = city_object(country)
    keys = [key for key in full if key == "name" or rng.random() < 0.6]
    value = {key: full[key] for key in keys}
    if rng.random() < 0.6:
        order = casually(rng, rng.choice(_CITY_ORDERS).format(p=country.phrase, k=country.capital))
        if rng.random() < 0.7:
            order += rng.choice((" Fields: ", " Keys: ")) + ", ".join(keys) + "."
        else:
            value = {key: full[key] for key in ("name", "country", "continent")}
        return chat(order, dumped(rng, value))
    order = "Please extract the information of a city from the following page."
    page = f"{order}\nPage begin.\n{city_text(rng, country)}\nPage end.\n"
    if rng.random() < 0.4:
        return plain(page + "Here is the information of the city in JSON format.\n", json.dumps(value, indent=4) + "\n")
    return chat(f"{page}Fields: {', '.join(keys)}.", dumped(rng, value))


PERSON_TEXTS = Wordings(
    train=(
        "{name} is {age} years old, lives in {city} and works as a {job}.",
        "My friend {name}, a {job} from {city}, is {age}.", "{name} ({age}) is a {job} in {city}.",
        "In {city} lives {name}, who is {age} and a {job}.", "{name} is a {job}. {name} is {age} and lives in {city}.",
        "At {age}, {name} moved to {city} to work as a {job}.", "The {job} {name} from {city} is {age} years old.",
    ),
    exam=("I met {name} in {city}, a {job} of {age} years.",),
)  # fmt: skip
EXTRACT_ORDERS = Wordings(
    train=(
        "Extract {k} as JSON.\n{t}", "Extract the {k} from this text as JSON: {t}", "Return JSON with {k}.\nText: {t}",
        "Text: {t}\nGive me {k} as JSON.", "Read the text and answer in JSON with the keys {k}.\n{t}",
    ),
    exam=("Pull out {k} from the text below, as JSON.\n{t}",),
)  # fmt: skip


def draw_person(rng: Random) -> dict[str, Value]:
    name = rng.choice(NAMES) if rng.random() < 0.6 else made_up_word(rng).capitalize()
    city = rng.choice(COUNTRIES).capital if rng.random() < 0.7 else made_up_word(rng).capitalize()
    return {"name": name, "age": rng.randint(18, 80), "city": city, "job": rng.choice(JOBS)}


def extraction(rng: Random) -> Document:
    person = draw_person(rng)
    keys = [key for key in person if rng.random() < 0.8] or ["name"]
    if rng.random() < 0.3:
        rng.shuffle(keys)
    value = {key: person[key] for key in keys}
    text = PERSON_TEXTS.draw(rng).format(**person)
    if rng.random() < 0.15:
        order = f"Return JSON that follows this schema: {schema_of(value)}\n{text}"
    else:
        order = EXTRACT_ORDERS.draw(rng).format(k=listed(rng, keys), t=text)
    return chat(order, dumped(rng, value), system=rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.3 else "")


def small_json(rng: Random) -> Document:
    """Orders, reviews and lists as JSON."""
    match rng.randrange(3):
        case 0:
            who, what, count = rng.choice(NAMES), rng.choice(PRODUCTS), rng.randint(1, 20)
            text = rng.choice(
                (
                    "{n} orders {c} of the item {p}.",
                    "Order from {n}: {c} x {p}.",
                    "{n} wants to buy the {p}, quantity {c}.",
                )
            )
            value: dict[str, Value] = {"name": who, "product": what, "quantity": count}
            order = f"Extract name, product and quantity as JSON.\n{text.format(n=who, c=count, p=what)}"
            return chat(order, dumped(rng, value))
        case 1:
            review, sentiment = draw_review(rng)
            order = rng.choice(
                (
                    "Return the sentiment of this review as JSON.\n{}",
                    "Classify this review as JSON with the key sentiment: {}",
                )
            )
            return chat(order.format(review), json.dumps({"sentiment": sentiment}))
        case _:
            words = draw_words(rng, rng.randint(2, 4))
            order = rng.choice(
                ("Write a JSON object with the key items and the list {}.", "Put these items into JSON under items: {}")
            )
            return chat(order.format(", ".join(words)), json.dumps({"items": words}))
