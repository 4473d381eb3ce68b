"""The text of one answer while it grows."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Sequence_

from ..lang.errors import EngineError
from ..lang.types import Delta, FinishReason, SamplingParams, TokenLogprob, Usage
from .constrained import Constrained
from .detokenize import Detokenizer
from .sequence import Sequence
from .stops import StopMatcher
from .tokenizer import Tokenizer


class Answer:
    """The text of one sequence while it grows.

    A stop ends a constrained answer only where what it leaves is a whole one; elsewhere it is text like any other.

    form: its way through the form that was asked for, if one was
    """

    __slots__ = (
        "_before",
        "_count",
        "_detokenizer",
        "_first",
        "_least",
        "_prompt_logprobs",
        "_pushed",
        "_stops",
        "_tokenizer",
        "form",
        "sequence",
    )

    def __init__(
        self,
        sequence: Sequence,
        tokenizer: Tokenizer,
        params: SamplingParams,
        form: Constrained | None = None,
    ) -> None:
        """sequence: may have tokens beyond its prompt, which belong to the answer; params: as they were asked for"""
        self.sequence = sequence
        self.form = form
        self._tokenizer = tokenizer
        self._detokenizer: Detokenizer | None = None
        self._stops = (
            StopMatcher(params.stop, params.stop_regex, params.include_stop, None if form is None else self._may_end)
            if params.stop or params.stop_regex
            else None
        )
        self._least = params.min_tokens
        self._first = sequence.tokens[sequence.num_prompt :].tolist()  # to go out with the first increment
        self._count = 0  # of tokens that went out
        self._before: list[str] = []  # text in the form that stops never saw
        self._pushed: list[str] = []  # and what they saw
        self._prompt_logprobs: list[TokenLogprob | None] | None = None
        if params.prompt_logprobs is not None:
            self._prompt_logprobs = [None] if params.logprob_start == 0 else []

    def keep_prompt_logprobs(self, logprobs: list[TokenLogprob]) -> None:
        """Take those of the next tokens of the prompt, until its first increment takes them all."""
        if logprobs and self._prompt_logprobs is not None:
            self._prompt_logprobs.extend(map(self._named, logprobs))

    def push(self, tokens: Sequence_[int], logprobs: Sequence_[TokenLogprob] = ()) -> Delta:
        """The increment that `tokens`, the sequence's newest, bring. Call when the sequence has them all.

        tokens: those that were drawn, and those that follow them by force
        logprobs: of the drawn ones, if they are wanted; then nothing is forced
        """
        tokens = [*self._first, *tokens]
        self._first = []
        finish = self._finish()
        text, matched = "", None
        for place, token in enumerate(tokens, 1):
            piece, matched = self._read(token, finish if place == len(tokens) else None)
            text += piece
            if matched is not None:
                # what stands behind a stop was never said
                finish, tokens = "stop", tokens[:place]
                break
        delta = Delta(text, tokens, finish=finish, matched=self.sequence.matched if matched is None else matched)
        if logprobs:
            delta.logprobs = [self._named(logprob) for logprob in logprobs[: len(tokens)]]
        if self._prompt_logprobs is not None:
            delta.prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        if finish is not None:
            delta.usage = self._usage()
        return delta

    def close(self) -> Delta:
        """The last increment of a sequence that ends without a further token."""
        sequence = self.sequence
        tokens, self._first = self._first, []
        text = "".join(self._read(token, None)[0] for token in tokens)
        rest, matched = "" if self._detokenizer is None else self._detokenizer.flush(), sequence.matched
        if self._stops is not None:
            rest, stop = self._match(rest, last=True)
            matched = matched if stop is None else stop
        delta = Delta(text + rest, tokens, finish=self._finish() or "abort", matched=matched, usage=self._usage())
        delta.prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        return delta

    def _finish(self) -> FinishReason | None:
        """A constrained answer that used all its tokens is whole, and ends like any other whole answer."""
        finish = self.sequence.finish
        if finish != "length" or self.form is None:
            return finish
        if not self.form.is_whole:
            raise EngineError(
                "the answer could not be brought to an end in its form within max_tokens; allow more",
                code="grammar_budget",
            )
        return "stop"

    def _read(self, token: int, finish: FinishReason | None) -> tuple[str, str | None]:
        """The text that a token brings, and the stop that it completes. finish: why the sequence ends with it"""
        sequence, text = self.sequence, ""
        self._count += 1
        if not (finish == "stop" and sequence.matched == token) or sequence.params.include_stop:
            text = self._decoder().push((token,))
        if finish is not None:
            text += self._decoder().flush()
        return (text, None) if self._stops is None else self._match(text, last=finish is not None)

    def _match(self, text: str, *, last: bool) -> tuple[str, str | None]:
        """Hold back what may become a stop; text before `min_tokens`, or before the form, is never searched."""
        assert self._stops is not None
        if self.form is not None:
            if self.form.begun is None or self._count <= self.form.begun:
                return text, None
            (self._before if self._count <= self._least else self._pushed).append(text)
        if self._count <= self._least:
            return text, None
        text, matched = self._stops.push(text)
        if last and matched is None:
            text += self._stops.flush()
        return text, matched

    def _may_end(self, length: int) -> bool:
        """Whether the form takes what stops never saw and the first `length` characters that they saw."""
        assert self.form is not None
        return self.form.may_end("".join(self._before) + "".join(self._pushed)[:length])

    def _decoder(self) -> Detokenizer:
        if self._detokenizer is None:
            sequence = self.sequence
            prompt = sequence.tokens[: sequence.num_prompt]
            self._detokenizer = Detokenizer(
                self._tokenizer, prompt, skip_special_tokens=sequence.params.skip_special_tokens
            )
        return self._detokenizer

    def _usage(self) -> Usage:
        sequence = self.sequence
        return Usage(
            prompt_tokens=sequence.num_prompt,
            cached_tokens=sequence.cached or 0,
            completion_tokens=self._count,
            requests=1,
        )

    def _named(self, logprob: TokenLogprob) -> TokenLogprob:
        """With the texts of its tokens."""
        text_of: Callable[[int], str] = self._tokenizer.token_text
        logprob.text = text_of(logprob.token)
        if logprob.top:
            logprob.top_texts = tuple(text_of(token) for token, _ in logprob.top)
        return logprob
