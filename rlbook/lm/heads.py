"""One number per position instead of V logits: values of states, scores of whole responses.

A language model's last hidden state at a token sums up the text so far. A linear map from it to
one number makes

- a *value network*: the value of the state before each response token, read at the token before
  (the last token of the prompt for the first);
- a *reward model*: the score of the whole response, read at its last token.
"""

import copy
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlbook.lm.backbone import hidden_states
from rlbook.lm.batch import Responses, position_ids
from rlbook.lm.policy import Policy, load_policy, model_folder

HEAD_FILE = "scalar_head.safetensors"


class ScalarModel(nn.Module):
    """A language model that answers with one number per position.

        value_t = w · h_t + b,    h_t the last hidden state at token t [d]

        value_model = ScalarModel(policy, init="zero")
        reward_model = ScalarModel(policy, init="reward", generator=generator)

    Args:
        policy: the language model to start from, and its tokenizer.
        init: "zero": every number is 0 at first, so a first advantage is a return.
            "reward": w ~ N(0, 1/(d+1)), b = 0, so numbers begin at about unit size.
        share: False: a copy of the model, which learns by itself. True: the policy's own model,
            so that one body serves both, and both losses move it.
        generator: draws w for "reward".

    Attributes:
        model: the language model. Its own head is not used. head: nn.Linear(d, 1), float32 at
            least. policy: the model with the tokenizer, for ``responses_from_texts``.

    Raises:
        ValueError: a model without hidden states (a table); an unknown init; "reward" without a
            generator.

    Book: 14_reward_model, 17_ppo_gpt2. Source: Stiennon et al. (2020), appendix B.1 ("reward").
    """

    def __init__(
        self,
        policy: Policy,
        *,
        init: str,
        share: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        d = _width(policy.model)
        self.model = policy.model if share else copy.deepcopy(policy.model)
        self.policy = Policy(self.model, policy.tokenizer, policy.device)
        dtype = torch.promote_types(next(self.model.parameters()).dtype, torch.float32)
        # skip_init: nn.Linear would draw weights from the global generator.
        self.head = nn.utils.skip_init(nn.Linear, d, 1, dtype=dtype, device=policy.device)
        with torch.no_grad():
            self.head.weight.copy_(_first_weights(init, d, generator))
            self.head.bias.zero_()

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"] | Bool[Tensor, "B 1 L L"],
        positions: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """The number at each token; at padding it means nothing. Arguments: ``hidden_states``."""
        states = hidden_states(self.model, ids, mask, positions)
        dtype = self.head.weight.dtype  # under autocast the product comes out smaller
        return self.head(states.to(dtype))[..., 0].to(dtype)

    def save(self, folder: str | Path) -> Path:
        """Write the policy's plain Hugging Face folder, and the head as one more safetensors file.

        ``load_scalar_model`` reads it; ``load_policy`` reads the language model alone.
        """
        folder = self.policy.save(folder)
        tensors = {name: x.detach().contiguous() for name, x in self.head.state_dict().items()}
        save_file(tensors, folder / HEAD_FILE)
        return folder


def load_scalar_model(
    name_or_path: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ScalarModel:
    """Read what ``ScalarModel.save`` wrote: a folder, or a model of the book, "replies-reward".

    ``device``, ``dtype``: as for ``load_policy``.

    Raises ValueError for a folder without a head, and for what ``load_policy`` refuses.

    Book: 14_reward_model.
    """
    folder = model_folder(name_or_path)
    if not (folder / HEAD_FILE).is_file():
        raise ValueError(
            f"{name_or_path} holds no scalar model: there is no {HEAD_FILE} in it; to put a new "
            'head on a language model write ScalarModel(load_policy(folder), init="zero")'
        )
    loaded = load_policy(folder, device=device, dtype=dtype)
    model = ScalarModel(loaded, init="zero", share=True)
    model.head.load_state_dict(load_file(folder / HEAD_FILE))
    return model


def token_values(model: ScalarModel, responses: Responses) -> Float[Tensor, "B T"]:
    """The value of the state before each response token, in units of reward.

        V(s_t) = w · h + b,    h the hidden state at the token before a_t

    For t = 0 that is the last token of the prompt. What stands at the last response token is not
    read: nothing is chosen after it, and the value of the end is 0. With gradient; 0 where
    ``response_mask`` is False.

    Book: 17_ppo_gpt2.
    """
    before = _numbers(model, responses)[:, responses.prompt_ids.shape[1] - 1 : -1]
    return torch.where(responses.response_mask, before, 0.0)


def sequence_scores(model: ScalarModel, responses: Responses) -> Float[Tensor, " B"]:
    """One score per response, read at its last token: at EOS, where it has one.

        score = w · h + b,    h the hidden state at the last response token

    Raises ValueError for a response without tokens (which row).

    Book: 14_reward_model. Source: Ouyang et al. (2022), section 3.5 (the form of the model).
    """
    if (responses.lengths == 0).any():
        row = int((responses.lengths == 0).nonzero()[0])
        raise ValueError(f"response {row} has no tokens, so there is none to read its score at")
    last = responses.prompt_ids.shape[1] + responses.lengths - 1
    return _numbers(model, responses).gather(1, last[:, None])[:, 0]


def _numbers(model: ScalarModel, responses: Responses) -> Float[Tensor, "B L"]:
    mask = responses.sequence_mask
    return model(responses.sequence_ids, mask, position_ids(mask))


def _width(model: nn.Module) -> int:
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    if width is None:
        raise ValueError(
            f"{type(model).__name__} has no hidden states that a head could read: use a "
            "transformer of transformers"
        )
    return width


def _first_weights(init: str, d: int, generator: torch.Generator | None) -> Float[Tensor, "1 d"]:
    if init == "zero":
        return torch.zeros(1, d)
    if init != "reward":
        raise ValueError(f"init={init!r} is neither 'zero' nor 'reward'")
    if generator is None:
        raise ValueError('init="reward" draws its weights: pass generator=')
    return torch.randn(1, d, generator=generator, device=generator.device) / (d + 1) ** 0.5
