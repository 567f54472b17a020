"""Visual Query Tuning: learned queries summarise each layer of a frozen backbone (Tu et al., 2023, arXiv:2212.03220).

    z_l = block_l(queries_l | tokens_{l-1})       no token attends to the queries: the tokens are the backbone's own
    features = [norm(pooled), norm(z_1), ..., norm(z_L)],     norm(z_l) = z_l / ||z_l||, over all queries of a layer

The paper's optional second stage selects features, see `selection.py`. The tokens never change, so each layer's normed
input is all that must be stored of an image (see `features/`), and no gradient passes through the backbone.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.attention import look
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.observation import Kind, Observation
from peft_vision.backbone.stage import Need
from peft_vision.core.config import HashDefault, IdleWith, component
from peft_vision.method.base import Method, Phase, Readout
from peft_vision.method.prompts import Prompts
from peft_vision.method.selection import selection_phases

Summary = Literal["concatenate", "mean", "weighted_sum"]


@component
class VQT(Method):
    """A method that trains queries on each chosen layer.

    `summary`: how the outputs of a layer's queries become features. `normalize`: whether the pooled features and each
    layer's summary are scaled to length one. `keep_fraction`: share of the features that the last phase keeps (None:
    all, in one phase). `selects_as_released`: whether both selection phases train at half the learning rate and with
    dropout on the queries, as in the authors' code; otherwise the last one trains at the full rate, and neither uses
    dropout.
    """

    num_queries: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    summary: Summary
    normalize: bool
    keep_fraction: Annotated[float, Field(gt=0, le=1)] | None
    lasso: Annotated[NonNegativeFloat, IdleWith("keep_fraction", None)]
    selects_as_released: Annotated[bool, HashDefault(False), IdleWith("keep_fraction", None)]

    def needs(self) -> frozenset[Need]:
        return frozenset({"contexts"})

    def attach(self, encoder: Encoder) -> None:
        """Leave the backbone unchanged."""

    def reads(self) -> frozenset[Kind]:
        return Queries.reads

    def readout(self, encoder: Encoder) -> "Queries":
        """Return a readout with L * Q * D parameters for L layers, Q queries, width D; L * Q more for a weighted
        sum."""
        return Queries(
            encoder,
            self.chosen(encoder),
            num_queries=self.num_queries,
            dropout=self.dropout,
            summary=self.summary,
            normalize=self.normalize,
        )

    def phases(self, encoder: Encoder) -> tuple[Phase, ...]:
        """Return the phase of queries and head; with `keep_fraction`, also one whose head selects features and one
        whose head reads them."""
        train = Phase("train")
        if self.keep_fraction is None:
            return (train,)
        half = 0.5  # times the rate that trained the queries, as in the paper's code
        choosing = selection_phases(
            keep_fraction=self.keep_fraction,
            lasso=self.lasso,
            selecting_lr=half,
            retraining_lr=half if self.selects_as_released else 1.0,
            live_readout=self.selects_as_released,
        )
        return (train, *choosing)


class Queries(Readout):
    """A readout with Q learned queries for each of the encoder's layers at `indices`; it uses these layers and does not
    own them."""

    reads = frozenset({"features", "contexts"})

    def __init__(
        self,
        encoder: Encoder,
        indices: tuple[int, ...],
        *,
        num_queries: int,
        dropout: float,
        summary: Summary,
        normalize: bool,
    ) -> None:
        super().__init__()
        stages = [encoder.stages[index] for index in indices]
        self.indices = self.contexts_of = indices
        self.first_layer = indices[0]
        self.queries = nn.ModuleList(
            Prompts(num_queries, stage.width, encoder.trunk.patch_size, dropout=dropout) for stage in stages
        )
        self.weights = nn.Parameter(torch.ones(len(indices), num_queries)) if summary == "weighted_sum" else None
        self.summary = summary
        self.normalize = normalize
        self._trunk = encoder.trunk
        # in a tuple, so the encoder's parameters are not registered here
        self.layers: Sequence[nn.Module] = tuple(stage.module for stage in stages)
        summarised = num_queries if summary == "concatenate" else 1
        self.width = encoder.width + sum(stage.width for stage in stages) * summarised

    def forward(self, seen: Observation) -> Tensor:
        """Return features (B, D + L * Q * D), or (B, D + L * D) where a layer's queries are averaged or summed."""
        positions = self._trunk.positions()
        outputs = [
            look(layer, queries(context.shape[0]), context, positions[index])
            for layer, queries, context, index in zip(
                self.layers, self.queries, seen.contexts, self.indices, strict=True
            )
        ]
        summaries = [self._summarised(output, number) for number, output in enumerate(outputs)]
        pooled, summaries = seen.features, torch.stack(summaries, dim=1)
        if self.normalize:
            pooled, summaries = F.normalize(pooled.float(), dim=-1), F.normalize(summaries.float(), dim=-1)
        return torch.cat([pooled, summaries.flatten(1)], dim=-1)

    def _summarised(self, outputs: Tensor, number: int) -> Tensor:
        """Map a layer's outputs (B, Q, D) to (B, Q * D) or (B, D)."""
        if self.summary == "mean":
            return outputs.mean(dim=1)
        if self.summary == "weighted_sum":
            return torch.einsum("bqd,q->bd", outputs, self.weights[number])
        return outputs.flatten(1)
