"""Reading a model and its tokenizer from a folder or from the hub; writing an adapter's model.

The careful half of ``rlbook.lm.policy``: weights only as safetensors and only if complete, no
code from elsewhere, no minute of retries when offline, and one line for everything that can fail.
"""

import copy
import importlib.util
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import hub, logging

from rlbook.paths import data_folder


def shipped_models() -> list[str]:
    """Names of the models that come with the book, for ``load_policy``."""
    return sorted(path.parent.name for path in (data_folder() / "models").glob("*/config.json"))


def load_folder(folder: Path) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model: there is no config.json in it; {_choices()}")
    if adapter.is_file() and importlib.util.find_spec("peft") is None:
        raise ValueError(f"{folder} holds a PEFT adapter, and PEFT is missing: pip install peft")
    base = None  # an adapter names the model that it belongs to, which may be on the hub
    if adapter.is_file():
        base = json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path")
    local_only = base is None or Path(base).is_dir() or not hub_answers()
    try:
        return _load(str(folder), local_only)
    except (OSError, ValueError, ImportError) as problem:
        about = f" (an adapter of {base!r})" if base else ""
        raise ValueError(f"{folder}{about} cannot be loaded: {_one_line(problem)}") from problem


def load_from_hub(name: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    online = hub_answers()
    try:
        return _load(name, local_only=not online)
    except (OSError, ValueError, ImportError) as problem:
        reason = _one_line(problem) if online else "offline, and not in the cache"
        raise ValueError(
            f"no model {name!r}: not shipped, no folder of this name, and not from the hub "
            f"({reason}); {_choices()}"
        ) from problem


def _load(source: str, local_only: bool) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Model and tokenizer in the dtype they were saved in. Both sides of the hub are read here."""
    trust = {"trust_remote_code": False, "local_files_only": local_only}
    with quietly():
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
            adapter_kwargs={"local_files_only": local_only},  # it looks for adapters on its own
            **trust,
        )
        # transformers fills what is missing with random numbers, and only warns.
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if missing:
            raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
        tokenizer = AutoTokenizer.from_pretrained(source, **trust)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        # transformers freezes an adapter that it loads; a policy is there to be trained.
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".default" in name)
    return model, tokenizer


def hub_answers() -> bool:
    """Whether the hub can be asked. Asking it in vain costs a minute of its client's retries."""
    if hub.is_offline_mode():
        return False
    try:
        urllib.request.urlopen(hub.constants.ENDPOINT, timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it answered, if only with a refusal
    except OSError:
        return False
    return True


def _choices() -> str:
    shipped = ", ".join(shipped_models()) or "none are there"
    return (
        f"what can be loaded: a shipped model ({shipped}), or a folder with config.json, "
        "safetensors and a tokenizer"
    )


def _one_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' bars and advice off the screen, as they are neither result nor error."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def without_adapters(model: nn.Module) -> nn.Module:
    """The model itself, or a copy with its PEFT adapters added into the weights."""
    if hasattr(model, "merge_and_unload"):  # wrapped by PEFT
        return copy.deepcopy(model).merge_and_unload()
    if not getattr(model, "_hf_peft_config_loaded", False):
        return model
    model = copy.deepcopy(model)  # transformers put the adapter's layers into the model
    adapted = [name for name, m in model.named_modules() if hasattr(m, "get_base_layer")]
    for name in adapted:
        layer = model.get_submodule(name)
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    for name in ("peft_config", "_weight_conversions"):  # the second would rename the weights
        vars(model).pop(name, None)
    return model
