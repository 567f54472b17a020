"""This module computes one place of a backbone for a batch in which each image has its own adapter.

    y = after_a(x, W before_a(x))    for an image of adapter a, where W is the backbone's own and is multiplied once

Adapters are of one kind at a place where they have modules that can be computed at once (`stack.py`). Where the weight
itself is an adapter's own, or a module does not say what it does before and after, the adapter's module computes its
own images.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.backbone.linear import LINEAR, Around, Wrapper, part
from peft_vision.mixing.route import ImageSpan, Route
from peft_vision.mixing.stack import Stack, own_tensors, signature


@dataclass
class Kind:
    """The modules that compute images of one kind at a place. `levels`: their wrappers from the outermost to the
    innermost around the backbone's own module; `whole`: modules that compute in its stead, or None."""

    levels: list[Stack] = field(default_factory=list)
    whole: Stack | None = None


class OwnBias(Around):
    """The change of a bias that an adapter trained."""

    def __init__(self, inner: nn.Module, bias: nn.Parameter, base: Tensor) -> None:
        super().__init__(inner)
        self.bias = bias
        self._base = (base,)  # in a tuple, so that it is none of its own tensors

    def after(self, inputs: Tensor, outputs: Tensor, rows: slice) -> Tensor:
        """Return the outputs (..., rows), or (B, C, H, W) of a convolution, with the adapter's bias."""
        shift = (self.bias - self._base[0])[rows]
        return outputs + (shift if isinstance(self.inner, LINEAR) else shift.view(-1, 1, 1))


class MixedPlace(Wrapper):
    """The backbone's own module `inner`, with what adapters have in its place. `modules`: of each adapter the module
    there, which is a wrapper around the same module, a module with tensors of its own, or the same. `shared`: the
    addresses of the backbone's tensors."""

    def __init__(self, inner: nn.Module, modules: Sequence[nn.Module], route: Route, shared: Collection[int]) -> None:
        super().__init__(inner)
        self.route = route
        chains = [_chain(module, inner, shared) for module in modules]
        numbered = enumerate(zip(chains, modules, strict=True))
        names = [_name(chain, module, number, shared) for number, (chain, module) in numbered]
        self.kinds = _numbered(names)
        self.cells: list[Kind] = []
        for kind in range(len(set(self.kinds))):
            here = [number for number, of in enumerate(self.kinds) if of == kind]
            if chains[here[0]] is None:
                self.cells.append(Kind(whole=Stack([modules[number] for number in here], shared)))
            else:
                levels = zip(*(chains[number] for number in here), strict=True)
                self.cells.append(Kind(levels=[Stack(level) for level in levels]))

    def stacks(self) -> Iterator[Stack]:
        """Yield the stacks of all kinds."""
        for cell in self.cells:
            yield from cell.levels if cell.whole is None else [cell.whole]

    def merged(self) -> nn.Module:
        raise NotImplementedError("a place of several adapters has no plain module")

    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        """Map (B, ..., I), or (1, ..., I) for what all images share, to (B, ..., rows), each image by its adapter."""
        if len(tokens) == 1:
            tokens = tokens.expand(len(self.route.adapters), *tokens.shape[1:])
        spans = self.route.spans(self.kinds)
        cells = [self.cells[span.kind] for span in spans]
        steps = [_before(cell, span, span.of(tokens)) for cell, span in zip(cells, spans, strict=True)]
        product = self._product(tokens, rows, spans, steps)
        outputs = []
        for cell, span, inputs, plain in zip(cells, spans, steps, product, strict=True):
            if cell.whole is not None:
                outputs.append(cell.whole.call(lambda module, x: part(module, x, rows), span, inputs[0]))
            else:
                outputs.append(_after(cell, span, inputs, plain, rows))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _product(
        self, tokens: Tensor, rows: slice, spans: Sequence[ImageSpan], steps: Sequence[list[Tensor]]
    ) -> list[Tensor | None]:
        """Return for each span the outputs of `inner`, which is called once; None for those that others compute."""
        ours = [number for number, span in enumerate(spans) if self.cells[span.kind].whole is None]
        found: list[Tensor | None] = [None] * len(spans)
        if not ours:
            return found
        read = [steps[number][-1] for number in ours]
        unchanged = len(ours) == len(spans) and all(steps[number][0] is steps[number][-1] for number in ours)
        whole = part(self.inner, tokens if unchanged else torch.cat(read), rows)
        if len(ours) == 1:  # which may be changed in place, as a part of several may not
            found[ours[0]] = whole
            return found
        for number, outputs in zip(ours, whole.split([len(inputs) for inputs in read]), strict=True):
            found[number] = outputs
        return found


def _before(cell: Kind, span: ImageSpan, rows: Tensor) -> list[Tensor]:
    """Return what each wrapper of a kind reads, from the outermost on, and at last what the backbone's module reads."""
    steps = [rows]
    for stack in cell.levels:
        idle = type(stack.modules[0]).before is Around.before
        steps.append(steps[-1] if idle else stack.call(lambda module, x: module.before(x), span, steps[-1]))
    return steps


def _after(cell: Kind, span: ImageSpan, inputs: Sequence[Tensor], outputs: Tensor, rows: slice) -> Tensor:
    """Return the outputs of a kind's outermost wrapper from those of the backbone's module."""
    for stack, read in zip(reversed(cell.levels), reversed(inputs[:-1]), strict=True):
        if type(stack.modules[0]).after is not Around.after:
            outputs = stack.call(lambda module, x, y: module.after(x, y, rows), span, read, outputs)
    return outputs


def _chain(module: nn.Module, inner: nn.Module, shared: Collection[int]) -> list[Around] | None:
    """Return an adapter's wrappers around `inner`, outermost first, none where it has the backbone's own module; None
    where its module must compute alone."""
    chain: list[Around] = []
    while isinstance(module, Around):
        if not module.divides:
            return None
        chain.append(module)
        module = module.inner
    if type(module) is not type(inner):
        return None
    own = own_tensors(module, shared)
    if not own:
        return chain
    if own.keys() == {"bias"} and isinstance(module, (*LINEAR, nn.Conv2d)):
        return [*chain, OwnBias(module, own["bias"], inner.bias)]
    return None


def _name(chain: list[Around] | None, module: nn.Module, number: int, shared: Collection[int]) -> Hashable:
    """Return what the adapters of one kind have in common; an adapter that is computed alone shares its own number with
    none."""
    if chain is None and isinstance(module, nn.LayerNorm):
        return "whole", signature(module), tuple(own_tensors(module, shared))
    if chain is None or not all(wrapper.batches for wrapper in chain):
        return "alone", number
    return tuple(map(signature, chain))


def _numbered(names: Iterable[Hashable]) -> tuple[int, ...]:
    """Return for each name its number, in the order of their first occurrence."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)


class MixedPort(nn.Module):
    """A module in the place of those that adapters put into one port of a layer. `modules`: of each adapter the module
    there, or None; `otherwise`: maps the tokens of images without one to what the port gives for them."""

    def __init__(
        self, modules: Sequence[nn.Module | None], route: Route, otherwise: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.route = route
        self.otherwise = otherwise
        self.kinds = _numbered(None if module is None else signature(module) for module in modules)
        self.of_kinds: list[Stack | None] = []
        for kind in range(len(set(self.kinds))):
            here = [module for module, of in zip(modules, self.kinds, strict=True) if of == kind]
            self.of_kinds.append(None if here[0] is None else Stack(here))

    def stacks(self) -> Iterator[Stack]:
        """Yield the stacks of all kinds."""
        yield from (stack for stack in self.of_kinds if stack is not None)

    def forward(self, *tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D), and perhaps their normed ones, to what the port gives, each image by its adapter."""
        outputs = []
        for span in self.route.spans(self.kinds):
            stack, rows = self.of_kinds[span.kind], [span.of(part) for part in tokens]
            outputs.append(self.otherwise(rows[0]) if stack is None else stack.call(_call, span, *rows))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _call(module: nn.Module, *rows: Tensor) -> Tensor:
    return module(*rows)


class MixedContext(nn.Module):
    """The context tokens that adapters have in one layer, (P_a, D) of adapter a, filled up with zeros to the most that
    an image of the pass has; `padding` hides these. `live`: whether they train, and so are read anew in each pass."""

    def __init__(self, contexts: Sequence[nn.Module | None], route: Route, width: int) -> None:
        super().__init__()
        self.route = route
        self._contexts, self._width = tuple(contexts), width  # in a tuple, so that they are no children
        self.counts = tuple(0 if context is None else len(context(1)[0]) for context in contexts)
        self.live = False
        self.register_buffer("tokens", self._filled().detach(), persistent=False)

    def _filled(self) -> Tensor:
        """Return the tokens (A, P, D) of all adapters."""
        held = [None if context is None else context(1)[0] for context in self._contexts]
        known = next(tokens for tokens in held if tokens is not None)
        none = known.new_zeros(0, self._width)
        rows = [none if tokens is None else tokens for tokens in held]
        return torch.stack([F.pad(tokens, (0, 0, 0, max(self.counts) - len(tokens))) for tokens in rows])

    @property
    def most(self) -> int:
        """Return the number of context tokens that each image of the pass is given."""
        return max(self.counts[number] for number in self.route.adapters)

    def forward(self, batch: int) -> Tensor:
        """Return the tokens (B, P, D) of the images of the pass."""
        tokens = self._filled() if self.live else self.tokens
        return tokens[list(self.route.adapters), : self.most]

    def padding(self, columns: int) -> Tensor | None:
        """Return what hides the filling, (B, 1, 1, columns): 0, or minus infinity; None where there is no filling."""
        counts = [self.counts[number] for number in self.route.adapters]
        most = max(counts)
        if min(counts) == most:
            return None
        beyond = torch.arange(most) >= torch.tensor(counts)[:, None]
        hidden = torch.zeros(len(counts), 1, 1, columns)
        hidden[:, 0, 0, columns - most :].masked_fill_(beyond, float("-inf"))
        return hidden.to(self.tokens.device)
