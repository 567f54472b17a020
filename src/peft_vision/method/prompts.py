"""This module provides learned tokens: the prompts of VPT and the queries of VQT.

Their initial values are uniform within +- sqrt(6 / (3 * patch height * patch width + width)), as in the code of both
papers.
"""

import math

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """A module that holds P learned tokens of the given width, or of `project`'s input width, for a backbone with
    patches of `patch_size` pixels. `stem_width`: width of the backbone's first tokens, which bounds the initial values
    where widths grow from layer to layer (None: the width of these tokens)."""

    def __init__(
        self,
        num_prompts: int,
        width: int,
        patch_size: tuple[int, int],
        *,
        dropout: float,
        project: nn.Linear | None = None,
        stem_width: int | None = None,
    ) -> None:
        super().__init__()
        width = width if project is None else project.in_features
        first = stem_width if stem_width is not None and project is None else width
        patch_height, patch_width = patch_size
        bound = math.sqrt(6 / (3 * patch_height * patch_width + first))
        self.prompts = nn.Parameter(torch.empty(num_prompts, width).uniform_(-bound, bound))
        self.project = project
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: int) -> Tensor:
        """Return the tokens (1, P, D), or (batch, P, D) while dropout draws a mask for each image."""
        prompts = self.prompts if self.project is None else self.project(self.prompts)
        if self.training and self.dropout.p > 0:
            return self.dropout(prompts.expand(batch, -1, -1))
        return prompts.unsqueeze(0)


def projection(width: int | None, out_width: int) -> nn.Linear | None:
    """Return a linear map from prompts of another width; None for None. Its weights are normal with the standard
    deviation sqrt(2 / out_width), as in the code of VPT."""
    if width is None:
        return None
    project = nn.Linear(width, out_width)
    nn.init.kaiming_normal_(project.weight, mode="fan_out")
    return project
