"""Checkpoints of other programs: which one a file is from, the config it needs, and its weights under our names.

nanoGPT writes its sizes beside the weights; tiny-diffusion's gpt.pt, diffusion.pt and diffusion_flow.pt are plain state
dicts. Neither carries its characters: the dataset must be the one it was trained on.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from algorithms.common.backbone.weights import COMPILED, from_nanogpt, from_tiny_diffusion

Algorithm = Mapping[str, Any]  # the config of an algorithm, as plain containers
Description = tuple[dict[str, Any], dict[str, str]]  # config, and group choices
PARTS = {"flow_head": "flow.head", "t_mlp": "flow.time"}  # of tiny-diffusion, which are not its model's in ours
SPECIAL_CHOICES = {"diffusion_flow": "diffusion_flow_reference"}  # where the choice is not named as the method


def recognise(checkpoint: Mapping[str, Any]) -> "NanoGPT | TinyDiffusion | None":
    """The checkpoint as that of the program which wrote it; None if that is neither nanoGPT nor tiny-diffusion."""
    if {"model", "model_args"} <= set(checkpoint):
        return NanoGPT(checkpoint)
    names = {str(key).removeprefix(COMPILED) for key in checkpoint}
    plain = all(isinstance(value, Tensor) for value in checkpoint.values())
    if plain and {"token_emb.weight", "lm_head.weight", "blocks.0.attn.c_q.weight"} <= names:
        return TinyDiffusion(checkpoint)
    return None


class NanoGPT:
    """`ckpt.pt` of karpathy/nanoGPT. `methods` are the algorithms (by `name`) whose model it can be."""

    methods: tuple[str, ...] = ("gpt",)

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        self.checkpoint = checkpoint

    def shape(self, path: Path) -> dict[str, Any]:
        """The keys of `algorithm` that the weights settle."""
        arguments = self.checkpoint["model_args"]
        keys = ("n_layer", "n_head", "n_embd", "block_size", "bias")
        if not isinstance(arguments, dict) or not {*keys, "vocab_size"} <= set(arguments):
            raise ValueError(f"{path} looks like a nanoGPT checkpoint, but its model_args lack the sizes")
        return {"backbone": {"style": "nanogpt", **{key: arguments[key] for key in keys}}}

    def describe(self, path: Path, *, algorithm: Algorithm | None, given: Collection[str]) -> Description:
        """Config and choices that rebuild the model, as the `algorithm` chosen by the user if there is one; nothing
        if that cannot hold it. `given` are the keys and groups that the user settles."""
        if algorithm is not None and algorithm["name"] not in self.methods:
            return {}, {}
        return {"algorithm": self.shape(path)}, {"algorithm": "gpt", "algorithm/backbone": "nanogpt_cpu"}

    def check_vocabulary(self, path: Path, *, method: str, tokens: int) -> None:
        """ValueError unless the model of `method` was trained with as many tokens as the dataset has."""
        size = self.checkpoint["model_args"]["vocab_size"]
        if size != tokens:
            raise ValueError(
                f"{path} has a vocabulary of {size} tokens, the dataset {tokens}: "
                "say dataset= and dataset.tokenizer= as it was trained (tiny_shakespeare in characters has 65)"
            )

    def weights(self, method: str) -> dict[str, Tensor]:
        """The state dict of our `method`."""
        return {f"model.{key}": value for key, value in from_nanogpt(self.checkpoint["model"]).items()}


class TinyDiffusion:
    """A state dict of tiny-diffusion, asked as NanoGPT's is. Only the flow model tells itself apart by what it holds:
    GPT and mask diffusion differ by a single row of the vocabulary, so the user's algorithm or else the file's name
    decides between them.
    """

    n_head = 6  # tiny-diffusion's defaults for what the weights do not show
    window = 256  # tokens the network sees

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = {key.removeprefix(COMPILED): value for key, value in state.items()}
        self.flow = "flow_head.0.weight" in self.state
        self.methods: tuple[str, ...] = ("diffusion_flow",) if self.flow else ("gpt", "masked_diffusion")

    def shape(self, path: Path) -> dict[str, Any]:
        blocks = {name.split(".")[1] for name in self.state if name.startswith("blocks.")}
        n_embd = self.state["token_emb.weight"].shape[-1]
        shape: dict[str, Any] = {"backbone": {"style": "rope", "n_layer": len(blocks), "n_embd": n_embd}}
        if self.flow:
            shape["flow"] = {"bottleneck": self.state["flow_head.0.weight"].shape[0]}
        return shape

    def describe(self, path: Path, *, algorithm: Algorithm | None, given: Collection[str]) -> Description:
        method = algorithm["name"] if algorithm else self._method_by_name(path)
        if method not in self.methods:
            return {}, {}
        if self.flow and algorithm and algorithm["flow"]["name"] != "velocity":
            raise ValueError(f"{path} has the flow head of tiny-diffusion: say algorithm=diffusion_flow_reference")
        shape = self.shape(path)
        backbone = shape["backbone"]
        settled = {"algorithm.backbone", "algorithm.backbone.n_head"} & {key.replace("/", ".") for key in given}
        if not settled and backbone["n_embd"] % (2 * self.n_head):  # rotary positions need an even head size
            raise ValueError(
                f"{path} does not say how many heads it has, and tiny-diffusion's {self.n_head} do not fit "
                f"n_embd={backbone['n_embd']}: say algorithm.backbone.n_head=N"
            )
        # A masked network sees the given token and the block_size behind it, a GPT the tokens before each prediction.
        block_size = self.window if method == "gpt" else self.window - 1
        shape["backbone"] = backbone | {"n_head": self.n_head, "block_size": block_size}
        return {"algorithm": shape}, {"algorithm": SPECIAL_CHOICES.get(method, method), "algorithm/backbone": "tiny"}

    def check_vocabulary(self, path: Path, *, method: str, tokens: int) -> None:
        rows, mask = len(self.state["token_emb.weight"]), method != "gpt"
        if rows == tokens + mask:
            return
        other = {"gpt": "masked_diffusion", "masked_diffusion": "gpt"}.get(method)
        if other and rows == tokens + (not mask):
            remedy = f"say algorithm={other}"
        else:
            remedy = "say dataset=tiny_shakespeare dataset.tokenizer=char, or the text it was trained on"
        expected = f"the dataset's {tokens} and a mask make {tokens + 1}" if mask else f"the dataset has {tokens}"
        raise ValueError(f"{path} has a vocabulary of {rows} tokens, {expected}: {remedy}")

    def weights(self, method: str) -> dict[str, Tensor]:
        renamed = {}
        for name, value in from_tiny_diffusion(self.state, mask_first=method != "gpt").items():
            part, _, rest = name.partition(".")
            renamed[f"{PARTS[part]}.{rest}" if part in PARTS else f"model.{name}"] = value
        return renamed

    def _method_by_name(self, path: Path) -> str:
        if self.flow:
            return "diffusion_flow"
        return "masked_diffusion" if "diffusion" in path.stem and "gpt" not in path.stem else "gpt"
