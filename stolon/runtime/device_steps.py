"""Launches plans on a device: what is to be known is sent, the forward pass enqueued, nothing waited for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.choose import Operators
from .accelerator import Accelerator
from .device_attention import AttentionPlans, DeviceAttention
from .device_batch import Arranged, Size, arrange, batch_sizes, fill_batch
from .device_masks import MaskStaging
from .device_penalties import TokenCounts
from .device_step import DeviceStep, Drawing
from .device_wishes import gather_wishes
from .graphs import DecodeGraphs, Forward
from .kv import KVCache
from .models.decoder import Decoder
from .sequence import Plan
from .slot_table import News, SlotTable
from .staging import Arrays, DeviceArrays, Layout, Parcel, Staging


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """A model on a device, and what its steps need besides the KV cache.

    turns: made by `rotations`; most_rows: of a step
    """

    accelerator: Accelerator
    operators: Operators
    decoder: Decoder
    plans: AttentionPlans
    turns: Tensor
    table: SlotTable
    eos_token_ids: frozenset[int]
    most_rows: int
    most_tokens: int


class DeviceSteps:
    """Computes plans over one KV cache.

    graphs: recorded decode steps; none until they are recorded
    """

    def __init__(self, model: DeviceModel, cache: KVCache) -> None:
        self.cache = cache
        self._model = model
        accelerator = model.accelerator
        vocab_size = model.decoder.config.vocab_size
        self._staging = Staging(accelerator, _capacity(model))
        self.masks = MaskStaging(accelerator, vocab_size, model.most_rows)
        self._drawing = Drawing(
            accelerator=accelerator,
            operators=model.operators,
            decoder=model.decoder,
            eos_token_ids=model.eos_token_ids,
            masks=self.masks,
            counts=TokenCounts(accelerator, vocab_size),
            drawn=torch.zeros(model.most_rows, dtype=torch.int32, device=accelerator.device),
        )
        self._drawn_at: list[int] = []  # by row of the plan launched last, the place of its draw
        self.graphs = DecodeGraphs(accelerator, self._prepare)

    def launch(self, plan: Plan) -> DeviceStep:
        """Enqueue the forward pass of `plan`. What fails leaves no trace but in the KV slots of its rows."""
        try:
            with torch.inference_mode():
                return self._launch(plan)
        except BaseException:
            self._model.table.forget()
            self._drawing.counts.forget()
            raise

    def _launch(self, plan: Plan) -> DeviceStep:
        arranged, drawing = arrange(plan), self._drawing
        graph = self.graphs.size_for(arranged.size.rows) if arranged.only_decodes else None
        size = arranged.size if graph is None else Size.decode(graph)
        lines, news = self._model.table.assign(arranged.plan.rows)
        arrays, shares = self._model.plans.plan(arranged, size, lines)
        wishes = gather_wishes(
            arranged.plan, arranged.wanted, drawing.counts, drawing.eos_token_ids, drawing.decoder.config.vocab_size
        )
        parcel = self._send(arranged, size, arrays, news, wishes.arrays)
        self._model.table.write(parcel.device)
        if wishes.counts:
            drawing.counts.update(parcel.device)
        if graph is not None and self._staging.owns(parcel) and self.graphs.has(graph, shares=shares):
            hidden = self.graphs.replay(graph, shares=shares)
        elif not plan.rows:
            hidden = torch.empty(0)
        else:
            hidden = self._forward(parcel.device, size, shares=shares)()
        self._drawn_at = [-1] * len(plan.rows)
        for place, row in enumerate(arranged.wanted.sampling):
            self._drawn_at[arranged.order[row]] = place
        return DeviceStep(drawing, arranged, wishes, parcel.device, hidden)

    def _send(self, arranged: Arranged, size: Size, attention: Arrays, news: News, wishes: Arrays) -> Parcel:
        """The one copy of a launch. What no graph reads comes last: how much that is moves nothing else."""
        arrays = attention | dict(zip(SlotTable.ARRAYS, (news.lines, news.positions, news.slots), strict=True)) | wishes
        parcel = self._staging.open(Layout(batch_sizes(size) | {name: array.size for name, array in arrays.items()}))
        fill_batch(parcel.host, arranged, size, self._drawn_at)
        for name, array in arrays.items():
            parcel.host.int32(name)[:] = array
        parcel.send()
        return parcel

    def _forward(self, arrays: DeviceArrays, size: Size, *, shares: bool) -> Forward:
        """The forward pass over arrays that may be filled anew before it runs."""
        model = self._model
        attention = DeviceAttention(
            model.operators, model.plans, self.cache, model.table.tensor, model.turns, arrays, size, shares=shares
        )
        ids, sources, kept = map(arrays.int32, ("ids", "sources", "kept"))
        drawn = self._drawing.drawn

        def forward() -> Tensor:
            # a row whose draw failed drew -1; what it computes now is thrown away
            known = torch.where(sources >= 0, drawn[sources.clamp(min=0)].clamp(min=0), ids)
            return model.decoder.hidden(known, attention, kept)

        return forward

    def _prepare(self, rows: int, shares: bool) -> Forward:
        """A decode step of nothing but padding, in the buffer that never moves."""
        nobody, size = arrange(Plan([])), Size.decode(rows)
        arrays, _ = self._model.plans.plan(nobody, size, [], prefixes=shares)
        parcel = self._send(nobody, size, arrays, News.none(), {})
        return self._forward(parcel.device, size, shares=shares)


# Numbers that one row may ask for in all: a token and a value for each of 1,024 biases and 128 stop tokens, 128 ids to
# look up, and what penalties need for a few new tokens. A tenth of the row's line in the table at contexts of 32k.
_WISHES = 2 * (1024 + 128 + 128) + 64


def _capacity(model: DeviceModel) -> int:
    """Numbers in the arrays of any step whose rows are new by one token each, or are prompts of not many pieces that
    were counted up to these."""
    size = Size(*(model.most_tokens, model.most_rows, model.most_rows, model.most_rows, model.most_rows))
    planner = model.plans.planner(model.most_rows)
    attention = (4 * planner.items + 5 * planner.prefixes + 2 * model.most_rows) * len(model.plans.windows)
    tiles = 2 * (model.most_tokens + model.most_rows)
    news = 3 * 2 * model.most_tokens
    wishes = 3 * model.most_tokens + _WISHES * model.most_rows
    padding = 1024
    return sum(batch_sizes(size).values()) + attention + tiles + news + wishes + padding
