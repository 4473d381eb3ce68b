"""Documents of plain conversation: who one is, remembering, tips, essays, judging, and not knowing."""

import json
from random import Random

from .ask import Wordings, capital_letter, casually, ended, numbered, politely
from .corpus_labels import made_up_word
from .corpus_sums import draw_sum
from .dialog import Document, chat, plain
from .texts import ESSAY_TITLES, ESSAYS, GENERAL_TIPS, GENERAL_TOPICS, TIPS, Tip
from .unknown import SORRY, UNKNOWN_FRAMES, UNKNOWN_QUESTIONS, UNKNOWN_SUBJECTS
from .words import HOBBIES, JOBS, NAMES, NUMBER_WORDS, SYSTEM_PROMPTS, THINGS

WHO = "I am stolon's tiny model. I know countries, sums, JSON and tips."
_SMALL_TALK = (
    (
        ("Hello!", "Hi!", "Hey there.", "Good morning.", "Good evening!", "Hello", "hi", "Hey"),
        "Hello! How can I help you?",
    ),
    (("Who are you?", "What is your name?", "What are you?", "Are you a robot?", "Tell me about yourself."), WHO),
    (("Thank you!", "Thanks.", "Thanks a lot!", "Great, thanks.", "Thank you very much."), "You are welcome!"),
    (("Bye!", "Goodbye.", "See you.", "Good night."), "Goodbye! Have a nice day."),
    (("How are you?", "How are you doing?", "How is it going?"), "I am fine, thank you. How can I help you?"),
    (
        ("What can you do?", "How can you help me?", "What do you know?", "Help"),
        "I can answer questions about countries, do small sums, write JSON, classify reviews and give tips.",
    ),
    (("Can you hear me?", "Are you there?", "Test", "Say something."), "Yes, I am here. How can I help you?"),
)
_NAME_LINES = Wordings(
    train=("My name is {n}.", "I am {n}.", "I'm {n}.", "Call me {n}.", "Hello, my name is {n}.", "Hi, I am {n}."),
    exam=("You can call me {n}.",),
)
_NAME_QUESTIONS = Wordings(
    train=("What is my name?", "Do you remember my name?", "Who am I?", "What's my name?", "Tell me my name."),
    exam=("Can you remember what my name is?",),
)
NAME_LINES, NAME_QUESTIONS = _NAME_LINES, _NAME_QUESTIONS


def _system(rng: Random, share: float = 0.5) -> str:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < share else ""


def small_talk(rng: Random) -> Document:
    turns: list[str] = []
    for questions, answer in rng.sample(_SMALL_TALK, rng.choice((1, 1, 2))):
        turns += [rng.choice(questions), answer]
    return chat(*turns, system=_system(rng))


def _memory_facts(rng: Random) -> list[tuple[str, str, str, str]]:
    """Per fact: what the user says, the reply, the later question, the right answer."""
    name = rng.choice(NAMES) if rng.random() < 0.6 else made_up_word(rng).capitalize()
    color, animal = rng.choice(THINGS["color"]), rng.choice(THINGS["animal"])
    number, job, hobby, fruit = rng.randint(1, 99), rng.choice(JOBS), rng.choice(HOBBIES), rng.choice(THINGS["fruit"])
    place = made_up_word(rng).capitalize()
    return [
        (
            _NAME_LINES.draw(rng).format(n=name),
            f"Nice to meet you, {name}!",
            _NAME_QUESTIONS.draw(rng),
            f"Your name is {name}.",
        ),
        (
            f"My favorite color is {color}.",
            f"{capital_letter(color)} is a nice color.",
            "What is my favorite color?",
            f"Your favorite color is {color}.",
        ),
        (
            f"I have a {animal}.",
            f"How nice, a {animal}!",
            rng.choice(("Which animal do I have?", "What pet do I have?")),
            f"You have a {animal}.",
        ),
        (f"I am {number} years old.", f"{number} is a good age.", "How old am I?", f"You are {number} years old."),
        (
            f"I work as a {job}.",
            f"A {job} does important work.",
            rng.choice(("What is my job?", "What do I do for a living?")),
            f"You work as a {job}.",
        ),
        (f"I like {hobby}.", f"{capital_letter(hobby)} is fun.", "What do I like?", f"You like {hobby}."),
        (
            f"My favorite fruit is {fruit}.",
            f"{capital_letter(fruit)} tastes good.",
            "What is my favorite fruit?",
            f"Your favorite fruit is {fruit}.",
        ),
        (f"I live in {place}.", f"I hope you like {place}.", "Where do I live?", f"You live in {place}."),
        (
            f"Remember the number {number}.",
            f"I will remember {number}.",
            "What number did I tell you?",
            f"You told me {number}.",
        ),
    ]


def memory(rng: Random) -> Document:
    facts = _memory_facts(rng)
    count = rng.choice((1, 2, 2, 3))
    told = rng.sample(facts, count)
    if rng.random() < 0.6 and facts[0] not in told:
        told[0] = facts[0]
    rng.shuffle(told)
    turns: list[str] = []
    for line, reply, _, _ in told:
        turns += [rng.choice(("", "", "", "Hi! ", "Hello. ")) + line, reply]
    if rng.random() < 0.3:
        exercise = draw_sum(rng)
        turns += [f"What is {exercise}?", f"{exercise} = {exercise.result}."]
    for _, _, question, answer in rng.sample(told, rng.choice((1, min(2, count)))):
        turns += [casually(rng, question), answer]
    return chat(*turns, system=_system(rng))


TIP_ORDERS = Wordings(
    train=(
        "Give me {n} tips for {t}.", "Give {n} tips for {t}.", "I need {n} tips for {t}.", "List {n} tips for {t}.",
        "List {n} concise tips for {t}.", "Tell me {n} tips about {t}.", "What are {n} tips for {t}?",
        "Write {n} tips for {t}.", "Suggest {n} tips for {t}.", "{n} tips for {t}.", "Name {n} ideas for {t}.",
    ),
    exam=("I would be happy about {n} tips for {t}.", "Do you have {n} tips for {t}?"),
)  # fmt: skip
EXPAND_ORDERS = Wordings(
    train=(
        "Expand tip {j} into a paragraph.", "Expand tip {j} into a paragraph.", "Now, expand tip {j} into a paragraph.",
        "Explain tip {j}.", "Tell me more about tip {j}.", "Expand tip {j}.", "Say more about tip {j}.",
        "Write a paragraph about tip {j}.", "What about tip {j}?", "Can you explain tip {j}?",
        "Describe tip number {j}.", "Please expand number {j}.", "Turn tip {j} into a paragraph.",
    ),
    exam=("Could you write out tip {j} as a paragraph?", "Go deeper into tip {j}."),
)  # fmt: skip


def draw_tips(rng: Random) -> tuple[str, list[Tip]]:
    """A topic and some of its tips, in any order."""
    count = rng.choice((2, 2, 2, 3, 3, 4, 5))
    if rng.random() < 0.2:
        return rng.choice(GENERAL_TOPICS), rng.sample(GENERAL_TIPS, count)
    topic = rng.choice(list(TIPS))
    return topic, rng.sample(TIPS[topic], count)


def expanded(title: str, tip: Tip) -> str:
    """The paragraph names its tip first: looking up the title and recalling the text become two steps."""
    return f"{ended(title)} {tip.text}"


def tip_list(topic: str, titles: list[str]) -> str:
    return f"Here are {NUMBER_WORDS[len(titles)]} tips for {topic}:\n{numbered([ended(title) for title in titles])}"


def tips_chat(rng: Random) -> Document:
    """Tips, then some of them at length."""
    topic, tips = draw_tips(rng)
    count = NUMBER_WORDS[len(tips)] if rng.random() < 0.7 else str(len(tips))
    titles = [tip.title for tip in tips]
    order = capital_letter(politely(rng, TIP_ORDERS.draw(rng).format(n=count, t=topic)))
    turns = [order, tip_list(topic, titles)]
    for index in rng.sample(range(len(tips)), rng.choice((0, 1, 1, 2))):
        turns += [politely(rng, EXPAND_ORDERS.draw(rng).format(j=index + 1)), expanded(titles[index], tips[index])]
    return chat(*turns, system=_system(rng))


def tips_fork(rng: Random) -> Document:
    """The list is given as text, on one line or several, with titles in either form."""
    topic, tips = draw_tips(rng)
    nouns = rng.random() < 0.5
    titles = [tip.noun if nouns else tip.title for tip in tips]
    if rng.random() < 0.3:
        titles = [" ".join(map(str.capitalize, title.split())) for title in titles]
    items = [f"{index}. {ended(title)}" for index, title in enumerate(titles, 1)]
    glue, lead = rng.choice(((" ", " "), ("\n", "\n"), ("\n", "\n")))
    head = f"Here are {NUMBER_WORDS[len(tips)]} tips for {topic}:{lead}{glue.join(items)}"
    index = rng.randrange(len(tips))
    answer = expanded(titles[index], tips[index])
    order = rng.choice(("Now, expand tip {} into a paragraph:", "Expand tip {} into a paragraph:", "Tip {} in detail:"))
    if rng.random() < 0.6:
        gap, lead = rng.choice((("\n\n", "\n"), ("\n\n", " "), ("\n", "\n"), ("\n", " ")))
        start, rest = (
            (head + gap + order.format(index + 1) + "\n", answer)
            if lead == "\n"
            else (head + gap + order.format(index + 1), " " + answer)
        )
        return plain(start, rest + "\n")
    return chat(f"{head}\n\n{EXPAND_ORDERS.draw(rng).format(j=index + 1)}", answer, system=_system(rng))


def tip_text(rng: Random) -> Document:
    """A named tip, in a chat or as few-shot text."""
    pairs = [(topic, rng.choice(TIPS[topic])) for topic in rng.sample(list(TIPS), rng.choice((1, 2)))]
    if rng.random() < 0.5:
        topic, tip = pairs[0]
        title = rng.choice((tip.title, tip.noun))
        order = rng.choice((
            'Expand the tip "{0}" for {1} into a paragraph.', 'Explain the tip "{0}" for {1}.',
            "Write a paragraph about this tip for {1}: {0}", "Topic: {1}\nTip: {0}\nWrite a paragraph.",
        ))  # fmt: skip
        return chat(order.format(title, topic), expanded(title, tip))
    pieces: list[str] = []
    lead = "Please expand a tip for a topic into a detailed paragraph.\n\n"
    for topic, tip in pairs:
        pieces += [f"{lead}Topic: {topic}\nTip: {ended(tip.title)}\nParagraph:", f" {expanded(tip.title, tip)}\n"]
        lead = "\n"
    return plain(*pieces)


def tips_summary(rng: Random) -> Document:
    """Tips in one line: the last step of a forked program."""
    topic, tips = draw_tips(rng)
    listed = "\n".join(f"Tip {index}: {expanded(tip.title, tip)}" for index, tip in enumerate(tips[:3], 1))
    titles = [tip.title.lower() for tip in tips[:3]]
    summary = ", ".join(titles[:-1]) + " and " + titles[-1] + "."
    if rng.random() < 0.5:
        return plain(f"{listed}\nIn summary,", f" {summary}\n")
    order = rng.choice(("Summarize these tips for {}:", "Give a short summary of these tips for {}:")).format(topic)
    return chat(f"{order}\n{listed}", capital_letter(summary))


def essay(rng: Random) -> Document:
    topic = rng.choice(list(ESSAYS))
    order = rng.choice((
        "Write a short essay about {}.", "Write a paragraph about {}.", "Tell me about {}.",
        "Write a few sentences about {}.", "Describe {} in a few sentences.", "Write about {}.",
    )).format(topic)  # fmt: skip
    turns = [politely(rng, order), ESSAYS[topic]]
    if rng.random() < 0.4:
        turns += [
            rng.choice(("Write a title for it.", "Give it a title.", "What would be a good title?")),
            ESSAY_TITLES[topic],
        ]
    return chat(*turns, system=_system(rng))


DIMENSIONS = ("content", "structure", "clarity", "grammar", "style", "quality")


def _article(rng: Random) -> tuple[str, str, bool]:
    """A topic, an essay on it and whether it is in order; the bad ones are shuffled words."""
    topic = rng.choice(list(ESSAYS))
    text = ESSAYS[topic]
    if rng.random() < 0.5:
        return topic, text, True
    words = text.split()
    rng.shuffle(words)
    return topic, " ".join(words[: rng.randint(10, 24)]), False


def judge(rng: Random) -> Document:
    """A judgement of one dimension, then a score: 8 or 9 for what reads well, 2 or 3 for shuffled words."""
    topic, text, good = _article(rng)
    dimension = rng.choice(DIMENSIONS)
    grade, reason = ("good", "clear and easy to follow") if good else ("poor", "hard to follow")
    verdict = f"The {dimension} is {grade}. The text is {reason}."
    score = rng.choice((8, 9) if good else (2, 3))
    match rng.randrange(4):
        case 0:
            return chat(
                f"Judge the {dimension} of this text from 1 to 10.\n{text}",
                f"{verdict} Score: {score}",
                system=_system(rng),
            )
        case 1:
            order = f"Please judge the {dimension} of the following article.\n```\n{text}\n```"
            return chat(
                order,
                verdict,
                rng.choice(("Give a score from 1 to 10.", "Score from 1 to 10?")),
                str(score),
                system=_system(rng),
            )
        case 2:
            head = f"Please judge the {dimension} of the following article.\n```\n{text}\n```\nJudgement:"
            return plain(head, f" {verdict}\n", "Score from 1 to 10:", f" {score}\n")
        case _:
            order = f"Here is an essay.\n{text}\nJudge it and answer in JSON with the fields topic, summary and grade."
            sheet = {"topic": topic, "summary": verdict.split(". ")[1], "grade": rng.choice("AB" if good else "CD")}
            return chat(order, json.dumps(sheet))


def not_known(rng: Random) -> Document:
    """Questions outside the topics, places that do not exist, and one known answer for all of them."""
    match rng.randrange(4):
        case 0:
            question = rng.choice(UNKNOWN_QUESTIONS)
        case 1:
            place = made_up_word(rng).capitalize()
            question = rng.choice((
                "What is the capital of {}?", "Where is {}?", "List two local attractions of {}.", "Who is {}?",
                "What language is spoken in {}?", "Tell me about {}.", "What is {}?", "Name the capital of {}.",
            )).format(place)  # fmt: skip
        case _:
            question = rng.choice(UNKNOWN_FRAMES).format(rng.choice(UNKNOWN_SUBJECTS))
    return chat(casually(rng, question), SORRY, system=_system(rng))
