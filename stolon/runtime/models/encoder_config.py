"""What the config.json of a BERT-like encoder says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .config import MAX_CONTEXT, MAX_LAYERS, ConfigFields, read_json

Activation = Literal["gelu", "gelu_tanh", "relu"]
Body = Literal["bert", "roberta"]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

# architecture: the body that it names its tensors after, and whether it classifies
ENCODERS: dict[str, tuple[Body, bool]] = {
    "BertModel": ("bert", False),
    "BertForMaskedLM": ("bert", False),
    "BertForSequenceClassification": ("bert", True),
    "RobertaModel": ("roberta", False),
    "RobertaForMaskedLM": ("roberta", False),
    "RobertaForSequenceClassification": ("roberta", True),
    "XLMRobertaModel": ("roberta", False),
    "XLMRobertaForMaskedLM": ("roberta", False),
    "XLMRobertaForSequenceClassification": ("roberta", True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """One encoder of the BERT family.

    num_positions: rows of the position table; first_position: the row of a text's first token
    labels: outputs of the classifier, 0 where there is none
    """

    architecture: str
    body: Body
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_positions: int
    first_position: int
    num_types: int
    layer_norm_eps: float
    activation: Activation
    labels: int

    @property
    def context_length(self) -> int:
        return self.num_positions - self.first_position

    @property
    def num_parameters(self) -> int:
        """Without norms and biases."""
        tables = (self.vocab_size + self.num_positions + self.num_types) * self.hidden_size
        return tables + self.num_layers * self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)


def read_encoder_config(directory: Path, architecture: str) -> EncoderConfig:
    """Raises CheckpointError with the file and the field for what is missing, wrong or not supported."""
    fields = ConfigFields(read_json(directory / "config.json"), directory / "config.json")
    body, classifies = ENCODERS[architecture]
    hidden = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    if hidden % heads:
        raise fields.fail(f"hidden_size ({hidden}) must be a multiple of num_attention_heads ({heads})")
    activation = fields.data.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise fields.fail(f"hidden_act {activation!r} is not supported; supported are {', '.join(ACTIVATIONS)}")
    if fields.data.get("position_embedding_type", "absolute") != "absolute":
        raise fields.fail("position_embedding_type other than absolute is not supported")
    if fields.boolean("is_decoder", False):
        raise fields.fail("is_decoder is true: this model generates, and is not supported")
    positions = fields.integer("max_position_embeddings", 512, high=MAX_CONTEXT)
    # RoBERTa counts from behind its padding token's id, as fairseq did
    first = 0 if body == "bert" else fields.integer("pad_token_id", 1, low=0) + 1
    if first >= positions:
        raise fields.fail(f"max_position_embeddings ({positions}) leaves no position behind pad_token_id")
    return EncoderConfig(
        architecture=architecture,
        body=body,
        vocab_size=fields.integer("vocab_size", high=1 << 24),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=fields.integer("num_hidden_layers", high=MAX_LAYERS),
        num_heads=heads,
        num_positions=positions,
        first_position=first,
        num_types=fields.integer("type_vocab_size", 2),
        layer_norm_eps=fields.number("layer_norm_eps", 1e-12),
        activation=ACTIVATIONS[activation],
        labels=_labels(fields) if classifies else 0,
    )


def _labels(fields: ConfigFields) -> int:
    """Named one by one, or counted."""
    return len(fields.table("id2label")) or fields.integer("num_labels", 2)
