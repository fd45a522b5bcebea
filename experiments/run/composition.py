"""The configuration as Hydra composes it, outside of a run: for what `load=` brings along, and for error messages."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import hydra.core.utils
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.run.folder import CONFIGS

OmegaConf.register_new_resolver("unique_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)


def fresh_folder() -> str:
    """The folder of a new run, as Hydra would name it now."""
    hydra.core.utils.setup_globals()  # the resolver `now`
    return OmegaConf.load(CONFIGS / "config.yaml").hydra.run.dir


@contextmanager
def composing() -> Iterator[None]:
    """Lets hydra.compose find the configuration; inside a job of Hydra it does already, by that one's search path."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with (
        nullcontext()
        if GlobalHydra.instance().is_initialized()
        else initialize_config_dir(str(CONFIGS), version_base="1.3")
    ):
        yield


def composed(overrides: list[str], *, with_hydra: bool = False) -> Any:
    """The config of these overrides, with Hydra's own or without, or None where they do not compose."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    try:
        single = [o for o in overrides if not parser.parse_override(o).is_sweep_override()]
        with composing():
            return compose("config", overrides=single, return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException):
        return None


def composed_group(file: str) -> dict[str, Any]:
    """What `configs/FILE.yaml` composes to alone, as nested plain containers. Raises Hydra's exceptions."""
    from hydra import compose

    with composing():
        return OmegaConf.to_container(compose(file), resolve=True)  # type: ignore[return-value]


def leaves(node: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys of nested mappings with their values; an empty mapping is a value."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value
