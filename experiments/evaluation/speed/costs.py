"""What a computation costs apart from time: floating-point operations, and what is handed to the device.

B batch, H heads, T tokens.
"""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# Names of the profiler. A replayed CUDA graph is one launch.
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
COMPILED = "## Call CompiledFxGraph"
VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        *("alias", "as_strided", "chunk", "detach", "expand", "flatten", "narrow", "permute", "reshape", "select"),
        *("slice", "split", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as"),
        *("_reshape_alias", "_unsafe_view", "resolve_conj", "resolve_neg", "lift_fresh", "is_nonzero", "item"),
        *("_local_scalar_dense", "empty", "empty_like", "empty_strided", "new_empty", "result_type", "to"),
        *("split_with_sizes", "numpy_T", "movedim", "unfold", "expand_as", "set_", "resize_", "contiguous"),
    )
)


class Dispatched(NamedTuple):
    """What is handed to the device: on a CPU `operations`, which are those of torch that compute (views and allocations
    do not) and calls of compiled graphs; on a CUDA GPU launches of `kernels`, and `waits` of the host for it."""

    operations: int | None = None
    kernels: int | None = None
    waits: int | None = None


def flops(compute: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and attentions in `compute`, a multiply-add being two.

    An attention is counted whole, also where a causal mask lets half of it be skipped, as is usual (arXiv:2204.02311).
    """
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {forward: _attention, backward: _attention_backward}  # torch's own table has those of GPUs only
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        compute()
    return counter.get_total_flops()


def dispatched(compute: Callable[[], Any], device: torch.device) -> Dispatched:
    """What `compute` hands to the device, counted by torch's profiler; nothing is known of devices other than CPU and
    CUDA."""
    if device.type not in ("cpu", "cuda"):
        return Dispatched()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its notes are for nobody here
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        compute()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    events = profiler.events()
    if device.type == "cpu":
        return Dispatched(operations=sum(_operations(event) for event in events if event.cpu_parent is None))
    counted = Counter(event.name for event in events)
    kernels = sum(counted[name] for name in LAUNCHES)
    waits = sum(counted[name] for name in WAITS) - 1  # that of this function
    return Dispatched(kernels=kernels, waits=waits) if kernels else Dispatched()  # without CUPTI nothing is seen


def _operations(event: Any) -> int:
    """Operations at and below an event: one of torch's counts as a whole if any part of it computes."""
    if event.name.startswith("aten::"):
        return int(_computes(event))
    return event.name.startswith(COMPILED) + sum(map(_operations, event.cpu_children))


def _computes(event: Any) -> bool:
    return event.name not in VIEWS or any(map(_computes, event.cpu_children))


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of shapes (B, H, T, C / H)."""
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)
