"""What would be too large is never made."""

import pytest
import torch
from torch import nn

from peft_vision.core.trust import Bounded, TooLarge

MANY = 10**13  # more than any machine has room for

MAKERS = {
    "zeros": lambda n: torch.zeros(n),
    "empty": lambda n: torch.empty(n, 1),
    "randn": lambda n: torch.randn(1, n),
    "full": lambda n: torch.full((n,), 1.0),
    "new_zeros": lambda n: torch.ones(1).new_zeros(n),
    "arange": lambda n: torch.arange(n),
    "linspace": lambda n: torch.linspace(0, 1, n),
    "eye": lambda n: torch.eye(n, 1),
    "repeat": lambda n: torch.ones(1).repeat(n),
    "a layer": lambda n: nn.Linear(n, 1),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_more_than_the_bound_is_refused_before_it_is_made(make):
    with pytest.raises(TooLarge), Bounded(100):
        make(MANY)
    with Bounded(200):
        make(90)


def test_the_bound_is_on_all_together():
    with Bounded(100):
        torch.zeros(60)
        with pytest.raises(TooLarge):
            torch.zeros(50)


def test_views_count_for_nothing():
    with Bounded(10):
        assert torch.zeros(5).view(5, 1).expand(5, 100).reshape(500).shape == (500,)
