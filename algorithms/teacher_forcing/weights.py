"""Names of other programs' GPT weights, translated into ours; values are left as they are.

Sources: karpathy/nanoGPT (model.py), tiny-diffusion (model.py).
"""

import torch
from torch import Tensor


def from_nanogpt(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A nanoGPT state dict, compiled or not, as one of `LanguageModel` with style nanogpt.

    Raises ValueError if a key is none of nanoGPT's.
    """
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("_orig_mod.")
        if name.endswith(".attn.bias") and value.dim() == 4:
            continue  # the causal mask, which some checkpoints carry as a buffer
        if name.startswith("transformer.wte."):
            renamed[name.removeprefix("transformer.")] = value
        elif name == "lm_head.weight":
            renamed[name] = value
        elif name.startswith("transformer.h."):
            renamed["trunk.blocks." + name.removeprefix("transformer.h.")] = value
        elif name.startswith(("transformer.wpe.", "transformer.ln_f.")):
            renamed["trunk." + name.removeprefix("transformer.")] = value
        else:
            raise ValueError(f"'{key}' is no weight of a nanoGPT model")
    return renamed


def from_tiny_diffusion(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A tiny-diffusion state dict as one of `LanguageModel` with style rope; q, k and v become one matrix.

    Raises ValueError if a key is none of tiny-diffusion's language models.
    """
    renamed = {}
    for key, value in state.items():
        if key == "token_emb.weight":
            renamed["wte.weight"] = value
        elif key == "lm_head.weight":
            renamed[key] = value
        elif key.endswith(".attn.c_q.weight"):
            stem = key.removesuffix("c_q.weight")
            parts = [state[f"{stem}c_{part}.weight"] for part in "qkv"]
            renamed[f"trunk.{stem}c_attn.weight"] = torch.cat(parts)
        elif key.endswith((".attn.c_k.weight", ".attn.c_v.weight")):
            continue
        elif key.startswith("blocks."):
            renamed[f"trunk.{key}"] = value
        else:
            raise ValueError(f"'{key}' is no weight of a tiny-diffusion language model")
    return renamed
