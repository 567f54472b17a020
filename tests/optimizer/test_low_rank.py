"""Steps in subspaces: against torch and galore-torch, through refreshes, faults, resumes and backward passes."""

from io import BytesIO
from itertools import pairwise

import pytest
import torch
from torch import nn

from low_rank_steps import ADAM, SHAPES, gradient, optimizer, parameters, run
from peft_vision.core.config import ConfigError
from peft_vision.optimizer import projection
from peft_vision.optimizer.projection import leading
from peft_vision.optimizer.restore import footprint
from peft_vision.optimizer.rule import AdamRule, Momentum


def assert_same(first, second, **tolerance):
    for tensor, expected in zip(first, second, strict=True):
        torch.testing.assert_close(tensor, expected, **tolerance)


def test_what_is_not_projected_moves_as_with_torchs_adamw():
    ours = run(optimizer([], parameters()), 7)
    torchs = run(torch.optim.AdamW(parameters(), lr=0.01, weight_decay=0.1), 7)
    assert_same(ours, torchs, rtol=1e-5, atol=1e-6)


def test_what_is_not_projected_moves_as_with_torchs_momentum():
    ours = run(optimizer([], parameters(), rule=Momentum(0.9), weight_decay=0.0), 7)
    assert_same(ours, run(torch.optim.SGD(parameters(), lr=0.01, momentum=0.9), 7), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("side", ["std", "reverse_std", "left", "right", "full"])
def test_galore_torch_computes_the_same_step_for_step(side, weight_decay):
    galore_torch = pytest.importorskip("galore_torch")
    matrices, others = parameters(), parameters([(5,), (4, 6)], seed=1)
    projected = {"params": matrices, "rank": 3, "update_proj_gap": 3, "scale": 0.25, "proj_type": side}
    published = galore_torch.GaLoreAdamW(
        [projected, {"params": others}], lr=0.01, weight_decay=weight_decay, no_deprecation_warning=True
    )
    ours = optimizer(
        parameters(),
        parameters([(5,), (4, 6)], seed=1),
        rule=AdamRule(betas=(0.9, 0.999), eps=1e-6, eps_first=True),
        side=side,
        scale=0.25,
        moments="keep",
        weight_decay=weight_decay,
        decay_first=False,
        lapack_signs=True,
    )
    for step in range(8):  # with three refreshes
        assert_same(run(ours, 1, first=step), run(published, 1, first=step), rtol=1e-5, atol=2e-6)


def with_other_signs(*arguments, **options):
    basis = leading(*arguments, **options)
    return basis * torch.tensor([-1.0, 1.0, -1.0])


def test_no_sign_of_a_singular_vector_decides_anything(monkeypatch):
    weights = run(optimizer(parameters()), 10)
    published = run(optimizer(parameters(), moments="keep"), 10)
    signs = iter(range(100))

    def changing(*arguments, **options):
        return with_other_signs(*arguments, **options) if next(signs) % 2 else leading(*arguments, **options)

    monkeypatch.setattr(projection, "leading", changing)
    assert_same(run(optimizer(parameters()), 10), weights, rtol=1e-4, atol=1e-5)
    kept = run(optimizer(parameters(), moments="keep"), 10)
    assert max(float((first - second).abs().max()) for first, second in zip(kept, published, strict=True)) > 1e-3


def test_moments_turn_with_their_coordinates():
    """Renaming coordinates and changing their signs changes nothing but that."""
    mean, square = torch.randn(5, 3), torch.rand(5, 3)
    square += mean.square()
    turn = projection.Projection(None, torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    turned_mean, turned_square = ADAM.turned([mean, square], turn, 4)
    torch.testing.assert_close(turned_mean, mean[:, [2, 0, 1]] * torch.tensor([1.0, -1.0, 1.0]))
    torch.testing.assert_close(turned_square, square[:, [2, 0, 1]])


def test_the_variance_of_turned_coordinates_is_that_of_independent_ones():
    torch.manual_seed(0)
    spread, middle = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.3, -0.2, 0.1])
    samples = middle + spread * torch.randn(200_000, 3)
    rotation = torch.linalg.qr(torch.randn(3, 3))[0]
    biases = (1 - 0.9**5, 1 - 0.999**5)
    kept = [middle[None] * biases[0], (spread.square() + middle.square())[None] * biases[1]]
    _, turned = ADAM.turned(kept, projection.Projection(None, rotation), 5)
    measured = (samples @ rotation).square().mean(dim=0)
    torch.testing.assert_close(turned[0] / biases[1], measured, rtol=0.02, atol=0)


def refresh_steps(stepper, steps: int) -> list[list[int]]:
    """Of each matrix."""
    counted: list[list[int]] = [[] for _ in stepper.param_groups[0]["params"]]
    for step in range(steps):
        run(stepper, 1, first=step)
        for place, parameter in enumerate(stepper.param_groups[0]["params"]):
            if stepper.state[parameter]["refreshes"] > len(counted[place]):
                counted[place].append(step)
    return counted


def test_all_subspaces_are_found_at_first_and_then_every_gap():
    assert refresh_steps(optimizer(parameters(), gap=4), 10) == [[0, 4, 8]] * 3


def test_staggered_matrices_take_turns():
    assert refresh_steps(optimizer(parameters(), gap=6, staggered=True), 16) == [[0, 6, 12], [0, 2, 8, 14], [0, 4, 10]]


def test_a_gap_doubles_where_a_subspace_stays(monkeypatch):
    stepper = optimizer(parameters([(6, 4), (6, 4)]), gap=2, adaptive_gap=0.9)
    first, second = stepper.param_groups[0]["params"]
    steady = gradient(first, 0, 0)
    refreshed: list[int] = []
    for step in range(30):
        first.grad, second.grad = steady.clone(), torch.randn(6, 4)
        before = stepper.state[first].get("refreshes", 0)
        stepper.step()
        refreshed += [step] if stepper.state[first]["refreshes"] > before else []
    assert refreshed == [0, 2, 4, 6, 8, 10, 14, 22]  # five turns are seen at 10, and at each refresh from there on
    assert stepper.state[second]["gap"] == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(value):
    stepper = optimizer(parameters(), parameters([(5,)]))
    matrix, other, spoilt, vector = [p for group in stepper.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in (matrix, other, spoilt, vector)]
    for place, parameter in enumerate((matrix, other, spoilt, vector)):
        parameter.grad = gradient(parameter, 0, place)
    spoilt.grad[0, 0] = value
    vector.grad[1] = value
    stepper.step()
    moved = [not torch.equal(p, old) for p, old in zip((matrix, other, spoilt, vector), before, strict=True)]
    assert moved == [True, True, False, False]
    assert footprint(stepper)["skipped_gradients"] == 2
    run(stepper, 1)  # the first refresh of what was skipped
    assert all(torch.isfinite(p).all() for p in (spoilt, vector))
    assert not torch.equal(spoilt, before[2])


def test_a_decomposition_that_does_not_converge_is_tried_again(monkeypatch):
    stepper = optimizer(parameters([(6, 4)]))

    def diverges(*_, **__):
        raise torch.linalg.LinAlgError

    with monkeypatch.context() as patch:
        patch.setattr(projection, "leading", diverges)
        (weights,) = run(stepper, 1)
    torch.testing.assert_close(weights, parameters([(6, 4)])[0].detach())
    run(stepper, 1, first=1)
    assert footprint(stepper)["skipped_gradients"] == 1
    assert footprint(stepper)["refreshes"] == 1


def saved(stepper) -> dict:
    """Its state, through a file that holds tensors and plain values only."""
    file = BytesIO()
    torch.save(stepper.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"algorithm": "power", "staggered": True},
        {"algorithm": "random", "moments": "keep", "update": "apollo"},
        {"update": "fira", "adaptive_gap": 0.4},
        {"bits": 8, "shapes": ((80, 60), (60, 90)), "rank": 57},
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [3, 4])
def test_a_state_goes_on_to_the_same_bits(options, steps):
    options = dict(options)
    shapes = options.pop("shapes", SHAPES)
    whole = optimizer(parameters(shapes), parameters([(5,)]), **options)
    expected = run(whole, 9)
    begun = optimizer(parameters(shapes), parameters([(5,)]), **options)
    middle = run(begun, steps)
    goes_on = optimizer(parameters(shapes), parameters([(5,)]), **options)
    for parameter, weights in zip((p for group in goes_on.param_groups for p in group["params"]), middle, strict=True):
        parameter.data.copy_(weights)
    goes_on.load_state_dict(saved(begun))
    state = next(iter(goes_on.state.values()))
    assert {value.dtype for value in state.values() if isinstance(value, torch.Tensor)} >= (
        {torch.uint8} if "bits" in options else set()
    )
    run(begun, 1, first=steps)  # shares nothing with what was loaded
    assert all(map(torch.equal, run(goes_on, 9 - steps, first=steps), expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 4}, "optimizer.rank: got 4, and the run began with 3; start it anew, or set optimizer.rank=3"),
        ({"side": "left"}, "optimizer.side: got left, and the run began with std; .*"),
        ({"bits": 8}, "optimizer.bits: got 8, .*"),
    ],
)
def test_a_state_of_other_subspaces_is_refused(options, message):
    begun = optimizer(parameters())
    run(begun, 1)
    with pytest.raises(ConfigError, match=message):
        optimizer(parameters(), **options).load_state_dict(saved(begun))


def test_a_state_of_other_matrices_is_refused():
    begun = optimizer(parameters(), parameters([(4, 5)]))
    run(begun, 1)
    matrices = parameters()
    with pytest.raises(ConfigError, match=r"optimizer.matrices: .* other matrices"):
        optimizer(matrices[:2], matrices[2:]).load_state_dict(saved(begun))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))

    def stepper(self):
        named = dict(self.named_parameters())
        return optimizer(
            [p for name, p in named.items() if name.endswith("weight")],
            [p for name, p in named.items() if name.endswith("bias")],
            staggered=True,
        )

    def backward(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        self.layers(torch.randn(16, 6, generator=generator)).square().mean().backward()


def test_steps_during_the_backward_pass_are_the_same_and_free_each_gradient():
    together, apart = Network(), Network()
    first, second = together.stepper(), apart.stepper()
    with second.during_backward():
        for step in range(7):
            first.zero_grad(set_to_none=True)
            together.backward(step)
            first.step()
            apart.backward(step)
            assert all(parameter.grad is None for parameter in apart.parameters())
            second.step()
    assert all(map(torch.equal, together.parameters(), apart.parameters()))
    assert first.gradient_bytes == sum(p.nbytes for p in together.parameters())
    assert second.gradient_bytes < first.gradient_bytes / 2
    apart.backward(7)
    assert all(parameter.grad is not None for parameter in apart.parameters())  # no hook is left


def test_a_convolution_is_a_matrix_of_its_filters():
    stepper = optimizer(parameters([(6, 3, 2, 2)]))
    twin = optimizer(parameters([(6, 3, 2, 2)]))
    (matrix,) = twin.param_groups[0]["params"]
    flat = nn.Parameter(matrix.detach().flatten(1).clone())
    flat_stepper = optimizer([flat])
    for step in range(5):
        matrix.grad = gradient(matrix, step, 0)
        flat.grad = matrix.grad.flatten(1).clone()
        twin.step()
        flat_stepper.step()
    assert torch.equal(matrix.flatten(1), flat)
    assert run(stepper, 1)[0].shape == (6, 3, 2, 2)


def test_the_whole_rank_leaves_fira_nothing_to_add():
    options = {"rank": 8, "gap": 100}
    whole = run(optimizer(parameters(), **options), 6)
    assert_same(run(optimizer(parameters(), update="fira", **options), 6), whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("update", ["fira", "apollo"])
def test_what_is_outside_the_subspace_moves_as_far_as_the_rule_moves_the_inside(update):
    stepper = optimizer(parameters([(12, 8)]), update=update, weight_decay=0.0, lr=1.0)
    (matrix,) = stepper.param_groups[0]["params"]
    before, slope = matrix.detach().clone(), gradient(matrix, 0, 0)
    matrix.grad = slope.clone()
    stepper.step()
    moved = before - matrix.detach()
    basis = stepper.state[matrix]["right"]
    low = slope @ basis
    direction = low.sign()  # of Adam's first step
    phi = (direction.norm(dim=1) / low.norm(dim=1))[:, None]
    expected = phi * slope if update == "apollo" else direction @ basis.T + phi * (slope - low @ basis.T)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("update", ["low_rank", "fira", "apollo"])
def test_a_matrix_waits_for_a_gradient_that_shows_a_subspace(update, weight_decay):
    """As LoRA's `down`, whose gradient is zero while `up` is; until then it is decayed only."""
    options = {"update": update, "weight_decay": weight_decay, "gap": 100}
    waiting, begun = (optimizer(parameters(), **options) for _ in range(2))
    for matrix in waiting.param_groups[0]["params"]:
        matrix.grad = torch.zeros_like(matrix)
    waiting.step()
    for matrix in begun.param_groups[0]["params"]:
        matrix.data *= 1 - 0.01 * weight_decay
    assert_same(run(waiting, 5), run(begun, 5), rtol=0, atol=0)
    assert footprint(waiting)["skipped_gradients"] == 0


@pytest.mark.parametrize("update", ["fira", "apollo"])
def test_the_part_of_full_rank_grows_by_a_hundredth_a_step_at_most(update):
    stepper = optimizer(parameters([(12, 8)]), update=update, gap=100)
    (matrix,) = stepper.param_groups[0]["params"]
    norms = []
    for step in range(4):
        matrix.grad = gradient(matrix, step, 0) * (0.1 if step == 0 else 1.0)
        stepper.step()
        norms.append(float(stepper.state[matrix]["full_rank_norm"]))
    growth = [second / first for first, second in pairwise(norms)]
    assert max(growth) <= 1.0101


@pytest.mark.parametrize("update", ["fira", "apollo"])
def test_a_gradient_of_zero_between_others_holds_nothing_back(update):
    stepper = optimizer(parameters([(12, 8)]), update=update, gap=100)
    (matrix,) = stepper.param_groups[0]["params"]
    norms = []
    for scale in (1.0, 0.0, 1.0):
        matrix.grad = gradient(matrix, 0, 0) * scale
        stepper.step()
        norms.append(float(stepper.state[matrix]["full_rank_norm"]))
    assert norms[1] == norms[0]
    assert norms[2] > norms[0] / 2
