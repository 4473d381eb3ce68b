"""No tokenizer: token ids come in, token ids go out."""

from __future__ import annotations

from collections.abc import Sequence

from ..lang.errors import InvalidRequest
from .config import EngineConfig
from .directories import tokenizer_directory
from .tokenizer import Place, Tokenizer
from .tokenizer_bytes import ByteLevelRule
from .tokenizer_special import ControlTokens


class NoTokenizer(Tokenizer):
    """Stands where a tokenizer would (`skip_tokenizer_init`): tokens have no text, and texts no tokens.

    The ends of answers are those that the model's own files name.
    """

    def __init__(self) -> None:
        self._prefix: list[int] = []
        self.control = ControlTokens({})
        self.vocab_size = 0
        self.special_ids = frozenset[int]()
        self.special_tokens = ()
        self.bos_token_id = None
        self.eos_ids = frozenset[int]()
        self.chat_templates: dict[str, str] = {}
        self.named_tokens: dict[str, str] = {}
        self.rule = ByteLevelRule()

    def require(self, what: str) -> None:
        message = f"{what}: this needs the tokenizer, which is not loaded (--skip-tokenizer-init); send token ids"
        raise InvalidRequest(message, code="no_tokenizer")

    def encode_run(self, text: str, place: Place) -> list[int]:
        self.require("text")
        return []

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return ""

    def token_bytes(self, id: int) -> bytes:
        return b""

    def token_text(self, id: int) -> str:
        """As vLLM names tokens by their ids."""
        return f"token_id:{id}"


def tokenizer_of(config: EngineConfig) -> Tokenizer:
    """The model's, or none where that was asked for. Raises CheckpointError."""
    return NoTokenizer() if config.skip_tokenizer_init else Tokenizer.load(tokenizer_directory(config))
