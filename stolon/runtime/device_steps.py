"""Launches plans on a device: what is to be known is sent, the forward pass enqueued, nothing waited for."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.choose import Operators
from .accelerator import Accelerator
from .device_attention import Arrays, AttentionPlans, DeviceAttention
from .device_batch import Arranged, Size, arrange, batch_sizes, fill_batch
from .device_penalties import TokenCounts
from .device_step import DeviceStep, Drawing
from .graphs import DecodeGraphs, Forward
from .kv import KVCache
from .models.decoder import Decoder
from .sequence import Plan
from .slot_table import News, SlotTable
from .staging import DeviceArrays, Layout, Parcel, Staging


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """A model on a device, and what its steps need besides the KV cache.

    turns: made by `rotations`; most_rows: sequences that compute at once
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
        self._staging = Staging(accelerator, _capacity(model))
        self._drawing = Drawing(
            accelerator=accelerator,
            operators=model.operators,
            decoder=model.decoder,
            eos_token_ids=model.eos_token_ids,
            staging=Staging(accelerator, 64 * model.most_rows),
            counts=TokenCounts(accelerator, model.decoder.config.vocab_size),
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
        arranged = arrange(plan)
        graph = self.graphs.size_for(arranged.size.rows) if arranged.only_decodes else None
        size = arranged.size if graph is None else Size.decode(graph)
        lines, news = self._model.table.assign(arranged.plan.rows)
        arrays, shares = self._model.plans.plan(arranged, size, lines)
        parcel = self._send(arranged, size, arrays, news)
        self._model.table.write(parcel.device)
        if graph is not None and self._staging.owns(parcel) and self.graphs.has(graph, shares=shares):
            hidden = self.graphs.replay(graph, shares=shares)
        elif not plan.rows:
            hidden = torch.empty(0)
        else:
            hidden = self._forward(parcel.device, size, shares=shares)()
        self._drawn_at = [-1] * len(plan.rows)
        for place, row in enumerate(arranged.wanted.sampling):
            self._drawn_at[arranged.order[row]] = place
        return DeviceStep(self._drawing, arranged, parcel.device, hidden)

    def _send(self, arranged: Arranged, size: Size, arrays: Arrays, news: News) -> Parcel:
        """The one copy of a launch. What is new in the table comes last: how much that is moves nothing else."""
        sizes = batch_sizes(size)
        sizes |= {name: array.size for name, array in arrays.items()}
        sizes |= dict.fromkeys(SlotTable.ARRAYS, len(news.slots))
        parcel = self._staging.open(Layout(sizes))
        fill_batch(parcel.host, arranged, size, self._drawn_at)
        for name, array in arrays.items():
            parcel.host.int32(name)[:] = array
        for name, array in zip(SlotTable.ARRAYS, (news.lines, news.positions, news.slots), strict=True):
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
        parcel = self._send(nobody, size, arrays, News.none())
        return self._forward(parcel.device, size, shares=shares)


def _capacity(model: DeviceModel) -> int:
    """Numbers in the arrays of any step whose rows are new by one token each, or are prompts of not many pieces."""
    size = Size(*(model.most_tokens, model.most_rows, model.most_rows, model.most_rows, model.most_rows))
    planner = model.plans.planner(model.most_rows)
    attention = (4 * planner.items + 5 * planner.prefixes + 2 * model.most_rows) * len(model.plans.windows)
    tiles = 2 * (model.most_tokens + model.most_rows)
    news = 3 * 2 * model.most_tokens
    padding = 1024
    return sum(batch_sizes(size).values()) + attention + tiles + news + padding
