"""The training mix: which documents, how often, and a stream of them that depends on the seed alone."""

from collections.abc import Callable, Iterator, Mapping
from random import Random

from . import corpus_json, corpus_labels, corpus_sums, corpus_talk, corpus_tools, corpus_world
from .dialog import Chat, Document, Message

Maker = Callable[[Random], Document]


def mixed_chat(rng: Random) -> Document:
    """A long conversation that changes its topic: two to four short ones in a row."""
    parts = rng.sample(_CHAT_MAKERS, rng.choice((2, 2, 3, 4)))
    messages: list[Message] = []
    for make in parts:
        part = make(rng)
        while not isinstance(part, Chat):
            part = make(rng)
        messages += [message for message in part.messages if message.role != "system"]
    if rng.random() < 0.5:
        messages.insert(0, Message("system", "You are a helpful assistant."))
    return Chat(tuple(messages))


_CHAT_MAKERS: tuple[Maker, ...] = (
    corpus_world.country_chat,
    corpus_world.country_chat,
    corpus_world.fact_chat,
    corpus_sums.sum_chat,
    corpus_labels.sentiment_chat,
    corpus_json.object_chat,
    corpus_talk.memory,
    corpus_talk.small_talk,
    corpus_talk.tips_chat,
    corpus_talk.not_known,
    corpus_talk.essay,
)

# weights are shares of documents, not of tokens
MIX: Mapping[Maker, int] = {
    corpus_world.country_chat: 18,
    corpus_world.sights_chat: 5,
    corpus_world.country_shots: 8,
    corpus_world.fact_chat: 5,
    corpus_world.fact_shots: 4,
    corpus_world.capital_choice: 2,
    corpus_world.truth: 4,
    corpus_sums.sum_chat: 30,
    corpus_sums.sum_lines: 14,
    corpus_sums.problem_chat: 6,
    corpus_sums.problem_shots: 2,
    corpus_sums.number_chat: 2,
    corpus_labels.sentiment_chat: 9,
    corpus_labels.sentiment_shots: 4,
    corpus_labels.renamed_shots: 1,
    corpus_labels.category_choice: 3,
    corpus_labels.copying: 7,
    corpus_labels.lookup: 1,
    corpus_labels.document_question: 4,
    corpus_json.object_chat: 16,
    corpus_json.hero_sheet: 5,
    corpus_json.hero_extraction: 3,
    corpus_json.city_sheet: 5,
    corpus_json.extraction: 12,
    corpus_json.small_json: 4,
    corpus_tools.tool_chat: 9,
    corpus_tools.idle_tool_chat: 2,
    corpus_tools.agent_steps: 6,
    corpus_tools.which_tool: 3,
    corpus_talk.small_talk: 4,
    corpus_talk.memory: 14,
    corpus_talk.tips_chat: 11,
    corpus_talk.tips_fork: 14,
    corpus_talk.tip_text: 3,
    corpus_talk.tips_summary: 3,
    corpus_talk.essay: 3,
    corpus_talk.judge: 5,
    corpus_talk.not_known: 8,
    mixed_chat: 7,
}


def documents(seed: int) -> Iterator[Document]:
    """Documents without end; the same seed gives the same documents."""
    rng = Random(seed)
    makers, weights = list(MIX), list(MIX.values())
    while True:
        yield rng.choices(makers, weights)[0](rng)
