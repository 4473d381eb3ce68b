"""Writes the folder that transformers and the runtime load: bf16 weights, config, tokenizer, chat template."""

# the annotations of safetensors are partial
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from .dialog import TEXT_END, TURN_END
from .network import NORM_EPSILON, TinyLlama
from .tokenizer import MAX_TOKENS, PADDING, save_tokenizer, token_id


def save_model(model: TinyLlama, tokenizer: Tokenizer, out: Path) -> None:
    """Write everything but the model card; existing files are replaced one by one, each whole."""
    out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, out)
    shape = model.shape
    ends = [token_id(tokenizer, TURN_END), token_id(tokenizer, TEXT_END)]
    padding = token_id(tokenizer, PADDING)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_TOKENS,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ends[0],
        "pad_token_id": padding,
        "dtype": "bfloat16",
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": ends, "pad_token_id": padding, "do_sample": False}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    weights = {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in model.state_dict().items()}
    part = out / "model.safetensors.part"
    save_file(weights, part, metadata={"format": "pt"})
    part.chmod(0o644)  # save_file leaves it readable by its owner alone
    part.replace(out / "model.safetensors")
