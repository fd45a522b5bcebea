"""Muon and AdamW, or AdamW alone, and a warmup-cosine learning rate that is a pure function of the step.

Sources: AdamW, Loshchilov and Hutter 2019 (arXiv:1711.05101), with decay groups as in nanoGPT; the cosine, 2017
(arXiv:1608.03983); Muon, Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), its update as large as AdamW's
by Liu et al. 2025 (arXiv:2502.16982). N matrices of shape (A, B).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.backbone.transformer import Block
from algorithms.common.fields import STRICT, Natural, NonNegative, Positive, Share, ShareBelowOne

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a quintic of the largest slope at 0: small singular values rise the fastest
NEWTON_SCHULZ_STEPS = 5
UPDATE_RMS = 0.2  # that of AdamW's updates at a learning rate of 1 (arXiv:2502.16982): one learning rate serves both


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """The optimiser and its schedule; `min_lr_ratio` is the last learning rate as a share of the peak.

    `muon` steps the matrices of the blocks by Muon, with `momentum`, and the rest by AdamW; `adamw` steps everything.
    """

    name: Literal["adamw", "muon"] = "muon"
    lr: Positive = 4e-3
    min_lr_ratio: Share = 0.05
    warmup_steps: Natural = 100
    weight_decay: NonNegative = 0.1
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.99
    momentum: ShareBelowOne = 0.95

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        return {"momentum": "name"} if self.name == "adamw" else {}


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Share of the peak learning rate at `step`: a linear rise, then half a cosine down to `min_ratio`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return min_ratio
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings decay; gains and biases (fewer than two dimensions) do not."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_group(module: nn.Module, weight_decay: float) -> dict[str, Any]:
    """The matrices of the blocks; `pieces` is how many of them each weight holds, one above the other."""
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    matrices = [p for block in blocks for p in block.parameters() if p.dim() == 2 and p.requires_grad]
    packed = {block.attn.c_attn.weight for block in blocks}  # queries, keys and values
    return {"params": matrices, "pieces": [3 if p in packed else 1 for p in matrices], "weight_decay": weight_decay}


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser of the parameters of `module`: those in blocks by Muon, if the configuration says so."""
    matrices = muon_group(module, config.weight_decay) if config.name == "muon" else {"params": []}
    taken = set(matrices["params"])
    rest = decay_groups((p for p in module.parameters() if p not in taken), config.weight_decay)
    adamw: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "fused": True}
    if taken:
        return MuonAdamW(matrices, rest, momentum=config.momentum, **adamw)
    optimizer = torch.optim.AdamW(rest, **adamw)
    # In mixed precision gradients are unscaled before the step and not in it, so that they can be clipped.
    optimizer._step_supports_amp_scaling = False
    return optimizer


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the group `matrices`, AdamW for the groups `rest`, as one optimiser.

    torch.optim.Muon has no batches of equal shapes, and bfloat16 on every device: on a CPU without instructions for it
    that takes 15 times as long.
    """

    def __init__(
        self, matrices: dict[str, Any], rest: list[dict[str, Any]], *, lr: float, momentum: float, **adamw: Any
    ) -> None:
        super().__init__([matrices | {"lr": lr, "momentum": momentum}, *({"lr": lr} | adamw | one for one in rest)], {})
        self._bind()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What load_state_dict ends with: there are other groups and another state then."""
        super().__setstate__(state)
        self._bind()

    def _bind(self) -> None:
        """Let AdamW work on the very groups and state of this optimiser."""
        self._adamw = torch.optim.AdamW(self.param_groups[1:])
        self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon(self.param_groups[0])
        self._adamw.step()
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        """Momentum in Nesterov's form, made orthogonal; the weights decay as under AdamW."""
        used = [(p, pieces) for p, pieces in zip(group["params"], group["pieces"], strict=True) if p.grad is not None]
        if not used:
            return
        weights, gradients = [p for p, _ in used], [p.grad for p, _ in used]
        for p in weights:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        pieces = [pieces for _, pieces in used]
        directions = orthogonalised(cut(updates, pieces))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(cut(weights, pieces), directions, alpha=-group["lr"])


def cut(matrices: Sequence[Tensor], pieces: Sequence[int]) -> list[Tensor]:
    """The pieces, in turn, of matrices that each hold so many of them one above the other."""
    return [piece for matrix, number in zip(matrices, pieces, strict=True) for piece in matrix.chunk(number)]


def orthogonalised(updates: list[Tensor]) -> list[Tensor]:
    """The directions of Muon for matrices: U V^T, nearly, of each one's U S V^T, at a root mean square of UPDATE_RMS.

    Equal shapes are one batch; in bfloat16 on CUDA, as the iteration bears it.
    """
    places: dict[torch.Size, list[int]] = defaultdict(list)
    for place, update in enumerate(updates):
        places[update.shape].append(place)
    directions = list(updates)
    for shape, those in places.items():
        batch = torch.stack([updates[place] for place in those])  # (N, A, B)
        dtype = torch.bfloat16 if batch.device.type == "cuda" else batch.dtype
        scaled = newton_schulz(batch.to(dtype)).to(batch.dtype) * (UPDATE_RMS * max(shape) ** 0.5)
        for place, direction in zip(those, scaled, strict=True):
            directions[place] = direction
    return directions


def newton_schulz(x: Tensor) -> Tensor:
    """Matrices x (N, A, B) with their singular values brought near to 1: between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # a x + b x x' x + ...
    return (x.mT if tall else x).contiguous()
