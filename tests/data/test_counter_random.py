import numpy as np
import torch

from peft_vision.data.draws import below, bits


def test_a_number_depends_on_seed_index_and_stream_only():
    together = bits(torch.arange(100), seed=5, stream=1)
    assert np.array_equal(together[[42, 7]], bits(torch.tensor([42, 7]), seed=5, stream=1))
    assert not np.isin(together, bits(torch.arange(100), seed=6, stream=1)).any()
    assert not np.isin(together, bits(torch.arange(100), seed=5, stream=2)).any()


def test_any_integer_is_a_seed():
    words = [bits(torch.arange(4), seed=seed, stream=0)[0] for seed in (-1, 0, 2**40, 2**63, 2**64 - 2)]
    assert len(set(words)) == 5


def test_numbers_below_a_limit_are_spread_evenly():
    counts = np.bincount(below(5, torch.arange(100_000), seed=0, stream=0), minlength=5)
    assert abs(counts - 20_000).max() < 600  # four standard deviations and a half


def test_streams_and_neighbours_are_uncorrelated():
    a, b = (below(1000, torch.arange(100_000), seed=0, stream=s) for s in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.015
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.015


def splitmix(word: int) -> int:
    """The finaliser in whole numbers of Python."""
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def test_numbers_are_those_of_splitmix64():
    """Its first two outputs for the seed 1234567 are published, such as on Rosetta Code."""
    assert splitmix(1234567) == 6457827717110365317
    assert splitmix(1234567 + 0x9E3779B97F4A7C15) == 3203168211198807973
    expected = [splitmix(splitmix(splitmix(5) + index) + 3) for index in range(10)]
    assert bits(torch.arange(10), seed=5, stream=3).tolist() == expected
