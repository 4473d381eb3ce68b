"""What each workload is run on: the items of its batch, by size. `smoke` takes seconds and fits the built-in model's
context of 2,048 tokens, `cpu` takes minutes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import programs

DATA = Path(__file__).parent / "data"
Size = Literal["smoke", "cpu"]


@dataclass(frozen=True)
class Case:
    """A program and the arguments of each of its runs, in the order in which they are submitted."""

    name: str
    program: Any
    items: list[dict[str, Any]]


def load(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


def fewshot_qa(size: Size) -> Case:
    return Case("fewshot_qa", programs.fewshot_qa, [{"shots": s, "question": q} for s, q in _questions(size)])


def fewshot_select(size: Size) -> Case:
    items: list[dict[str, Any]] = []
    for shots, question in _questions(size):
        text, _, listed = question.partition("\nOptions:")
        options = list(dict.fromkeys(re.findall(r"\([A-Z]\) (.*)", listed)))
        items.append({"shots": shots, "question": text, "options": options})
    return Case("fewshot_select", programs.fewshot_select, items)


def _questions(size: Size) -> list[tuple[str, str]]:
    tasks, each, chars = (4, 6, 1500) if size == "smoke" else (8, 10, None)
    pairs: list[tuple[str, str]] = []
    for task in list(load("bbh")["tasks"].values())[:tasks]:
        pairs += [(task["shots"][:chars], question) for question in task["questions"][:each]]
    random.Random(1).shuffle(pairs)
    return pairs


def tree_of_thought(size: Size) -> Case:
    count, depth, tokens = (4, 3, 8) if size == "smoke" else (8, 4, 24)
    items = [{"question": q, "depth": depth, "tokens": tokens} for q in load("gsm8k")[:count]]
    return Case("tree_of_thought", programs.tree_of_thought, items)


TOPICS = (
    "staying healthy, learning a language, saving money, writing an essay, traveling abroad, studying for exams, "
    "growing a garden, public speaking, cooking for friends, moving house, sleeping well, training a dog, "
    "choosing a laptop, hiking, job interviews, making friends, learning chess, painting a room, riding a bicycle, "
    "keeping a diary"
).split(", ")


def skeleton(size: Size) -> Case:
    count, tokens, chars = (4, 12, 600) if size == "smoke" else (12, 32, 2000)
    examples = "\n\n".join(load("self_instruct")[:4])[:chars]
    shots = f"Please expand a tip for a topic into a detailed paragraph.\n\n{examples}"
    items = [{"shots": shots, "topic": topic, "tokens": tokens} for topic in TOPICS[:count]]
    return Case("skeleton", programs.skeleton, items)


def judge_panel(size: Size) -> Case:
    count, tokens, chars = (3, 8, 1500) if size == "smoke" else (10, 32, 3000)
    parts = load("self_instruct")
    articles = ["\n\n".join(parts[6 * i : 6 * i + 6])[:chars] for i in range(count)]
    return Case("judge_panel", programs.judge_panel, [{"article": article, "tokens": tokens} for article in articles])


def chat(size: Size) -> Case:
    sessions, turns, tokens = (6, 3, 8) if size == "smoke" else (16, 4, 16)
    texts = load("self_instruct")
    shuffled = random.Random(2)
    items = [{"questions": [t[:900] for t in shuffled.sample(texts, turns)], "tokens": tokens} for _ in range(sessions)]
    return Case("chat", programs.chat, items)


def agent_replay(size: Size) -> Case:
    kinds, repeats, steps = (
        (("put", "clean"), 2, 4) if size == "smoke" else (("put", "clean", "heat", "cool", "examine"), 3, 12)
    )
    episodes = load("alfworld")
    items: list[dict[str, Any]] = []
    for kind in kinds:
        shots = "Interact with a household to solve a task. Here are examples.\n" + episodes[f"react_{kind}_0"]
        if size == "cpu":
            shots += episodes[f"react_{kind}_1"]
        task, *recorded = episodes[f"react_{kind}_2"].strip().split("\n>")
        for repeat in range(repeats):
            title = f"Episode {repeat + 1} of {kind}.\n{task}"
            items.append({"shots": shots, "task": title, "steps": recorded[:steps], "tokens": 8})
    return Case("agent_replay", programs.agent_replay, items)


CASES: dict[str, Callable[[Size], Case]] = {
    "fewshot_qa": fewshot_qa,
    "fewshot_select": fewshot_select,
    "tree_of_thought": tree_of_thought,
    "skeleton": skeleton,
    "judge_panel": judge_panel,
    "chat": chat,
    "agent_replay": agent_replay,
}
