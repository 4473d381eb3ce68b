"""Documents to training rows: whole documents side by side, each seeing only itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .corpus import documents
from .dialog import TEXT_END, Document, written
from .tokenizer import token_id

# what is not said by the assistant is learnt a little too: it teaches the language of the questions
PROMPT_WEIGHT = 0.1
# a document goes into the shortest row that holds it: attention costs tokens times row length
ROW_LENGTHS = (128, 384)
_SEARCH = 32  # how many waiting documents are looked at to fill the rest of a row


@dataclass(frozen=True, slots=True)
class Example:
    """A document in tokens; `weights` says how much each token counts as a target."""

    tokens: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Rows:
    """One training batch; all [rows, length] but the mask, [rows, 1, length, length]."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    weights: Tensor


def encode(tokenizer: Tokenizer, document: Document) -> Example:
    """Tokenize the document as one text, as it will be in use, and weigh each token by the span it ends in."""
    spans = written(document)
    encoded = tokenizer.encode("".join(span.text for span in spans), add_special_tokens=False)
    weights: list[float] = []
    index, end = 0, len(spans[0].text)
    for _, stop in encoded.offsets:
        while stop > end:
            index += 1
            end += len(spans[index].text)
        weights.append(1.0 if spans[index].is_answer else PROMPT_WEIGHT)
    return Example(encoded.ids, weights)


class Packer:
    """Fills rows of one length with the documents that fit it, and what room is left from `spare`."""

    def __init__(self, length: int, filler: int, spare: "Packer | None" = None) -> None:
        self.length = length
        self.waiting: list[Example] = []
        self._filler = filler
        self._spare = spare

    def _take(self, room: int) -> Example | None:
        for index, example in enumerate(self.waiting[:_SEARCH]):
            if len(example.tokens) <= room:
                return self.waiting.pop(index)
        return self._spare._take(room) if self._spare is not None else None

    def rows(self, count: int) -> Rows:
        size = (count, self.length + 1)
        tokens, positions = torch.full(size, self._filler), torch.zeros(size, dtype=torch.long)
        weights, owner = torch.zeros(size), torch.zeros(size, dtype=torch.long)
        for row in range(count):
            start, number = 0, 1
            while (example := self._take(self.length + 1 - start)) is not None:
                stop = start + len(example.tokens)
                tokens[row, start:stop] = torch.tensor(example.tokens)
                weights[row, start:stop] = torch.tensor(example.weights)
                # the first token has nothing before it that could foretell it
                weights[row, start] = 0.0
                positions[row, start:stop] = torch.arange(stop - start)
                owner[row, start:stop] = number
                start, number = stop, number + 1
        owner = owner[:, :-1]
        causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        mask = (owner[:, :, None] == owner[:, None, :]) & causal
        return Rows(tokens[:, :-1], positions[:, :-1], mask[:, None], tokens[:, 1:], weights[:, 1:])


def batches(tokenizer: Tokenizer, seed: int, tokens_per_batch: int) -> Iterator[Rows]:
    """Batches without end: short rows, and longer ones whenever enough longer documents have gathered."""
    filler = token_id(tokenizer, TEXT_END)
    packers: list[Packer] = []
    for length in ROW_LENGTHS:
        packers.append(Packer(length, filler, spare=packers[-1] if packers else None))
    shortest, longer = packers[0], packers[1:]
    source = documents(seed)
    while True:
        while len(shortest.waiting) < 512:
            example = encode(tokenizer, next(source))
            fitting = next((packer for packer in packers if len(example.tokens) <= packer.length), None)
            if fitting is not None:
                fitting.waiting.append(example)
        yield shortest.rows(tokens_per_batch // shortest.length)
        for packer in longer:
            count = tokens_per_batch // packer.length
            if len(packer.waiting) > 1.2 * count:
                yield packer.rows(count)
