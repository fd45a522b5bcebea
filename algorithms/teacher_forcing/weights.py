"""nanoGPT's weights under the names of our GPT; values are left as they are.

Source: karpathy/nanoGPT, model.py.
"""

from torch import Tensor


def from_nanogpt(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A nanoGPT state dict, compiled or not, as one of `LanguageModel` with style nanogpt.

    The causal masks that older files carry as buffers are left out.
    """
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("_orig_mod.").removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if name.startswith("h."):
            name = f"trunk.blocks.{name.removeprefix('h.')}"
        elif name.startswith(("wpe.", "ln_f.")):
            name = f"trunk.{name}"
        renamed[name] = value
    return renamed
