"""Runs the held-out exam, greedily and in float32: `python -m stolon.runtime.tiny.evaluate --model DIR`.

Prints a table, a few free samples and, last, one line of JSON.
"""

# the annotations of torch and transformers are partial
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from . import MODEL_DIR
from .exam import Choice, Item, Task, ask, exam

_BATCH = 32
SAMPLES = (
    ("Who are you?",),
    ("Give me two tips for staying healthy.",),
    ("Write a short essay about trees.",),
    ("Tell me a joke about cats.",),
    ("Is Lyon the capital of France?",),
    ("What is 7 * 8?",),
    ("What is the IP address of the Google DNS servers?",),
    ("Write a small JSON object for a person with the keys name, age and city.",),
)


@dataclass(frozen=True, slots=True)
class Score:
    name: str
    right: int
    asked: int


class Examinee:
    """A checkpoint and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.answers = 0
        self.ended = 0

    @torch.inference_mode()
    def answer(self, items: Sequence[Item]) -> list[str]:
        """Greedy answers, end tokens and what follows `stop` cut off."""
        texts: list[str] = []
        for start in range(0, len(items), _BATCH):
            some = items[start : start + _BATCH]
            inputs = self.tokenizer(
                [item.prompt for item in some], return_tensors="pt", padding=True, add_special_tokens=False
            )
            limit = max(item.max_tokens for item in some)
            output: Tensor = self.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=limit
            )
            for item, row in zip(some, output[:, inputs["input_ids"].shape[1] :], strict=True):
                texts.append(self._text(item, row))
        return texts

    def _text(self, item: Item, row: Tensor) -> str:
        ends: list[int] = self.model.generation_config.eos_token_id
        tokens: list[int] = row.tolist()
        stop = next((index for index, token in enumerate(tokens) if token in ends), None)
        text = str(self.tokenizer.decode(tokens[:stop]))
        if item.stop:
            return text.lstrip().split(item.stop)[0]
        self.answers += 1
        self.ended += stop is not None
        return text

    @torch.inference_mode()
    def choose(self, choice: Choice) -> int:
        """The option with the highest mean log-probability."""
        prompt: list[int] = self.tokenizer(choice.prompt, add_special_tokens=False)["input_ids"]
        scores: list[float] = []
        for option in choice.options:
            tokens: list[int] = self.tokenizer(option, add_special_tokens=False)["input_ids"]
            logits = self.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            picked = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])
            scores.append(picked.mean().item())
        return scores.index(max(scores))


def grade(examinee: Examinee, task: Task, *, show_wrong: bool) -> Score:
    items = [item for item in task.items if isinstance(item, Item)]
    right = 0
    for item, text in zip(items, examinee.answer(items), strict=True):
        right += item.is_right(text)
        if show_wrong and not item.is_right(text):
            print(f"    {item.prompt[-120:]!r} -> {text!r}")
    for item in task.items:
        if isinstance(item, Choice):
            right += examinee.choose(item) == item.right
    return Score(task.name, right, len(task.items))


def evaluate(folder: Path, *, show_wrong: bool = False) -> list[Score]:
    examinee = Examinee(folder)
    scores: list[Score] = []
    for task in exam():
        scores.append(grade(examinee, task, show_wrong=show_wrong))
        score = scores[-1]
        print(f"{score.name:40s} {score.right:4d} / {score.asked:<4d} {score.right / score.asked:6.1%}", flush=True)
    scores.append(Score("stops by itself", examinee.ended, examinee.answers))
    print(f"{scores[-1].name:40s} {examinee.ended:4d} / {examinee.answers:<4d}")
    for turns in SAMPLES:
        reply = examinee.answer([Item(ask(*turns), bool, 80)])[0]
        print(f"  {turns[-1]} -> {reply!r}")
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description="Examine the tiny model on held-out wordings.")
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="folder with the checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show-wrong", action="store_true", help="print every wrong answer")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    scores = evaluate(arguments.model, show_wrong=arguments.show_wrong)
    table = {score.name: [score.right, score.asked] for score in scores}
    print(json.dumps({"model": arguments.model.name, "wall_s": round(time.monotonic() - started, 1), "scores": table}))


if __name__ == "__main__":
    main()
