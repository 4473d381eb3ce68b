"""Random checkpoints of embedding models and classifiers, as `transformers` and sentence-transformers lay them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.runtime.made_tokenizers import byte_level, sentencepiece, word_piece

SMALL = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1}
ENCODER = {**SMALL, "max_position_embeddings": 130, "initializer_range": 0.1, "attn_implementation": "eager"}

# name: (class, its settings, kind of tokenizer, pooling as its own layout has it)
MODELS: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    "bert-mean": ("BertModel", {**ENCODER, "vocab_size": 230}, "bert", "mean_tokens"),
    "bert-cls": ("BertModel", {**ENCODER, "vocab_size": 230, "hidden_act": "gelu_new"}, "bert", "cls_token"),
    "roberta": ("RobertaModel", {**ENCODER, "vocab_size": 430, "pad_token_id": 0}, "roberta", "mean_tokens"),
    "xlm-roberta": ("XLMRobertaModel", {**ENCODER, "vocab_size": 430, "pad_token_id": 0}, "roberta", "cls_token"),
    "qwen2": ("Qwen2Model", {**DECODER, "vocab_size": 430}, "qwen", "lasttoken"),
    "gte-qwen2": (
        "Qwen2ForCausalLM",
        {**DECODER, "vocab_size": 430, "tie_word_embeddings": False},
        "qwen",
        "lasttoken",
    ),
    "qwen3": ("Qwen3ForCausalLM", {**DECODER, "vocab_size": 430, "head_dim": 16}, "qwen", "lasttoken"),
    "mistral": ("MistralModel", {**DECODER, "vocab_size": 640, "sliding_window": 6}, "llama", None),
    "bert-classifier": ("BertForSequenceClassification", {**ENCODER, "vocab_size": 230, "num_labels": 1}, "bert", None),
    "roberta-classifier": (
        "XLMRobertaForSequenceClassification",
        {**ENCODER, "vocab_size": 430, "pad_token_id": 0, "num_labels": 1},
        "roberta",
        None,
    ),
}


def make_embedder(name: str, folder: Path) -> Any:
    """Saves a checkpoint with its tokenizer to `folder` and returns the `transformers` model."""
    kind, settings, tokenizer, pooling = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind).config_class(**settings)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias") or "norm" in parameter_name.lower():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    make_tokenizer(tokenizer).save_pretrained(str(folder))
    if pooling is not None:
        write_pooling(folder, pooling)
    return model


def write_pooling(folder: Path, *modes: str) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    known = ("mean_tokens", "cls_token", "lasttoken", "max_tokens")
    flags = {f"pooling_mode_{mode}": mode in modes for mode in known}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 48, **flags}))


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """With what each kind puts around a text, and between two."""
    match kind:
        case "bert":
            made = word_piece()
            made.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
            frame = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ["[CLS]", "[SEP]"])
        case "roberta":
            made = byte_level()
            frame = ("<|im_start|> $A <|im_end|>", "<|im_start|> $A <|im_end|> <|im_end|> $B <|im_end|>", [])
            frame = (*frame[:2], ["<|im_start|>", "<|im_end|>"])
        case "qwen":
            made = byte_level()
            frame = ("$A <|endoftext|>", "$A $B <|endoftext|>", ["<|endoftext|>"])
        case _:
            return sentencepiece()
    single, pair, names = frame
    backend = made.backend_tokenizer
    tokens = [(name, backend.token_to_id(name)) for name in names]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=made.eos_token,
        pad_token=made.pad_token,
        unk_token=made.unk_token,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
