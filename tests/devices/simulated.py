"""A simulated accelerator: tensors that say that they are on `cuda:0` or `mps:0`, and hold their values on the CPU.

Values are those of the CPU. What a device would object to raises: tensors of two devices in one operation, a generator
of another device, float64 on MPS. What would cost time is counted, with the line of our code that asked for it:
kernels, waits for the device, copies to it, and attention with a dense mask. Autocast follows the lists of CUDA.

torch has one name left for such a backend, and registers it for the whole process: import this in one of its own,
before our code, whose generators are made of torch's. Its tensors cannot enter torch.inference_mode.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(str(ROOT / room) for room in ("algorithms", "experiments", "datasets"))
BACKEND = "simulated"  # torch's name of it; our own code never meets that

aten = torch.ops.aten
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
FREE = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_"}
SCALARS = {"masked_fill", "masked_fill_", "fill_", "index_put", "index_put_"}  # take a number that is on the CPU


class Costs:
    """What was asked of the device so far: for each kind a Counter of what and where in our code."""

    kinds = ("kernels", "waits", "copies", "dense_masks", "coarse")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()  # the program stops until the device has caught up
        self.copies: Counter[str] = Counter()  # from the CPU to the device
        self.dense_masks: Counter[str] = Counter()  # attention that no fast kernel computes
        self.coarse: Counter[str] = Counter()  # log-softmaxes that are not in float32

    def total(self, kind: str) -> int:
        return getattr(self, kind).total()

    def add(self, kind: str, what: str) -> None:
        getattr(self, kind)[f"{what} at {_place()}"] += 1


class Simulation:
    """The device that is simulated, its costs, and whether autocast is on."""

    def __init__(self, kind: str) -> None:
        self.device = torch.device(kind, 0)
        self.costs = Costs()

    def means(self, device: Any) -> bool:
        """Whether a device, as code names it, is the simulated one."""
        return device is not None and torch.device(device).type in (self.device.type, BACKEND)

    def check_dtype(self, dtype: torch.dtype) -> None:
        if self.device.type == "mps" and dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
                f"Please use float32 instead. [{_place()}]"
            )


_active: list[Simulation] = []


@contextmanager
def simulated(kind: str) -> Iterator[Costs]:
    """Let the device type `kind`, cuda or mps, be simulated while entered; yields what it costs."""
    simulation = Simulation(kind)
    _active.append(simulation)
    with ExitStack() as stack:
        for target, replacement in (
            ("torch.autocast", Autocast),
            ("torch.get_device_module", _device_module),
            ("torch.is_autocast_enabled", _is_autocast_enabled),
            ("torch.get_autocast_dtype", _autocast_dtype),
            ("algorithms.common.backbone.attention.HAS_TRITON", True),
            ("algorithms.common.backbone.attention.compiled_flex", lambda: _flex),
            ("torch.cuda._lazy_init", lambda: None),
        ):
            stack.enter_context(mock.patch(target, replacement))
        # Parameters are moved by swapping, which keeps them the objects that they are, tied ones included.
        stack.enter_context(mock.patch("torch.__future__._swap_module_params_on_conversion", True))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # a backward pass stays in this thread
        stack.enter_context(_Functions())
        stack.enter_context(_Operations())
        try:
            yield simulation.costs
        finally:
            _active.pop()


class DeviceTensor(torch.Tensor):
    """A tensor on the simulated device; `value` is the one on the CPU."""

    value: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor) -> "DeviceTensor":
        assert not isinstance(value, DeviceTensor)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            layout=value.layout,
            device=torch.device(BACKEND, 0),
        )
        made.value = value
        return made

    @property
    def device(self) -> torch.device:
        return _active[-1].device

    def tolist(self) -> Any:
        _active[-1].costs.add("waits", "tolist")
        return self.value.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Into a checkpoint goes the value: the file is read with map_location=cpu."""
        return self.value.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"DeviceTensor({self.value!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


class DeviceGenerator(torch.Generator):
    """A generator that says which device it is on. Its numbers are the CPU's."""

    def __new__(cls, device: Any = "cpu") -> "DeviceGenerator":
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]

    def __init__(self, device: Any = "cpu") -> None:
        self.named = torch.device(device)
        if _active and _active[-1].means(self.named):
            self.named = _active[-1].device

    @property
    def device(self) -> torch.device:
        return self.named


class DeviceModule:
    """What `torch.cuda` or `torch.mps` is asked for."""

    @staticmethod
    def synchronize(device: Any = None) -> None:
        _active[-1].costs.add("waits", "synchronize")

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.default_generator.manual_seed(seed)


_real_device_module = torch.get_device_module


def _device_module(device: Any = None) -> Any:
    of_ours = device is not None and torch.device(device).type == _active[-1].device.type
    return DeviceModule if of_ours else _real_device_module(device)


class Autocast(torch.autocast):
    """torch.autocast, which knows the simulated device by its backend's name."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(BACKEND if _active[-1].means(device_type) else device_type, *args, **kwargs)


_real_is_autocast_enabled, _real_autocast_dtype = torch.is_autocast_enabled, torch.get_autocast_dtype


def _is_autocast_enabled(kind: str) -> bool:
    return _real_is_autocast_enabled(BACKEND if _active[-1].means(kind) else kind)


def _autocast_dtype(kind: str) -> torch.dtype:
    return _real_autocast_dtype(BACKEND if _active[-1].means(kind) else kind)


# ---- operations ----


class _Operations(TorchDispatchMode):
    """Sees every operation, those that only name a device included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(one, DeviceTensor) for one in types) or _active[-1].means(kwargs.get("device")):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """Check and count an operation, and carry it out on the CPU."""
    simulation = _active[-1]
    name = func._schema.name.split("::")[1]
    leaves: list[Any] = []
    _map(leaves.append, (args, kwargs))
    ours = [one for one in leaves if isinstance(one, DeviceTensor)]
    others = [one for one in leaves if isinstance(one, Tensor) and not isinstance(one, DeviceTensor)]
    device = kwargs.get("device")
    to_device = bool(ours) if device is None else simulation.means(device)
    costs = simulation.costs

    if name == "_to_copy":
        source = args[0]
        if isinstance(source, DeviceTensor) and not to_device:
            costs.add("waits", "copy to the CPU")
        elif not isinstance(source, DeviceTensor) and to_device:
            costs.add("copies", f"{source.dtype} {tuple(source.shape)}")
        elif to_device and kwargs.get("dtype") in (None, source.dtype) and device is not None:
            return source
        elif to_device:
            costs.add("kernels", name)
        if to_device:
            simulation.check_dtype(kwargs.get("dtype") or source.dtype)
    elif name == "copy_":
        into, source = args[:2]
        if isinstance(into, DeviceTensor) == isinstance(source, DeviceTensor):
            costs.add("kernels", name)
        elif isinstance(into, DeviceTensor):
            costs.add("copies", f"{source.dtype} {tuple(source.shape)}")
        else:
            costs.add("waits", "copy to the CPU")
    else:
        _check_devices(simulation, func, name, args, ours, others)
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            costs.add("waits", name)
        elif not (func.is_view or name in FREE):
            costs.add("kernels", name)
        if name in INDEXED and any(
            isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        ):
            costs.add("waits", "boolean index")
        if name == "_log_softmax" and args[0].dtype in (torch.bfloat16, torch.float16):
            costs.add("coarse", name)

    def on_cpu(x: Any) -> Any:
        if isinstance(x, DeviceTensor):
            return x.value
        return torch.device("cpu") if isinstance(x, torch.device) and simulation.means(x) else x

    def on_device(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, DeviceTensor):
            return x
        simulation.check_dtype(x.dtype)
        return DeviceTensor(x)

    found = func(*_map(on_cpu, args), **_map(on_cpu, kwargs))
    if name == "copy_":
        return args[0]
    if to_device:
        found = _map(on_device, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if ours else found


def _map(function: Callable[[Any], Any], x: Any) -> Any:
    """`function` of all that nested tuples, lists and dicts hold."""
    if isinstance(x, tuple | list):
        return type(x)(_map(function, one) for one in x)
    return {key: _map(function, one) for key, one in x.items()} if isinstance(x, dict) else function(x)


def _check_devices(simulation: Simulation, func: Any, name: str, args: tuple, ours: list, others: list) -> None:
    """Tensors of several devices do not go together, but for numbers and indices on the CPU."""
    if name in INDEXED:
        indices = [one for one in args[1] if isinstance(one, Tensor) and not isinstance(one, DeviceTensor)]
        if ours and not isinstance(args[0], DeviceTensor):
            raise RuntimeError(
                f"indices should be either on cpu or on the device of the indexed tensor (cpu) [{_place()}]"
            )
        for one in indices:
            simulation.costs.add("copies", f"index {tuple(one.shape)}")
        others = [one for one in others if not any(one is index for index in indices)]
    allowed = torch.Tag.pointwise in func.tags or name in SCALARS
    if others and not (allowed and ours and all(one.dim() == 0 for one in others)):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{simulation.device} and cpu! [{func} at {_place()}]"
        )


def _place() -> str:
    """The innermost line of our own code that is being run."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            return f"{file.removeprefix(str(ROOT))[1:]}:{frame.f_lineno}"
        frame = frame.f_back
    return "a test"


# ---- functions that are one kernel on a device, and something else on the CPU ----


class _Functions(TorchFunctionMode):
    """Replays on the CPU what is one kernel of a device, makes tensors of numbers, and looks at generators."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        simulation = _active[-1]
        if (generator := kwargs.get("generator")) is not None:
            device = kwargs.get("device") or (args[0].device if isinstance(args[0], Tensor) else "cpu")
            if torch.device(device).type != generator.device.type:
                raise RuntimeError(f"Expected a '{device}' device type for generator but found '{generator.device}'")
        numbers = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if numbers and simulation.means(kwargs.get("device")):
            made = func(*args, **{**kwargs, "device": "cpu"})
            return made.to(simulation.device)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], DeviceTensor):
            index = tuple(map(_listed, args[1])) if isinstance(args[1], tuple) else _listed(args[1])
            return func(args[0], index, *args[2:])
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], DeviceTensor):
            q, k, v = args
            if torch.is_autocast_enabled(BACKEND):
                q, k, v = (one.to(torch.get_autocast_dtype(BACKEND)) for one in args)
            if not q.dtype == k.dtype == v.dtype:
                raise RuntimeError(f"attention over {q.dtype}, {k.dtype} and {v.dtype} [{_place()}]")
            mask = kwargs.pop("attn_mask", None)
            if mask is not None:
                simulation.costs.add("dense_masks", f"{tuple(mask.shape)}")
            return _replay("attention", lambda *qkv, m: func(*qkv, attn_mask=m, **kwargs), (q, k, v), m=mask)
        if func is torch.nn.functional.rms_norm and isinstance(args[0], DeviceTensor):
            x = args[0].float() if torch.is_autocast_enabled(BACKEND) else args[0]
            return _replay("rms_norm", lambda x: func(x, *args[1:], **kwargs), (x,))
        return func(*args, **kwargs)


def _flex(q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any) -> Tensor:
    """FlexAttention: a kernel that computes the blocks of the mask that are not empty."""
    if not q.dtype == k.dtype == v.dtype:
        raise RuntimeError(f"attention over {q.dtype}, {k.dtype} and {v.dtype} [{_place()}]")
    costs = _active[-1].costs
    kernels = costs.kernels.copy()  # the rule is evaluated within
    query, key = (torch.arange(one.size(2), device=q.device) for one in (q, k))
    sees = block_mask.mask_mod(None, None, query[:, None], key)
    costs.kernels = kernels
    attend = torch.nn.functional.scaled_dot_product_attention
    return _replay("attention", lambda *qkv, m: attend(*qkv, attn_mask=m), (q, k, v), m=sees)


def _listed(index: Any) -> Any:
    """A list that indexes is copied to the device."""
    if not isinstance(index, list):
        return index
    return torch.tensor(index, dtype=None if index else torch.long).to(_active[-1].device)


def _replay(name: str, call: Callable[..., Tensor], inputs: tuple[Tensor, ...], **constants: Tensor | None) -> Tensor:
    values = {key: one.value if isinstance(one, DeviceTensor) else one for key, one in constants.items()}
    return _Replay.apply(name, lambda *x: call(*x, **values), *inputs)


class _Replay(torch.autograd.Function):
    """A call of several operations on the CPU, counted as one kernel; its gradient as another."""

    @staticmethod
    def forward(ctx: Any, name: str, call: Callable[..., Tensor], *inputs: Any) -> Tensor:
        _active[-1].costs.add("kernels", name)
        with torch.enable_grad():
            ctx.inputs = [one.value.detach().requires_grad_() for one in inputs]
            ctx.found = call(*ctx.inputs)
        ctx.name = name
        return DeviceTensor(ctx.found.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        _active[-1].costs.add("kernels", f"{ctx.name} backward")
        return None, None, *map(DeviceTensor, torch.autograd.grad(ctx.found, ctx.inputs, gradient.value))


# ---- the backend and its autocast, registered with torch for the whole process ----


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed(self, seed: int) -> None:
        """torch.manual_seed asks every backend."""


# aten/src/ATen/autocast_mode.h, as far as our code goes: to the lower precision, to float32, and to float32 where no
# dtype is asked for, as F.cross_entropy does of its log-softmax.
LOWER = ("addmm", "baddbmm", "bmm", "einsum", "linear", "matmul", "mm", "mv")
FLOAT32 = ("exp", "expm1", "layer_norm", "log", "log1p", "logsumexp", "mse_loss", "nll_loss", "nll_loss2d", "pow")
FLOAT32 += ("pow.Scalar", "pow.Tensor_Scalar", "reciprocal", "rsqrt", "smooth_l1_loss", "softplus")
FLOAT32_UNLESS_ASKED = ("cumprod", "cumsum", "linalg_vector_norm", "log_softmax.int", "prod", "softmax.int", "sum")
FLOAT32_UNLESS_ASKED += ("sum.dim_IntList",)
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    found = getattr(aten, packet)
    return getattr(found, overload or ("Tensor_Tensor" if packet == "pow" else "default"))


def _autocast(library: torch.library.Library, name: str, dtype: torch.dtype | None, unless_asked: bool = False) -> None:
    """Register how autocast treats an operation: its tensors in `dtype`, None for autocast's own."""
    operation = _overload(name)

    def cast(x: Any) -> Any:
        wanted = dtype or torch.get_autocast_dtype(BACKEND)
        eligible = isinstance(x, DeviceTensor) and x.is_floating_point() and x.dtype != torch.float64
        return x.to(wanted) if eligible and x.dtype != wanted else x

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            asked = kwargs.get("dtype") or next((one for one in args if isinstance(one, torch.dtype)), None)
            if unless_asked and asked is not None:
                return operation(*args, **kwargs)
            return operation(*_map(cast, args), **_map(cast, kwargs))

    library.impl(operation, run, "AutocastPrivateUse1")


def _register() -> list[torch.library.Library]:
    backend_registration._setup_privateuseone_for_python_backend(BACKEND, backend_module=_Backend())
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library = torch.library.Library("aten", "IMPL")
    for name in LOWER:
        _autocast(library, name, None)
    for name in FLOAT32:
        _autocast(library, name, torch.float32)
    for name in FLOAT32_UNLESS_ASKED:
        _autocast(library, name, torch.float32, unless_asked=True)
    return [rest, library]


_LIBRARIES = _register()
torch.Generator = DeviceGenerator
