"""A head that normalises by the batch sees the whole batch, whoever computes it."""

import threading

import pytest
import torch
from torch import Tensor, nn

from peft_vision.core.config import ConfigError
from peft_vision.head import base
from peft_vision.head.base import BatchNorm
from peft_vision.head.segmentation import BatchNorm2d
from peft_vision.training.checks import check_whole_batch
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_trainer import PLAIN, fit


def features(count: int, *, seed: int = 0) -> Tensor:
    return 3 + 2 * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def assert_same_buffers(first: nn.Module, second: nn.Module) -> None:
    for name, buffer in first.named_buffers():
        torch.testing.assert_close(buffer, dict(second.named_buffers())[name], msg=name)


def test_in_one_process_it_is_torchs():
    ours, torchs = BatchNorm(5), nn.BatchNorm1d(5, affine=False)
    for seed in range(3):
        batch = features(7, seed=seed)
        assert torch.equal(ours(batch), torchs(batch))
    assert torch.equal(ours.eval()(features(4)), torchs.eval()(features(4)))
    assert_same_buffers(ours, torchs)


def over_processes(norm: BatchNorm, shares: list[Tensor], monkeypatch, make=BatchNorm) -> list[Tensor]:
    """What each process makes of its share, one after the other until they meet."""
    meeting = threading.Barrier(len(shares))
    parts: dict[int, Tensor] = {}
    found: dict[int, Tensor] = {}
    norms = [norm, *(make(5) for _ in shares[1:])]
    for other in norms[1:]:
        other.load_state_dict(norm.state_dict())

    def summed(part: Tensor) -> Tensor:
        parts[int(threading.current_thread().name)] = part
        meeting.wait()
        total = sum(parts[number] for number in sorted(parts))
        meeting.wait()
        return total

    def compute(number: int) -> None:
        found[number] = norms[number](shares[number])

    monkeypatch.setattr(base, "_processes", lambda: len(shares))
    monkeypatch.setattr(base, "_summed", summed)
    threads = [threading.Thread(target=compute, args=(number,), name=str(number)) for number in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in norms[1:]:
        assert_same_buffers(norm, other)
    return [found[number] for number in range(len(shares))]


@pytest.mark.parametrize("count", [2, 7])
def test_processes_normalise_by_the_statistics_of_the_whole_batch(count, monkeypatch):
    whole, divided = (features(count).requires_grad_() for _ in range(2))
    torchs, ours = nn.BatchNorm1d(5, affine=False), BatchNorm(5)
    expected = torchs(whole)
    found = over_processes(ours, [divided[number::3] for number in range(3)], monkeypatch)  # one may have none
    for number, share in enumerate(found):
        torch.testing.assert_close(share, expected[number::3])
    assert_same_buffers(torchs, ours)
    slope = torch.randn(count, 5)
    (expected * slope).sum().backward()
    sum((share * slope[number::3]).sum() for number, share in enumerate(found)).backward()
    torch.testing.assert_close(divided.grad, whole.grad, rtol=1e-4, atol=1e-5)


def test_a_norm_of_grids_over_processes_is_that_of_the_whole_batch(monkeypatch):
    grids = torch.randn(6, 5, 3, 2)
    whole, divided = BatchNorm2d(5), BatchNorm2d(5)
    for norm in (whole, divided):
        norm.scale.data.uniform_(1, 2)
        norm.shift.data.uniform_(1, 2)
    divided.load_state_dict(whole.state_dict())
    expected = whole(grids)
    torch.testing.assert_close(
        expected, nn.BatchNorm2d(5, affine=False)(grids) * whole.scale.view(-1, 1, 1) + whole.shift.view(-1, 1, 1)
    )
    found = over_processes(divided, list(grids.split(2)), monkeypatch, make=BatchNorm2d)
    torch.testing.assert_close(torch.cat(found), expected)
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(divided.get_buffer(name), buffer)


def test_rounded_grids_are_counted_and_averaged_as_if_they_were_not(monkeypatch):
    """Of 2,548 places, which bf16 takes for 2,544."""
    grids = features(2548).view(13, 14, 14, 5).movedim(-1, 1).bfloat16()
    whole, divided = BatchNorm2d(5), BatchNorm2d(5)
    expected, in_one = whole(grids.float()), BatchNorm(5)(grids[:, :, 0, 0])
    found = over_processes(divided, [grids[:7], grids[7:]], monkeypatch, make=BatchNorm2d)
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-2, atol=1e-2)
    assert_same_buffers(whole, divided)
    in_two = over_processes(BatchNorm(5), list(grids[:, :, 0, 0].split(7)), monkeypatch)
    assert [share.dtype for share in in_two] == [in_one.dtype] * 2


def test_one_image_is_normalised_by_the_running_averages_which_it_leaves_alone(monkeypatch):
    norm = BatchNorm(5)
    norm(features(50))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    expected = norm.eval()(features(1))
    norm.train()
    assert torch.equal(norm(features(1)), expected)
    alone, none = over_processes(norm, [features(1), features(0)], monkeypatch)
    torch.testing.assert_close(alone, expected)
    assert none.shape == (0, 5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


def test_a_last_batch_of_one_image_trains():
    rows = fit(adapted("linear", head={"norm": "batch"}), batch_size=10)  # of 21 images
    assert all(torch.tensor(row["train/loss"]).isfinite() for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 2}, r"trainer.accumulate: head.0 \(head.norm=batch\) .* 2 parts of it one by one; set trainer"),
        ({"batch_size": 1}, r"trainer.batch_size: head.0 \(head.norm=batch\) .* one image has no spread"),
    ],
)
def test_what_would_show_it_a_part_of_the_batch_is_refused(options, message):
    trainer = Trainer(**{**PLAIN, **options})
    with pytest.raises(ConfigError, match=message):
        check_whole_batch(adapted("linear", head={"norm": "batch"}), trainer, processes=1)
    for norm in ("none", "layer"):
        check_whole_batch(adapted("linear", head={"norm": norm}), trainer, processes=1)


def test_another_norm_that_does_not_look_at_other_processes_is_refused_there():
    model = adapted("linear")
    model.head.append(nn.BatchNorm1d(4))
    check_whole_batch(model, Trainer(**PLAIN), processes=1)
    with pytest.raises(ConfigError, match=r"head\.1 normalises by the batch, of which each of 2 processes sees a part"):
        check_whole_batch(model, Trainer(**PLAIN), processes=2)
    check_whole_batch(adapted("linear", head={"norm": "batch"}), Trainer(**PLAIN), processes=2)


def test_another_norm_that_would_see_a_part_or_a_single_last_image_is_refused():
    model, trainer = adapted("linear"), Trainer(**{**PLAIN, "batch_size": 8})
    model.head.append(nn.BatchNorm1d(4))
    check_whole_batch(model, trainer, processes=1, images=18)
    with pytest.raises(ConfigError, match=r"^trainer.batch_size: got 8, and head\.1 .* the last of 17 images has one"):
        check_whole_batch(model, trainer, processes=1, images=17)
    check_whole_batch(adapted("linear", head={"norm": "batch"}), trainer, processes=1, images=17)
    with pytest.raises(ConfigError, match=r"2 parts of it one by one; set trainer\.accumulate=1$"):
        check_whole_batch(model, Trainer(**{**PLAIN, "accumulate": 2}), processes=1)
