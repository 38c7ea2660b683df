"""The base model in memory, and its adapters in one of two ways.

Merged: a copy of the weights per adapter with the adapter added in, in float32 before the cast. It runs at the base model's speed.
Switched: one copy of the weights with all adapters beside it. It needs little memory, and every layer computes its adapter apart.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from semievol.common import errors
from semievol.common.models import LocalModel
from semievol.common.torch_models import flatten_head_input, torch_device, torch_precision
from semievol.generation.adapters import WEIGHTS, Adapter
from semievol.generation.backends.attention import use_grouped
from semievol.generation.backends.replies import end_ids

_INTERNAL = "adapter{}"  # served names may hold dots, which module names may not


def load(local: LocalModel, device: str, precision: str) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer). Raises InvalidInput (not loadable), NotSupported (libraries missing), Unavailable (no such device)."""
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise errors.NotSupported(
            f"The transformers backend is not installed ({error.name} is missing): pip install 'semievol[generation]'.",
            field="model",
        ) from error
    logging.disable_progress_bar()
    device = torch_device(device)
    dtype = getattr(torch, torch_precision(precision, device))
    try:
        tokenizer = AutoTokenizer.from_pretrained(local.directory, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(local.directory, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = errors.first_line(error)
        raise errors.InvalidInput(f"{local.reference} cannot be loaded as a language model: {reason}", field="model") from error
    model = model.to(device).eval().requires_grad_(False)
    use_grouped(model)
    flatten_head_input(model)
    return model, tokenizer


def load_tokenizer(local: LocalModel) -> tuple[Any, Any, list[int]]:
    """(tokenizer, text configuration, tokens that end a reply) of a model whose weights another engine loads. Raises InvalidInput."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(local.directory, trust_remote_code=False)
        config = AutoConfig.from_pretrained(local.directory, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        reason = errors.first_line(error)
        raise errors.InvalidInput(f"{local.reference} cannot be loaded as a language model: {reason}", field="model") from error
    named = (local.directory / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(local.directory) if named else GenerationConfig.from_model_config(config)
    return tokenizer, config, end_ids(generation, tokenizer)


def number_format(device: str, precision: str, adapter_mode: str) -> str:
    """What changes the last bits of the answers: precision, adapter mode and device, `auto` decided. Raises Unavailable (no such device)."""
    device = torch_device(device)
    if adapter_mode == "auto":
        adapter_mode = "merged" if device == "cpu" else "switched"
    adapter_mode = "switched" if adapter_mode == "hot" else adapter_mode
    return f"{torch_precision(precision, device)}/{adapter_mode}/{device}"


class Weights(Protocol):
    """Where a backend gets the module for a model name."""

    def add(self, adapter: Adapter) -> None:
        """Raises InvalidInput where the adapter does not fit the base model; nothing has changed then."""
        ...

    def remove(self, name: str) -> None: ...

    def use(self, adapter: Adapter | None) -> AbstractContextManager[Any]:
        """The module that computes with this adapter, or with none, while the context lasts."""
        ...


class MergedWeights:
    """Copies on demand; the least recently used go first and are merged again when they are asked for."""

    def __init__(self, base: Any, max_copies: int) -> None:
        self._base = base
        self._max_copies = max_copies
        self._copies: OrderedDict[str, Any] = OrderedDict()

    def add(self, adapter: Adapter) -> None:
        import torch

        while len(self._copies) >= self._max_copies:
            self._copies.popitem(last=False)
        model = attach(copy.deepcopy(self._base).to(torch.float32), adapter)
        self._copies[adapter.name] = model.merge_and_unload().to(self._base.dtype).eval().requires_grad_(False)

    def remove(self, name: str) -> None:
        self._copies.pop(name, None)

    @contextmanager
    def use(self, adapter: Adapter | None) -> Iterator[Any]:
        if adapter is None:
            yield self._base
            return
        if adapter.name not in self._copies:
            self.add(adapter)
        self._copies.move_to_end(adapter.name)
        yield self._copies[adapter.name]


class SwitchedWeights:
    """Adapters injected into the base model's own layers; one is on at a time, or none."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self._peft: Any = None  # peft's handle on the injected layers; None while there are none
        self._internal: dict[str, str] = {}
        self._count = 0

    def add(self, adapter: Adapter) -> None:
        internal = _INTERNAL.format(self._count)
        self._count += 1
        try:
            if self._peft is None:
                self._peft = attach(self._base, adapter, internal)
            else:
                _load_into(self._peft, adapter, internal)
        except errors.InvalidInput:
            with contextlib.suppress(ValueError, KeyError):  # it never got that far
                self._discard(internal)
            raise
        self._internal[adapter.name] = internal
        self._base.eval().requires_grad_(False)

    def remove(self, name: str) -> None:
        if name in self._internal:
            self._discard(self._internal.pop(name))

    def _discard(self, internal: str) -> None:
        if self._peft is None:
            return
        if self._internal:
            self._peft.base_model.set_adapter(next(iter(self._internal.values())))
            self._peft.delete_adapter(internal)
        else:
            self._peft.unload()  # the last one: plain layers again
            self._peft = None

    @contextmanager
    def use(self, adapter: Adapter | None) -> Iterator[Any]:
        if self._peft is None:
            yield self._base
        elif adapter is None:
            with self._peft.disable_adapter():
                yield self._base
        else:
            self._peft.base_model.set_adapter(self._internal[adapter.name])
            yield self._base


def attach(model: Any, adapter: Adapter, internal: str = _INTERNAL.format(0)) -> Any:
    """The model with this adapter as its first. Raises InvalidInput and leaves the model's layers as they were."""
    import peft

    config = _config(adapter)
    try:
        attached = peft.PeftModel(model, config, adapter_name=internal)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _unfit(adapter, error) from error
    try:
        _fill(attached, adapter, internal)
    except errors.InvalidInput:
        attached.unload()
        raise
    return attached


def _load_into(attached: Any, adapter: Adapter, internal: str) -> None:
    try:
        attached.add_adapter(internal, _config(adapter))
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _unfit(adapter, error) from error
    _fill(attached, adapter, internal)


def _config(adapter: Adapter) -> Any:
    import peft

    try:
        return peft.PeftConfig.from_pretrained(str(adapter.directory))
    except (ValueError, TypeError, KeyError) as error:
        raise _unfit(adapter, error) from error


def _fill(attached: Any, adapter: Adapter, internal: str) -> None:
    """Every tensor of the file must have a place, and every place a tensor: a LoRA can be silently not applied."""
    import peft
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        result = peft.set_peft_model_state_dict(attached, load_file(adapter.directory / WEIGHTS), adapter_name=internal)
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise _unfit(adapter, error) from error
    missing = [key for key in result.missing_keys if f".{internal}." in key]
    if result.unexpected_keys or missing:
        raise _unfit(adapter, f"{len(missing)} tensors are missing and {len(result.unexpected_keys)} have no place")


def _unfit(adapter: Adapter, reason: Exception | str) -> errors.InvalidInput:
    return errors.InvalidInput(f"{adapter.uri} does not fit the base model: {errors.first_line(reason)}", field="uri")
