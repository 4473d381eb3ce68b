"""Models that read whole texts at once: batches without padding, attention within each text."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..kernels.choose import operators
from ..lang.errors import InvalidRequest
from .config import EngineConfig, Pooling
from .loading import DTYPES, context_length
from .models.config import ConfigFields, ModelConfig, read_json, read_model_config
from .models.decoder import Decoder, MakeLinear
from .models.encoder import Classifier, Encoder
from .models.encoder_config import ENCODERS, EncoderConfig, read_encoder_config
from .models.linear import Linear, LinearOptions, PlainLinear, make_linear, packing_works
from .models.rotary import TurnedAttention, cos_sin, inverse_frequencies
from .pooling import PoolingConfig, has_pooling, pool, read_pooling
from .weights import Checkpoint


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as a model reads it. types: for each token, of which text of a pair it is; empty where all are 0."""

    ids: Sequence[int]
    types: Sequence[int] = ()


class PackedModel(Protocol):
    """width: of the vectors; context_length: longest text; is_classifier: vectors are logits of labels"""

    width: int
    vocab_size: int
    context_length: int
    is_classifier: bool
    report: str

    def vectors(self, texts: Sequence[Tokens]) -> Tensor:
        """float32 [texts, width], normalised unless they are logits"""
        ...


def embeds(directory: Path) -> bool:
    """Whether the checkpoint is one of an embedding model or a classifier, not one that generates."""
    name = _architecture(directory)
    return name in ENCODERS or not name.endswith("ForCausalLM") or has_pooling(directory)


def load_packed(directory: Path, config: EngineConfig) -> PackedModel:
    """Raises CheckpointError where the checkpoint is wrong, InvalidRequest where the settings are."""
    if config.device == "cuda":
        raise InvalidRequest("embedding models run on the CPU only; use --device cpu", param="device")
    if config.quantization != "none":
        raise InvalidRequest("quantization is for models that generate; use none", param="quantization")
    if config.hf_overrides is not None:
        raise InvalidRequest("hf_overrides is for models that generate; edit config.json", param="hf_overrides")
    if config.dtype == "float16":
        raise InvalidRequest("dtype float16 is too slow on a CPU; use bfloat16, float32 or auto", param="dtype")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    # small as these models mostly are, float32 costs little, and bfloat16's third digit would cost recall
    dtype = DTYPES["float32" if config.dtype == "auto" else config.dtype]
    name = _architecture(directory)
    with torch.inference_mode():
        if name in ENCODERS:
            return EncoderModel(directory, name, config, dtype)
        return DecoderModel(directory, config, dtype)


def _architecture(directory: Path) -> str:
    path = directory / "config.json"
    return ConfigFields(read_json(path), path).architecture()


class RaggedAttention:
    """Attention within each of several texts that stand one after another; texts of one length are attended together.

    lengths: ascending, so that equal ones are neighbours; windows: of each layer, as in ModelConfig
    """

    def __init__(self, lengths: Sequence[int], *, causal: bool, windows: tuple[int | None, ...]) -> None:
        self._runs = list(_runs(lengths))
        self._causal = causal
        self._windows = windows
        self._masks: dict[tuple[int, int], Tensor] = {}

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query: [tokens, heads, head_dim]; key, value: [tokens, kv_heads, head_dim]; returns [tokens, width]"""
        groups = query.shape[1] // key.shape[1]
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for start, count, length in self._runs:
            end = start + count * length
            parts = [x[start:end].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value)]
            if groups > 1:
                parts[1:] = [x.repeat_interleave(groups, 1) for x in parts[1:]]
            window = self._windows[layer]
            mask = None if window is None or window >= length else self._window_mask(length, window)
            attended = functional.scaled_dot_product_attention(
                *parts, attn_mask=mask, is_causal=self._causal and mask is None
            )
            out[start:end] = attended.transpose(1, 2).flatten(0, 1)
        return out.flatten(1)

    def _window_mask(self, length: int, window: int) -> Tensor:
        found = self._masks.get((length, window))
        if found is None:
            back = torch.arange(length).unsqueeze(1) - torch.arange(length)
            found = (back < window) & ((back >= 0) if self._causal else (back > -window))
            self._masks[length, window] = found
        return found


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first token, texts, length) of neighbours of equal length"""
    start = at = 0
    for place, length in enumerate(lengths):
        if place + 1 == len(lengths) or lengths[place + 1] != length:
            count = place + 1 - at
            yield start, count, length
            start, at = start + count * length, place + 1


@dataclass(frozen=True, slots=True)
class _Packed:
    """Texts one after another, shortest first. order: places of the texts as they came; positions: in each text"""

    order: Tensor
    lengths: Tensor
    ids: Tensor
    positions: Tensor
    types: Tensor

    @classmethod
    def of(cls, texts: Sequence[Tokens]) -> _Packed:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place].ids))
        ids: list[int] = []
        positions: list[int] = []
        types: list[int] = []
        for place in order:
            text = texts[place]
            ids.extend(text.ids)
            positions.extend(range(len(text.ids)))
            types.extend(text.types or [0] * len(text.ids))
        lengths = [len(texts[place].ids) for place in order]
        return cls(*(torch.tensor(each, dtype=torch.int64) for each in (order, lengths, ids, positions, types)))

    def attention(self, *, causal: bool, windows: tuple[int | None, ...]) -> RaggedAttention:
        return RaggedAttention(self.lengths.tolist(), causal=causal, windows=windows)

    def unsorted(self, rows: Tensor) -> Tensor:
        """`rows`, one a text, in the order in which the texts came."""
        out = torch.empty_like(rows)
        out[self.order] = rows
        return out


class EncoderModel:
    """A BERT-like encoder with its pooling, or with its classifier."""

    def __init__(self, directory: Path, architecture: str, config: EngineConfig, dtype: torch.dtype) -> None:
        model = read_encoder_config(directory, architecture)
        said = read_pooling(directory)
        self.pooling: Pooling = _pooling(config, said, "cls")
        self.vocab_size = model.vocab_size
        self.context_length = context_length(config, model.context_length, said.context_length(model.context_length))
        self._windows = (None,) * model.num_layers
        self._num_types = model.num_types
        linear = _linear_maker(dtype)
        with Checkpoint(directory, dtype, tied=False) as checkpoint:
            body = _Named(checkpoint, f"{model.body}.")
            self._encoder = Encoder(model, body, linear)
            self._classifier = None
            if model.labels:
                # BERT's pooler belongs to the body, the rest of a classifier does not
                head = _Named(checkpoint, f"{model.body}.", bare=("classifier",))
                self._classifier = Classifier(model, head, linear)
            # what pre-training needed, and tables that old exports store
            checkpoint.drop(*(f"{start}{name}" for start in ("", f"{model.body}.") for name in _UNUSED))
            checkpoint.finish()
        self.is_classifier = model.labels > 0
        self.width = model.labels or model.hidden_size
        self.report = _report(model, dtype, "classifier" if model.labels else f"{self.pooling} pooling")

    def vectors(self, texts: Sequence[Tokens]) -> Tensor:
        packed = _Packed.of(texts)
        with torch.inference_mode():
            attend = packed.attention(causal=False, windows=self._windows)
            # a tokenizer may count the texts of a pair where the model does not tell them apart
            types = packed.types.clamp(max=self._num_types - 1)
            hidden = self._encoder.hidden(packed.ids, packed.positions, types, attend)
            if self._classifier is not None:
                return packed.unsorted(self._classifier(pool(hidden, packed.lengths, "cls").to(hidden.dtype)).float())
            return packed.unsorted(_normalised(pool(hidden, packed.lengths, self.pooling)))


_UNUSED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.", "lm_head.")


class DecoderModel:
    """A decoder whose last hidden states are pooled; it keeps no KV cache."""

    def __init__(self, directory: Path, config: EngineConfig, dtype: torch.dtype) -> None:
        # the head is not needed: as if it were the table of embeddings, which is there anyway
        model = dataclasses.replace(read_model_config(directory), tied=True)
        said = read_pooling(directory)
        self.pooling: Pooling = _pooling(config, said, "last")
        self.vocab_size, self.width = model.vocab_size, model.hidden_size
        self.context_length = context_length(config, model.context_length, said.context_length(model.context_length))
        self.is_classifier = False
        self._windows = model.windows
        self._frequencies = inverse_frequencies(model.rope, model.head_dim)
        path = directory / "config.json"
        self._causal = ConfigFields(read_json(path), path).boolean("is_causal", True)
        with Checkpoint(directory, dtype, tied=True) as checkpoint:
            linear = _linear_maker(dtype, model.vocab_size)
            self._decoder = Decoder(model, _Named(checkpoint, "model."), linear, dtype, operators("cpu"))
            checkpoint.finish()
        self.report = _report(model, dtype, f"{self.pooling} pooling")

    def vectors(self, texts: Sequence[Tokens]) -> Tensor:
        packed = _Packed.of(texts)
        with torch.inference_mode():
            ragged = packed.attention(causal=self._causal, windows=self._windows)
            cos, sin = cos_sin(packed.positions, self._frequencies, self._decoder.dtype)
            attend = TurnedAttention(self._decoder.config, cos, sin, ragged)
            keep = torch.arange(len(packed.ids))
            if self.pooling == "last":
                keep = packed.lengths.cumsum(0) - 1
            hidden = self._decoder.hidden(packed.ids, attend, keep)
            lengths = torch.ones_like(packed.lengths) if self.pooling == "last" else packed.lengths
            return packed.unsorted(_normalised(pool(hidden, lengths, self.pooling)))


class _Named:
    """A checkpoint's tensors under the names that a model asks for, whatever stands before them in the file.

    bare: starts of names before which nothing stands
    Checkpoints of 2018 say gamma and beta for a norm's weight and bias.
    """

    def __init__(self, checkpoint: Checkpoint, prefix: str, *, bare: tuple[str, ...] = ()) -> None:
        self._checkpoint = checkpoint
        self._prefix = prefix
        self._bare = bare

    def take(self, name: str, *shape: int) -> Tensor:
        full = name if name.startswith((*self._bare, self._prefix)) else f"{self._prefix}{name}"
        spellings = [full, full.removeprefix(self._prefix)]
        spellings += [s.replace("LayerNorm.weight", "LayerNorm.gamma") for s in spellings]
        spellings += [s.replace("LayerNorm.bias", "LayerNorm.beta") for s in spellings]
        found = next((s for s in spellings if s in self._checkpoint), full)
        return self._checkpoint.take(found, *shape)


def _linear_maker(dtype: torch.dtype, table_rows: int = 0) -> MakeLinear:
    """table_rows: of a product that will never be made; its weights stay as they are, which costs nothing"""
    options = LinearOptions(packed=packing_works(dtype))

    def make(weight: Tensor, bias: Tensor | None) -> Linear:
        return PlainLinear(weight, bias) if weight.shape[0] == table_rows else make_linear(weight, bias, options)

    return make


def _pooling(config: EngineConfig, said: PoolingConfig, default: Pooling) -> Pooling:
    """The flag decides, then the checkpoint, then what is usual for the kind of model."""
    if config.pooling != "auto":
        return config.pooling
    return said.pooling or default


def _normalised(vectors: Tensor) -> Tensor:
    """At length 1; a vector of zeros stays one."""
    return functional.normalize(vectors, dim=-1)


def _report(model: ModelConfig | EncoderConfig, dtype: torch.dtype, what: str) -> str:
    kind = str(dtype).removeprefix("torch.")
    return f"weights: {model.architecture}, {model.num_parameters / 1e6:.1f} M parameters, {kind}, {what}"
