"""The workloads, as programs anyone could have written. Each takes its sizes as arguments."""

from __future__ import annotations

import asyncio

from stolon import function, gen, select


@function
def fewshot_qa(s, shots: str, question: str):
    s += f"{shots}\n\nQ: {question}\nA: The answer is ("
    s += gen("answer", max_tokens=1)


@function
def fewshot_select(s, shots: str, question: str, options: list[str]):
    s += f"{shots}\n\nQ: {question}\nA: "
    s += select("answer", options)


TURNS = (
    "Please make a high-level plan for the question.",
    "The plan looks good. Now do the calculation step by step.",
    "Now evaluate your own solution and give it a score from 1 to 5.",
    "Do you change your mind? Now give the final answer.",
)


@function
def tree_of_thought(s, question: str, depth: int, tokens: int):
    s += f"Question: {question}\n"
    level = [s]
    for turn in TURNS[:depth]:
        grown = []
        for state in level:
            state += f"\nUSER: {turn}\nASSISTANT:"
            branches = state.fork(2)
            branches += gen("thought", max_tokens=tokens, ignore_eos=True)
            grown.extend(branches)
        level = grown
    return [state["thought"] for state in level]


@function
async def expand(s, shots: str, topic: str, tip: str, tokens: int):
    s += f"{shots}\nTopic: {topic}\nTip: {tip}\nParagraph:"
    s += gen("paragraph", max_tokens=tokens, ignore_eos=True)
    return await s.get("paragraph")


@function
async def skeleton(s, shots: str, topic: str, tokens: int):
    """Five tips, one after the other; each is expanded by a second program while the next tip is being written."""
    s += f"Please act as a helpful assistant. Give tips.\nUSER: Give some tips for {topic}.\nASSISTANT:"
    paragraphs = []
    for number in range(1, 6):
        s += f"\n{number}."
        s += gen("tip", max_tokens=8, ignore_eos=True)
        paragraphs.append(asyncio.ensure_future(expand.arun(shots, topic, await s.get("tip"), tokens)))
    for state in await asyncio.gather(*paragraphs):
        s += "\n" + state.value


DIMENSIONS = ("clarity", "originality", "evidence", "structure", "style", "usefulness")


@function
def judge_panel(s, article: str, tokens: int):
    s += f"You judge articles.\n\nARTICLE\n{article}\n\n"
    branches = s.fork(list(DIMENSIONS))
    for branch, dimension in branches:
        branch += f"Judge the article by its {dimension}. Be short and precise. JUDGEMENT:"
        branch += gen("judgement", max_tokens=tokens, ignore_eos=True)
    s += "Summary of all judgements:\n"
    for branch, dimension in branches:
        s += f"{dimension}: {branch['judgement']}\n"
    s += "Overall score:" + gen("score", max_tokens=2, ignore_eos=True)


@function
def chat(s, questions: list[str], tokens: int):
    for question in questions:
        s += f"USER: {question}\nASSISTANT:"
        s += gen("answer", max_tokens=tokens, ignore_eos=True)
        s += "\n"


@function
def agent_replay(s, shots: str, task: str, steps: list[str], tokens: int):
    """Each step asks for an action, throws it away, and goes on with the recorded action and observation."""
    s += f"{shots}\nHere is the task.\n{task}"
    for step in steps:
        s += "\n>"
        branch = s.fork(1)[0]
        branch += gen("action", max_tokens=tokens, ignore_eos=True)
        branch.sync()
        s += step
