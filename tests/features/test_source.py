"""Observations come in batches as images do."""

import torch

from peft_vision.models.observations import FeatureTable, Observed

LABELS = torch.arange(5) % 2
CONTEXTS = torch.randn(15, 2, 3, 4, generator=torch.Generator().manual_seed(0))
FEATURES = torch.arange(15.0).view(15, 1)
BATCHES = [torch.tensor([3, 0]), torch.tensor([4]), torch.tensor([], dtype=torch.int64)]


def viewed() -> Observed:
    return Observed(LABELS, {"features": FEATURES, "contexts": CONTEXTS})


def test_a_batch_is_made_of_the_asked_rows():
    source = Observed(LABELS, {"features": FEATURES[:5].half(), "contexts": CONTEXTS[:5].half()})
    for indices, (seen, labels) in zip(BATCHES, source.batches(BATCHES, seed=1, workers=3), strict=True):
        assert torch.equal(seen.features, FEATURES[indices])
        assert seen.features.dtype == torch.float32
        assert torch.equal(torch.stack(seen.contexts, dim=1), CONTEXTS[indices].half())
        assert torch.equal(labels, LABELS[indices])
        assert seen.intermediates is None


def test_a_seed_draws_a_view_of_each_image_and_no_seed_takes_the_first():
    source = viewed()
    everything = [torch.arange(5)]
    drawn = set()
    for seed in range(30):
        ((seen, labels),) = source.batches(everything, seed=seed, workers=0)
        ((again, _),) = source.batches(everything, seed=seed, workers=0)
        assert torch.equal(seen.features, again.features)
        places = seen.features.squeeze(1).long()
        assert torch.equal(places % 5, torch.arange(5))
        assert torch.equal(torch.stack(seen.contexts, dim=1), CONTEXTS[places])
        assert torch.equal(labels, LABELS)
        drawn |= set(places.tolist())
    assert drawn == set(range(15))
    ((first, _),) = source.batches(everything, seed=None, workers=0)
    assert torch.equal(first.features, FEATURES[:5])


def test_in_order_every_view_comes_once():
    seen, labels = zip(*viewed().in_order(batch_size=4, workers=0), strict=True)
    assert torch.equal(torch.cat([each.features for each in seen]), FEATURES)
    assert torch.equal(torch.cat(labels), LABELS.repeat(3))


def test_a_table_hands_out_features():
    table = FeatureTable(LABELS, FEATURES[:5])
    ((features, labels),) = table.batches([torch.tensor([2, 1])], seed=7, workers=0)
    assert (features.tolist(), labels.tolist()) == ([[2.0], [1.0]], [0, 1])
    assert torch.equal(torch.cat([features for features, _ in table.in_order(batch_size=2, workers=0)]), FEATURES[:5])
