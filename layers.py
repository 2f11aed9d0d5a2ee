"""The nets of [KD] s.3: 784 pixels, two hidden layers of rectified linear units, 10 logits.

A file to copy into another project: it needs nothing but PyTorch.

    cumbersome  784-1200-1200-10  2,395,210 weights and biases, trained as in [DO]
    small       784-800-800-10    1,276,810, without regularisation

A checkpoint of this project holds weights that are scaled for test time:

    net = CumbersomeNet(1200)
    net.load_state_dict(torch.load("cumbersome_model_1200.pt", weights_only=True)["state_dict"])
    net.eval()

[KD] Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531
[DO] Hinton et al., Improving neural networks by preventing co-adaptation of feature detectors,
     arXiv 1207.0580, appendix A
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXELS, CLASSES = 784, 10
LAYERS = ("hidden1", "hidden2", "output")


def drop(units: Tensor, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Zero each element with `probability` and leave the others as they are: the original dropout.

    Unlike nn.Dropout the rest is *not* divided by the keep probability ([DO]); at test time the
    outgoing weights are multiplied by it instead. Random bits come from the `generator`, which is
    on the device of the units, or from PyTorch's global one.
    """
    if generator and generator.device != units.device:  # as in a replica of nn.DataParallel
        generator = None
    mask = _mask_from_bits if units.device.type == "cpu" else _mask_from_floats
    return units * mask(units, probability, generator)


def _mask_from_floats(
    units: Tensor, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """Which units are kept, on any device: a uniform number for each."""
    return torch.rand(units.shape, device=units.device, generator=generator) >= probability


def _mask_from_bits(
    units: Tensor, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """Ones for units that are kept, on the processor: 16 random bits for each (8 for one half).

    The probability is exact to 2^-16, in a tenth of the time of `bernoulli_`, which takes as long
    as the matrix product.
    """
    dtype = torch.int8 if probability == 0.5 else torch.int16
    size = torch.iinfo(dtype).bits // 8
    words = torch.empty(-(-units.numel() * size // 8), dtype=torch.int64, device="cpu")
    # All 64 bits of each: by default the sign would stay 0.
    words.random_(-(2**63), None, generator=generator)
    drawn = words.view(dtype)[: units.numel()].view(units.shape)
    lowest, values = torch.iinfo(dtype).min, 2 ** torch.iinfo(dtype).bits
    threshold = min(lowest + round(probability * values), lowest + values - 1)
    # Straight into ones and zeros of the units' dtype: a fifth of the time of bools, converted.
    return torch.ge(drawn, threshold, out=torch.empty_like(units, requires_grad=False))


class DroppedLinear(nn.Linear):
    """A linear layer with dropout on its inputs; in eval mode it scales its weights ([DO]).

    The buffer `keep` marks weights that are not scaled yet, wherever they are saved.
    """

    generator: torch.Generator | None = None  # of the random bits; by default PyTorch's global one

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__(inputs, outputs)
        self.dropout = dropout
        self.register_buffer("keep", torch.tensor(1 - dropout, dtype=torch.float32))

    def forward(self, units: Tensor) -> Tensor:
        if self.training:
            return super().forward(drop(units, self.dropout, self.generator))
        return F.linear(units, self.weight * (1 - self.dropout), self.bias)


def linear(inputs: int, outputs: int, dropout: float) -> nn.Linear:
    """A linear layer; without dropout a plain nn.Linear, which every tool knows."""
    return DroppedLinear(inputs, outputs, dropout) if dropout else nn.Linear(inputs, outputs)


class RectifierNet(nn.Module):
    """784 pixels, two hidden layers of rectified linear units, 10 logits ([KD] s.3)."""

    stream = 0  # changes the seed: nets of two streams share no random numbers

    def __init__(self, hidden_units: int, dropout_visible: float, dropout_hidden: float):
        super().__init__()
        self.hidden_units = hidden_units
        self.dropouts = (dropout_visible, dropout_hidden, dropout_hidden)  # of each layer's inputs
        self.hidden1 = linear(PIXELS, hidden_units, dropout_visible)
        self.hidden2 = linear(hidden_units, hidden_units, dropout_hidden)
        self.output = linear(hidden_units, CLASSES, dropout_hidden)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, 10) of pixels in [0, 1] of shape (N, 784), (N, 28, 28) or (N, 1, 28, 28)."""
        units = self.relu1(self.hidden1(pixels.flatten(1)))
        units = self.relu2(self.hidden2(units))
        return self.output(units)

    def _load_from_state_dict(self, state: dict, prefix: str, *options: Any) -> None:
        """Refuse weights that were saved with other dropout, as they would compute another thing.

        Those of a net without dropout are scaled for test time; a net with dropout scales them.
        """
        *_, errors = options
        for layer, dropout in zip(LAYERS, self.dropouts, strict=True):
            keep = float(state.get(f"{prefix}{layer}.keep", 1.0))
            if abs(keep - (1 - dropout)) > 4e-3:  # more than the rounding of bfloat16
                errors.append(
                    f"{layer} has dropout {dropout:g}, but its weights were saved by a layer with "
                    f"dropout {1 - keep:.3g}: load them into a net with the same"
                )
        super()._load_from_state_dict(state, prefix, *options)

    @torch.no_grad()
    def constrain(self, max_squared_length: float) -> None:
        """Scale down the incoming weights of hidden units whose squared length exceeds the maximum.

        [DO] app. A. All units of a layer at once; neither shorter weight vectors are touched, nor
        layers whose weights are not to be trained.
        """
        for layer in (self.hidden1, self.hidden2):
            if not layer.weight.requires_grad:
                continue
            length = torch.linalg.vector_norm(layer.weight, dim=-1, keepdim=True)
            layer.weight.mul_((max_squared_length**0.5 / length).clamp_(max=1))


class CumbersomeNet(RectifierNet):
    """The cumbersome net of [KD] s.3: 1200 units per layer.

    [DO] trains it with dropout of 0.2 and 0.5; without, it takes what `scale_weights` returns.
    """

    def __init__(
        self, hidden_units: int = 1200, dropout_visible: float = 0.0, dropout_hidden: float = 0.0
    ):
        super().__init__(hidden_units, dropout_visible, dropout_hidden)


class SmallNet(RectifierNet):
    """The small net of [KD] s.3, as a rule without dropout.

    It shares no random numbers with its teacher, a cumbersome net of the same seed.
    """

    stream = 2**31  # above the seeds of the scripts; PyTorch uses 32 bits of a seed

    def __init__(
        self, hidden_units: int = 800, dropout_visible: float = 0.0, dropout_hidden: float = 0.0
    ):
        super().__init__(hidden_units, dropout_visible, dropout_hidden)


@torch.no_grad()
def init_weights(model: RectifierNet, std: float, seed: int = 0) -> None:
    """Draw all weights from N(0, std^2) and set the biases to 0 ([DO] app. A).

    The numbers depend on `seed` and the kind of net: they are drawn on the CPU on every device.
    Raises ValueError for a net with other layers, whose weights would stay as PyTorch drew them.
    """
    linear_layers = {name for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    drawn_here = {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    other = drawn_here.symmetric_difference(name for name, _ in model.named_parameters())
    if other or linear_layers != {*LAYERS}:
        differing = ", ".join(sorted(other)) or "its layers"
        name = type(model).__name__
        raise ValueError(
            f"init_weights draws {', '.join(LAYERS)} with their biases; this {name} "
            f"differs in {differing}: draw all its weights yourself"
        )
    generator = torch.Generator("cpu").manual_seed(operator.index(seed) ^ model.stream)
    for layer in (model.hidden1, model.hidden2, model.output):
        drawn = torch.empty(layer.weight.shape, dtype=torch.float32, device="cpu")
        layer.weight.copy_(drawn.normal_(std=std, generator=generator))
        layer.bias.zero_()


@torch.no_grad()
def scale_weights(model: RectifierNet) -> RectifierNet:
    """A copy for test time: outgoing weights times the keep probability, and no dropout ([DO]).

    A plain net of three linear layers that gives the same logits as `model` in eval mode.
    """
    with torch.device("meta"):  # draws no random numbers
        scaled = type(model)(model.hidden_units)
    copied = {"device": "cpu", "dtype": torch.float32, "copy": True}
    state = {name: value.detach().to(**copied) for name, value in model.state_dict().items()}
    for layer, dropout in zip(LAYERS, model.dropouts, strict=True):
        state.pop(f"{layer}.keep", None)
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * (1 - dropout)
    scaled.load_state_dict(state, assign=True)
    return scaled.eval()


class StackedNet(nn.Module):
    """S nets without dropout and of one shape, trained together: batched products, one update each.

    Trained alone, a net of 30 units spends nearly all its time on overhead. `nets` come in G =
    `orders` groups of equal size; the nets of a group see the same minibatches, so that their first
    layers are one product.
    Raises ValueError for nets with dropout.
    """

    def __init__(self, nets: Sequence[RectifierNet], orders: int):
        super().__init__()
        if any(any(net.dropouts) for net in nets):
            raise ValueError("nets trained together take no dropout")
        self.orders, self.hidden_units = orders, nets[0].hidden_units
        self.stream = nets[0].stream
        self.weights = nn.ParameterList()  # of each layer (S, out, in)
        self.biases = nn.ParameterList()  # of each layer (S, out, 1)
        for layer in LAYERS:
            alike = [net.get_submodule(layer) for net in nets]
            self.weights.append(torch.stack([one.weight.detach() for one in alike]))
            self.biases.append(torch.stack([one.bias.detach() for one in alike])[..., None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (S, N, 10) of pixels (N, 784), or of (G, N, 784): for each group its own.

        Inside, units come before images, so that no product or gradient has to be transposed.
        """
        first = self.weights[0].view(self.orders, -1, PIXELS)  # a group's first layers in one
        sums = (first @ pixels.mT).view(len(self.weights[0]), self.hidden_units, -1)
        hidden1 = F.relu(sums + self.biases[0])
        hidden2 = F.relu(torch.baddbmm(self.biases[1], self.weights[1], hidden1))
        return torch.baddbmm(self.biases[2], self.weights[2], hidden2).mT

    @torch.no_grad()
    def unstack(self, nets: Sequence[RectifierNet]) -> None:
        """Copy the weights back into the `nets` that were stacked."""
        for layer, weights, biases in zip(LAYERS, self.weights, self.biases, strict=True):
            for net, weight, bias in zip(nets, weights, biases, strict=True):
                net.get_submodule(layer).weight.copy_(weight)
                net.get_submodule(layer).bias.copy_(bias[:, 0])
