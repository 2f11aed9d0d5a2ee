"""One HTML file that carries its own data: nets, images and numbers, without anything beside it."""

import base64
import copy
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layers import LAYERS, RectifierNet

HERE = Path(__file__).parent
# Multiples of a step are stored in place of weights, so many steps to the root mean square of a
# layer. 160 are enough for most nets; the finer ones are for those whose two highest logits are
# close for many images. A step for each layer takes less room than one for each unit: gzip shortens
# what is common.
STEPS = (160, 320, 640)
LARGEST = 2**15 - 1  # an int16


def packed(values: Tensor | np.ndarray) -> dict[str, str]:
    """A float32, uint8 or bool array: its bytes, little-endian, gzipped, in base64, and its type.

    The page unpacks all of these, wherever in the data they are.
    """
    array = np.asarray(values)
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    name = "Float32Array" if array.dtype == np.float32 else "Uint8Array"
    # Of images only blank runs repeat, of weights nothing: a search for longer ones takes a while.
    compressor = zlib.compressobj(wbits=31, strategy=zlib.Z_RLE)  # 31: as gzip has it
    compressed = compressor.compress(content) + compressor.flush()
    return {"type": name, "gzip": base64.b64encode(compressed).decode()}


def packed_net(net: RectifierNet, fineness: int) -> dict[str, Any]:
    """The weights as int16 multiples of `steps`, one for each layer; the biases as float32.

    `fineness` is one of STEPS.

    Layer by layer, the weights of an input stand together: the page skips an input that is zero.
    Low bytes come first, then all high bytes, which are much alike: so gzip makes them small.
    """
    steps, multiples, biases = [], [], []
    for layer in map(net.get_submodule, LAYERS):
        whole, step = _in_steps(layer.weight.detach(), fineness)
        steps.append(step)
        multiples.append(whole.T.flatten())
        biases.append(layer.bias.detach())
    halves = torch.cat(multiples).numpy().astype("<i2").view(np.uint8).reshape(-1, 2)
    return {
        "units": net.hidden_units,
        "steps": steps,
        "weights": packed(halves.T),
        "biases": packed(torch.cat(biases)),
    }


def rounded(net: RectifierNet, fineness: int) -> RectifierNet:
    """A copy with the weights that `packed_net` stores of `net`."""
    copied = copy.deepcopy(net)
    for layer in map(copied.get_submodule, LAYERS):
        whole, step = _in_steps(layer.weight.detach(), fineness)
        layer.weight.data = (whole * step).float()
    return copied


def _in_steps(weights: Tensor, fineness: int) -> tuple[Tensor, float]:
    """Weights as int16 multiples of a step."""
    weights = weights.double()
    root_mean_square = float(weights.square().mean().sqrt())
    step = max(root_mean_square / fineness, float(weights.abs().max()) / LARGEST) or 1.0
    return (weights / step).round().short(), step


def page(name: str, data: dict[str, Any]) -> bytes:
    """The page of the templates `name`.html, .css and .js beside this file, with `data` in it."""
    files = (HERE / f"{name}.{kind}" for kind in ("html", "css", "js"))
    html, style, script = (file.read_text(encoding="utf-8") for file in files)
    # File names come from users: a "</script>" in one must not end the element.
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    html = html.replace(f'<link rel="stylesheet" href="{name}.css">', f"<style>\n{style}</style>")
    html = html.replace(f'<script src="{name}.js">', f"<script>\n{script}")
    return html.replace('id="data">', f'id="data">{content}').encode()
