"""What a checkpoint's config.json says, read without running any code of the checkpoint's."""

# JSON has any type until it is checked
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ...lang.errors import CheckpointError

JsonObject = dict[str, Any]

RopeType = Literal["default", "llama3"]

# Room for every known model of this kind, and far below what would make a wrong number look like a hang.
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding; the factors and the original length belong to `llama3` scaling."""

    theta: float
    kind: RopeType = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One decoder of the Llama family.

    windows: for each layer, how many positions back a token sees, itself included; None is all of them
    qk_norm: queries and keys are RMS-normalised over each head's width before the rotation (Qwen3)
    dtype: as the checkpoint names it, or "" where it does not
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope: RopeConfig
    windows: tuple[int | None, ...]
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    dtype: str
    eos_token_ids: frozenset[int]

    @property
    def table_size(self) -> int:
        """Weights of the embedding, and as many of the head."""
        return self.vocab_size * self.hidden_size

    @property
    def linear_size(self) -> int:
        """Weights of all matrix products, the head's among them."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * (attention + mlp) + self.table_size

    @property
    def num_parameters(self) -> int:
        """Without norms and biases."""
        return self.linear_size + (0 if self.tied else self.table_size)


class ConfigFields:
    """Reads typed fields of one JSON file; every complaint names the file and the field."""

    def __init__(self, data: JsonObject, path: Path) -> None:
        self.data = data
        self.path = path

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}")

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_WIDTH) -> int:
        value = self.data.get(name)
        if value is None:
            if default is None:
                raise self.fail(f"{name} is missing; is this the config of a language model?")
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(f"{name} must be a whole number in [{low}, {high}], got {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.data.get(name)
        if value is None:
            if default is None:
                raise self.fail(f"{name} is missing")
            value = default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            raise self.fail(f"{name} must be a positive number, got {value!r}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.data.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(f"{name} must be true or false, got {value!r}")
        return value

    def architecture(self) -> str:
        names = self.data.get("architectures")
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            raise self.fail(f"architectures must be a list with one name, got {names!r}")
        return names[0]

    def dtype(self) -> str:
        """The type of the weights as the checkpoint names it, or "" where it does not."""
        return str(self.data.get("dtype") or self.data.get("torch_dtype") or "").removeprefix("torch.")

    def table(self, name: str) -> JsonObject:
        value = self.data.get(name) or {}
        if not isinstance(value, dict):
            raise self.fail(f"{name} must be an object, got {value!r}")
        return value


@dataclass(frozen=True, slots=True)
class _Family:
    """What an architecture's name implies beyond the fields of its config."""

    qkv_bias: Callable[[ConfigFields], bool]
    output_bias: Callable[[ConfigFields], bool]
    windows: Callable[[ConfigFields, int], tuple[int | None, ...]]
    qk_norm: bool = False


def _attention_bias(fields: ConfigFields) -> bool:
    return fields.boolean("attention_bias", False)


def _always(_: ConfigFields) -> bool:
    return True


def _never(_: ConfigFields) -> bool:
    return False


def _no_window(_: ConfigFields, layers: int) -> tuple[int | None, ...]:
    return (None,) * layers


def _same_window(fields: ConfigFields, layers: int) -> tuple[int | None, ...]:
    window = fields.data.get("sliding_window")
    return (None if window is None else fields.integer("sliding_window", high=MAX_CONTEXT),) * layers


def _window_by_layer(fields: ConfigFields, layers: int) -> tuple[int | None, ...]:
    """Qwen: `layer_types` decides where it is given, else the layers from `max_window_layers` on are windowed."""
    if not fields.boolean("use_sliding_window", False) or fields.data.get("sliding_window") is None:
        return _no_window(fields, layers)
    window = fields.integer("sliding_window", high=MAX_CONTEXT)
    kinds = fields.data.get("layer_types")
    if kinds is None:
        first = fields.integer("max_window_layers", 28, low=0)
        return tuple(window if i >= first else None for i in range(layers))
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
        raise fields.fail(f"layer_types must name one of {', '.join(known)} for each of {layers} layers, got {kinds!r}")
    return tuple(known[kind] for kind in kinds)


FAMILIES = {
    "LlamaForCausalLM": _Family(_attention_bias, _attention_bias, _no_window),
    "MistralForCausalLM": _Family(_never, _never, _same_window),
    "Qwen2ForCausalLM": _Family(_always, _never, _window_by_layer),
    "Qwen3ForCausalLM": _Family(_attention_bias, _attention_bias, _window_by_layer, qk_norm=True),
}


def read_json(path: Path) -> JsonObject:
    """Raises CheckpointError where the file is missing, unreadable or no JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing; a checkpoint is a folder with config.json and safetensors"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(data).__name__}")
    return data


# the same decoders without a head, as embedding models are saved
HEADLESS = {name.replace("ForCausalLM", "Model"): name for name in FAMILIES}


def read_model_config(directory: Path, overrides: JsonObject | None = None) -> ModelConfig:
    """The model that `directory/config.json` describes; `auto_map` and other pointers to code are not followed.

    overrides: fields that stand in place of the file's
    Raises CheckpointError with the file and the field for what is missing, wrong or not supported.
    """
    path = directory / "config.json"
    fields = ConfigFields(_overridden(read_json(path), overrides or {}), path)
    architecture = _architecture(fields)
    family = FAMILIES[architecture]
    _refuse_unsupported(fields)
    hidden = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.fail(f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({kv_heads})")
    layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    vocab = fields.integer("vocab_size", high=1 << 24)
    context = fields.integer("max_position_embeddings", 2048, high=MAX_CONTEXT)
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_head_dim(fields, hidden, heads),
        context_length=context,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=_rope(fields, context),
        windows=family.windows(fields, layers),
        tied=fields.boolean("tie_word_embeddings", False),
        qkv_bias=family.qkv_bias(fields),
        output_bias=family.output_bias(fields),
        mlp_bias=fields.boolean("mlp_bias", False) if architecture == "LlamaForCausalLM" else False,
        qk_norm=family.qk_norm,
        dtype=fields.dtype(),
        eos_token_ids=_eos_token_ids(directory, fields, vocab),
    )


def _overridden(data: JsonObject, overrides: JsonObject) -> JsonObject:
    data = {**data, **overrides}
    table: Any = data.get("rope_parameters")
    if "rope_theta" in overrides and isinstance(table, dict):  # the newer place of this field, which wins
        data["rope_parameters"] = {**cast(JsonObject, table), "rope_theta": overrides["rope_theta"]}
    return data


def _architecture(fields: ConfigFields) -> str:
    name = fields.architecture()
    name = HEADLESS.get(name, name)
    if name not in FAMILIES:
        code = "; code of a checkpoint (its auto_map) is never run" if fields.data.get("auto_map") else ""
        raise fields.fail(f"architecture {name} is not supported; supported are {', '.join(FAMILIES)}{code}")
    return name


def _refuse_unsupported(fields: ConfigFields) -> None:
    activation = fields.data.get("hidden_act", "silu")
    if activation != "silu":
        raise fields.fail(f"hidden_act {activation!r} is not supported; supported is silu")
    if fields.data.get("quantization_config"):
        raise fields.fail("quantization_config: quantized checkpoints are not supported; use the original weights")


def _head_dim(fields: ConfigFields, hidden: int, heads: int) -> int:
    if fields.data.get("head_dim") is None and hidden % heads:
        raise fields.fail(f"hidden_size ({hidden}) must be a multiple of num_attention_heads ({heads})")
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise fields.fail(f"head_dim must be even (rotary embedding turns pairs), got {head_dim}")
    return head_dim


def _rope(fields: ConfigFields, context: int) -> RopeConfig:
    """Both spellings: `rope_parameters` holds everything, or `rope_theta` stands beside `rope_scaling`."""
    table = {**fields.table("rope_scaling"), **fields.table("rope_parameters")}
    rope = ConfigFields(table, fields.path)
    kind = table.get("rope_type") or table.get("type") or "default"
    if kind not in ("default", "llama3"):
        raise fields.fail(f"rope type {kind!r} is not supported; supported are default and llama3")
    if table.get("partial_rotary_factor", fields.data.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise fields.fail("partial_rotary_factor other than 1 is not supported")
    theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0))
    if kind == "default":
        return RopeConfig(theta=theta)
    return RopeConfig(
        theta=theta,
        kind="llama3",
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings", context, high=MAX_CONTEXT),
    )


def _eos_token_ids(directory: Path, config: ConfigFields, vocab: int) -> frozenset[int]:
    """From generation_config.json where that names any, else from config.json."""
    fields = config
    path = directory / "generation_config.json"
    if path.exists():
        generation = ConfigFields(read_json(path), path)
        if generation.data.get("eos_token_id") is not None:
            fields = generation
    value = fields.data.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
            raise fields.fail(f"eos_token_id must be a token id in [0, {vocab}), got {token!r}")
    return frozenset(ids)
