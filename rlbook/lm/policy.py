"""A language model and its tokenizer as a policy: loading, encoding, saving.

Any causal language model of transformers will do: one that the book ships, one from a folder or
from the hub, one wrapped by PEFT, and the book's own TabularLM. Three things are set the same for
all of them:

- **Dropout is off**, in the modules and in the config, and stays off if somebody calls
  ``model.train()``. With dropout the policy that is scored would not be the one that sampled: the
  ratio of new to old probability would not start at 1, and a KL to one's own copy not at 0.
- **EOS and pad** are the tokenizer's. A tokenizer without a pad token pads with EOS, which does
  no harm: masks go by position (``rlbook.lm.batch``).
- **Weights are safetensors**, and code that comes with a model is never run.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlbook.lm.loading import (
    load_folder,
    load_from_hub,
    quietly,
    shipped_models,
    without_adapters,
)
from rlbook.paths import data_folder

__all__ = ["Policy", "load_policy", "shipped_models"]

# From this size on, a model on a CUDA device is loaded in bfloat16. Smaller ones are trained in
# float32, where a step of 1e-6 is not lost in rounding.
LARGE = 1_000_000_000


@dataclass(frozen=True, eq=False)
class Policy:
    """A model that chooses tokens, and the tokenizer that gives them meaning.

        policy = load_policy("arithmetic-sft")
        policy = Policy(my_model, my_tokenizer)     # a model already in memory, PEFT's included

    Making one puts the model in eval mode, switches its dropout off and agrees EOS and pad
    between model and tokenizer. What can be trained stays trainable.

    Attributes:
        model: a causal language model of transformers, PEFT-wrapped or not, or a TabularLM.
        tokenizer: None where prompts are token ids; a text is then its ids with spaces between.
        device: where the model is. Given another device, the model moves there.

    Raises:
        ValueError: the tokenizer has more tokens than the model has embeddings; there is no EOS.

    Book: 11_generation.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None = None
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        here = next(self.model.parameters()).device
        device = here if self.device is None else torch.device(self.device)
        object.__setattr__(self, "device", device)
        self.model.to(device).eval()
        _switch_off_dropout(self.model)
        if self.tokenizer is not None:
            _check_vocabulary(self.tokenizer, self.vocab_size)
            _agree_on_eos_and_pad(self.model, self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """V: how many tokens the model chooses from; the tokenizer may have names for fewer."""
        return self.model.config.vocab_size

    @property
    def context(self) -> int:
        """The longest text in tokens, prompt and response together (sys.maxsize: no limit)."""
        return getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize

    @property
    def eos_id(self) -> int | None:
        """The token that ends a response; None: a model without one, which goes on to the limit."""
        source = self.model.config if self.tokenizer is None else self.tokenizer
        return getattr(source, "eos_token_id", None)

    @property
    def pad_id(self) -> int:
        """What stands where no token is. It may be EOS; only masks tell."""
        source = self.model.config if self.tokenizer is None else self.tokenizer
        pad = getattr(source, "pad_token_id", None)
        return next(x for x in (pad, self.eos_id, 0) if x is not None)

    def encode(self, prompts: Sequence[str | Sequence[int] | Tensor]) -> list[list[int]]:
        """Token ids of each prompt; ids go through as they are.

        Special tokens are those that the tokenizer puts before a text by itself (Llama's BOS;
        GPT-2 and Qwen have none). A prompt that has its BOS already, such as one from a chat
        template, gets no second one. For a text that continues another, as a response does, call
        the tokenizer with ``add_special_tokens=False``.

        Raises ValueError for a single string, a string without a tokenizer, and an id that the
        model does not have (which prompt).
        """
        if isinstance(prompts, str):
            raise ValueError("prompts must be a list; for a single one write [prompt]")
        rows = [[] if isinstance(p, str) else [int(token) for token in p] for p in prompts]
        strings = [i for i, prompt in enumerate(prompts) if isinstance(prompt, str)]
        if strings and self.tokenizer is None:
            raise ValueError(
                f"prompt {strings[0]} is a string, but this policy has no tokenizer: give token ids"
            )
        if strings:
            encoded = self.tokenizer([prompts[i] for i in strings])["input_ids"]
            bos = self.tokenizer.bos_token_id
            for i, ids in zip(strings, encoded, strict=True):
                twice = bos is not None and ids[:2] == [bos, bos]
                rows[i] = ids[1:] if twice else ids
        for i, row in enumerate(rows):
            if row and not 0 <= min(row) <= max(row) < self.vocab_size:
                wrong = next(token for token in row if not 0 <= token < self.vocab_size)
                raise ValueError(
                    f"prompt {i} holds the token id {wrong}, but the model has ids 0 to "
                    f"{self.vocab_size - 1}"
                )
        return rows

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of token ids; EOS, pad and other special tokens are left out."""
        ids = [int(token) for token in ids]
        if self.tokenizer is not None:
            return self.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        eos = self.eos_id
        return " ".join(str(token) for token in ids if token != eos)

    def save(self, folder: str | Path) -> Path:
        """Write a plain Hugging Face folder; ``AutoModelForCausalLM`` and ``load_policy`` read it.

        A PEFT adapter is added into a copy of the weights, so the folder holds a whole model that
        needs no PEFT. (To keep the adapter apart, call PEFT's own ``model.save_pretrained``.)

        Raises ValueError for a model that is not one of transformers, such as TabularLM.
        """
        if not hasattr(self.model, "save_pretrained"):
            raise ValueError(
                f"{type(self.model).__name__} is not a model of transformers and has no such "
                "folder: keep its state_dict() instead"
            )
        folder = Path(folder)
        with quietly():
            without_adapters(self.model).save_pretrained(folder)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)
        return folder


def load_policy(
    name_or_path: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Policy:
    """Load a causal language model and its tokenizer, as a policy.

        load_policy("arithmetic-sft")      a shipped model (``shipped_models`` lists them)
        load_policy("runs/mine")           a folder: policy.save's, save_pretrained's, an adapter's
        load_policy("Qwen/Qwen3-0.6B")     a model of the hub, or of its cache when offline

    Args:
        name_or_path: looked up in that order.
        device: default: CUDA, else Apple's MPS, else the CPU.
        dtype: of the weights. Default: float32, as training wants it; on CUDA bfloat16 from a
            billion parameters on.

    Raises:
        ValueError: there is no such model (with what can be loaded instead), its weights are
            incomplete or not safetensors, it needs code of its own or a package that is missing,
            or what ``Policy`` raises.

    Book: 11_generation.
    """
    source = model_folder(name_or_path)
    device = torch.device(device if device is not None else _best_device())
    if source.is_dir():
        model, tokenizer = load_folder(source)
    else:
        model, tokenizer = load_from_hub(str(name_or_path))
    if dtype is None:
        large = sum(parameter.numel() for parameter in model.parameters()) >= LARGE
        dtype = torch.bfloat16 if large and device.type == "cuda" else torch.float32
    return Policy(model.to(device, dtype), tokenizer, device)


def model_folder(name_or_path: str | Path) -> Path:
    """The folder of a model of the book by its name; any other path as it is."""
    if str(name_or_path) in shipped_models():
        return data_folder() / "models" / str(name_or_path)
    return Path(name_or_path).expanduser()


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _switch_off_dropout(model: nn.Module) -> None:
    """Dropout is a module in GPT-2 and PEFT, and a number kept by the attention in Llama."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for holder in (module, getattr(module, "config", None)):
            for name, value in list(getattr(holder, "__dict__", {}).items()):
                if isinstance(value, float) and ("dropout" in name or name.endswith("_pdrop")):
                    setattr(holder, name, 0.0)


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    numbers = set(tokenizer.get_vocab().values())
    if numbers <= set(tokenizer.all_special_ids):
        raise ValueError(
            "the tokenizer is empty: are its files there, and was it loaded with from_pretrained?"
        )
    tokens = max(numbers) + 1
    if tokens > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokens} tokens, but the model only {vocab_size}: they do not "
            "belong together (after adding tokens, call model.resize_token_embeddings)"
        )


def _agree_on_eos_and_pad(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokenizer's word counts; where it has none, EOS is the generation config's."""
    generation = getattr(model, "generation_config", None)
    if tokenizer.eos_token_id is None:
        ids = getattr(generation, "eos_token_id", None)
        first = ids[0] if isinstance(ids, list) else ids
        token = None if first is None else tokenizer.convert_ids_to_tokens(first)
        if token is None:
            raise ValueError(
                "the tokenizer has no EOS token and the model's generation config names none, so "
                "no response could end: set tokenizer.eos_token"
            )
        tokenizer.eos_token = token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    for config in filter(None, (model.config, generation)):
        config.pad_token_id = tokenizer.pad_token_id
        ids = config.eos_token_id
        if tokenizer.eos_token_id not in (ids if isinstance(ids, list) else [ids]):
            config.eos_token_id = tokenizer.eos_token_id
