"""Documents that use tools: calls in the chat format, step-by-step agents, choosing a tool."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .ask import Wordings, casually
from .corpus_labels import made_up_word
from .corpus_sums import draw_problem, draw_sum
from .dialog import Chat, Document, Message, ToolSpec, chat, plain, tool_call_text, tool_system_text
from .facts import COUNTRIES
from .words import NAMES, PRODUCTS, WEATHER

WEATHER_QUESTIONS = Wordings(
    train=(
        "What is the weather in {k}?", "How is the weather in {k} today?", "Is it raining in {k}?", "Weather in {k}?",
        "What is the weather like in {k}?", "Tell me the weather in {k}.", "Is it cold in {k}?",
        "Do I need an umbrella in {k}?",
    ),
    exam=("How warm is it in {k} right now?",),
)  # fmt: skip
TIME_QUESTIONS = Wordings(
    train=("What time is it in {k}?", "Tell me the time in {k}.", "What is the local time in {k}?", "Time in {k}?"),
    exam=("Can you check what time it is in {k}?",),
)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call with its question, the tool's reply and what the assistant says then."""

    tool: ToolSpec
    question: str
    arguments: dict[str, object]
    reply: str
    answer: str


def _city(rng: Random) -> str:
    return made_up_word(rng).capitalize() if rng.random() < 0.2 else rng.choice(COUNTRIES).capital


def _weather(rng: Random) -> ToolUse:
    city, sky, degrees = _city(rng), rng.choice(WEATHER), rng.randint(0, 35)
    name = rng.choice(("get_weather", "get_weather", "get_current_weather", "weather"))
    key = rng.choice(("city", "city", "location"))
    tool = ToolSpec(name, "Get the weather of a city", ((key, "string"),))
    reply, answer = rng.choice((
        (json.dumps({"weather": sky, "temperature": degrees}), f"It is {sky} in {city} and {degrees} degrees."),
        (f"{sky}, {degrees} degrees", f"It is {sky} in {city} and {degrees} degrees."),
        (sky, f"It is {sky} in {city}."),
        (str(degrees), f"It is {degrees} degrees in {city}."),
    ))  # fmt: skip
    return ToolUse(tool, WEATHER_QUESTIONS.draw(rng).format(k=city), {key: city}, reply, answer)


def _time(rng: Random) -> ToolUse:
    city, clock = _city(rng), f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    key = rng.choice(("city", "city", "timezone", "location"))
    tool = ToolSpec(
        rng.choice(("get_time", "get_time", "current_time")), "Get the local time of a city", ((key, "string"),)
    )
    reply = clock if rng.random() < 0.5 else json.dumps({"time": clock})
    return ToolUse(tool, TIME_QUESTIONS.draw(rng).format(k=city), {key: city}, reply, f"It is {clock} in {city}.")


def _calculator(rng: Random) -> ToolUse:
    exercise = draw_sum(rng)
    tool = ToolSpec(
        rng.choice(("calculator", "calculator", "calculate")), "Evaluate an expression", (("expression", "string"),)
    )
    question = rng.choice(("What is {}?", "Use the calculator for {}.", "Calculate {}.", "How much is {}?")).format(
        exercise
    )
    answer = f"{exercise} = {exercise.result}."
    return ToolUse(tool, question, {"expression": str(exercise)}, str(exercise.result), answer)


def _addition(rng: Random) -> ToolUse:
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    name, word = rng.choice((("add", "Add"), ("multiply", "Multiply")))
    tool = ToolSpec(name, f"{word} two numbers", (("a", "integer"), ("b", "integer")))
    result = a + b if name == "add" else a * b
    return ToolUse(tool, f"{word} {a} and {b}.", {"a": a, "b": b}, str(result), f"The result is {result}.")


def _search(rng: Random) -> ToolUse:
    city, what = _city(rng), rng.choice(("hotels", "restaurants", "museums", "flights", "parks"))
    tool = ToolSpec(rng.choice(("search", "search", "web_search")), "Search the web", (("query", "string"),))
    question = rng.choice(("Search for {w} in {k}.", "Look up {w} in {k}.", "Find {w} in {k}.")).format(w=what, k=city)
    count = rng.randint(2, 90)
    return ToolUse(
        tool,
        question,
        {"query": f"{what} in {city}"},
        f"{count} results",
        f"I found {count} results for {what} in {city}.",
    )


def _email(rng: Random) -> ToolUse:
    who = rng.choice(NAMES) if rng.random() < 0.7 else made_up_word(rng).capitalize()
    about = rng.choice(("lunch", "the meeting", "the report", "tomorrow", "the party"))
    tool = ToolSpec("send_email", "Send an email", (("to", "string"), ("subject", "string")))
    question = rng.choice(("Send an email to {n} about {a}.", "Write {n} an email about {a}.")).format(n=who, a=about)
    return ToolUse(
        tool,
        question,
        {"to": who, "subject": about},
        rng.choice(("ok", "sent")),
        f"I sent an email to {who} about {about}.",
    )


def _price(rng: Random) -> ToolUse:
    what, price = rng.choice(PRODUCTS), rng.randint(5, 300)
    tool = ToolSpec(rng.choice(("get_price", "find_price")), "Get the price of a product", (("product", "string"),))
    question = rng.choice(("How much does the {p} cost?", "What is the price of the {p}?")).format(p=what)
    return ToolUse(tool, question, {"product": what}, str(price), f"The {what} costs {price} dollars.")


_USES: tuple[Callable[[Random], ToolUse], ...] = (
    _weather,
    _weather,
    _time,
    _calculator,
    _addition,
    _search,
    _email,
    _price,
)


def tool_chat(rng: Random) -> Document:
    """One call among one or two tools, mostly with the reply and the answer."""
    use = rng.choice(_USES)(rng)
    others = [other.tool for other in (rng.choice(_USES)(rng) for _ in range(rng.choice((0, 1, 1))))]
    tools = [use.tool, *(tool for tool in others if tool.description != use.tool.description)]
    rng.shuffle(tools)
    system = rng.choice(("", "", "You are a helpful assistant."))
    messages = [
        Message("system", tool_system_text(system, tools)),
        Message("user", casually(rng, use.question)),
        Message("assistant", tool_call_text(use.tool.name, use.arguments)),
    ]
    if rng.random() < 0.75:
        messages += [Message("tool", use.reply), Message("assistant", use.answer)]
    return Chat(tuple(messages))


def idle_tool_chat(rng: Random) -> Document:
    """Tools are offered, but the question needs none."""
    tools = [rng.choice(_USES)(rng).tool]
    country = rng.choice(COUNTRIES)
    question, answer = rng.choice((
        ("Hello!", "Hello! How can I help you?"),
        ("Thank you!", "You are welcome!"),
        ("Who are you?", "I am stolon's tiny model. I know countries, sums, JSON and tips."),
        (f"What language is spoken in {country.phrase}?", f"People in {country.phrase} speak {country.languages}."),
    ))  # fmt: skip
    return Chat(
        (Message("system", tool_system_text("", tools)), Message("user", question), Message("assistant", answer))
    )


AGENT_SYSTEM = (
    "Answer with steps. Use Action: calculator[...] or Action: search[...] when you need it and Action: finish[...] "
    "when you know the answer."
)
_CITY_STEP = "Question: In which country is {k}?\n"
_CAPITAL_STEP = "Question: What is the capital of {c}?\n"


def agent_steps(rng: Random) -> Document:
    """Question, Thought, Action, Observation, ... as plain text: the program fills in the observations."""
    roll = rng.random()
    if roll < 0.65:
        problem = draw_problem(rng) if rng.random() < 0.5 else None
        exercise = problem.exercise if problem else draw_sum(rng)
        asked = problem.question if problem else f"What is {exercise}?"
        question = f"Question: {asked}\n"
        thought, action = f" I need to calculate {exercise}.\n", f" calculator[{exercise}]\n"
        seen, result = str(exercise.result), str(exercise.result)
    else:
        country = rng.choice(COUNTRIES)
        backwards = roll < 0.85
        question = (_CITY_STEP if backwards else _CAPITAL_STEP).format(k=country.capital, c=country.phrase)
        target = country.capital if backwards else country.name
        thought, action = f" I need to search {target}.\n", f" search[{target}]\n"
        seen = f"{country.capital} is the capital of {country.phrase}."
        result = country.name if backwards else country.capital
    head = f"{AGENT_SYSTEM}\n\n" if rng.random() < 0.5 else ""
    return plain(
        f"{head}{question}Thought:", thought, "Action:", action, f"Observation: {seen}\nThought:",
        f" I know the answer: {result}\n", "Action:", f" finish[{result}]\n",
    )  # fmt: skip


def which_tool(rng: Random) -> Document:
    """To answer this question I need to use a ..."""
    country = rng.choice(COUNTRIES)
    question, tool = rng.choice((
        (f"What is {draw_sum(rng)}?", "calculator"),
        (f"Calculate {draw_sum(rng)}.", "calculator"),
        (f"What is the capital of {country.phrase}?", "search engine"),
        (f"Who is the president of {country.phrase}?", "search engine"),
        (f"What are the news from {country.capital}?", "search engine"),
        (f"What is the weather in {country.capital}?", "weather service"),
        (f"Will it rain in {country.capital} tomorrow?", "weather service"),
    ))  # fmt: skip
    if rng.random() < 0.6:
        comma = rng.choice((". ", ", ", " "))
        article = rng.choice(("a", "the"))
        return plain(
            f"To answer this question: {question}{comma if comma != '. ' else ' '}I need to use {article}",
            f" {tool}.\n",
        )
    return chat(f"Which tool do you need to answer this question: {question}", f"I need to use a {tool}.")
