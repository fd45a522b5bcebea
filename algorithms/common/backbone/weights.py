"""Other programs' weights under the names of our LanguageModel, and ours under those of nanoGPT.

Source: karpathy/nanoGPT, model.py; tiny-diffusion (Nathan Barry). C channels, V vocabulary.
"""

import torch
from torch import Tensor

COMPILED = "_orig_mod."  # torch.compile puts this before every name


def from_nanogpt(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A nanoGPT state dict, compiled or not, as one of `LanguageModel` with style nanogpt.

    Values stay as they are; the causal masks that older files carry as buffers are left out.
    """
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix(COMPILED).removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if name.startswith("h."):
            name = f"backbone.blocks.{name.removeprefix('h.')}"
        elif name.startswith(("wpe.", "ln_f.")):
            name = f"backbone.{name}"
        renamed[name] = value
    return renamed


def to_nanogpt(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `LanguageModel` with style nanogpt as one of nanoGPT's GPT: the inverse of `from_nanogpt`."""
    renamed = {}
    for name, value in state.items():
        inner = name.removeprefix("backbone.")
        if inner.startswith("blocks."):
            inner = f"h.{inner.removeprefix('blocks.')}"
        renamed[inner if inner.startswith("lm_head.") else f"transformer.{inner}"] = value
    return renamed


def from_tiny_diffusion(state: dict[str, Tensor], *, mask_first: bool) -> dict[str, Tensor]:
    """A tiny-diffusion state dict, compiled or not, as one of `LanguageModel` with style rope.

    Its separate q, k and v become one matrix. `mask_first`: its vocabulary opens with the mask token, which comes last
    in ours. What belongs to no LanguageModel (flow head, time network) keeps its name.
    """
    state = {key.removeprefix(COMPILED): value for key, value in state.items()}
    renamed = {}
    for name, value in state.items():
        if name in ("token_emb.weight", "lm_head.weight"):
            ours = name.replace("token_emb", "wte")
            renamed[ours] = value.roll(-1, dims=0) if mask_first else value  # (V, C)
        elif name.endswith(".attn.c_q.weight"):
            stem = name.removesuffix("q.weight")
            parts = [state[key] for part in "qkv" if (key := f"{stem}{part}.weight") in state]
            renamed[f"backbone.{stem}attn.weight"] = torch.cat(parts)  # (3C, C)
        elif not name.endswith((".attn.c_k.weight", ".attn.c_v.weight")):
            renamed[f"backbone.{name}" if name.startswith("blocks.") else name] = value
    return renamed
