"""The shift, the padding and the pieces, against a loop that has none of them."""

import warnings

import pytest
import torch
from ragged import ANSWERS, EXACT, PROMPTS, SINGLE, batch
from small_models import ARCHITECTURES, EOS, VOCAB, tiny_gpt2
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlbook.lm import logprobs as module
from rlbook.lm.batch import Responses, pad_left, pad_right, position_ids
from rlbook.lm.exact import enumerate_responses, enumerated_logprobs
from rlbook.lm.logprobs import (
    response_logits,
    response_logprobs,
    response_logprobs_and_entropy,
    token_logprobs,
)
from rlbook.lm.tabular_lm import TabularLM


def naive(model, prompts=PROMPTS, answers=ANSWERS, temperature=1.0):
    """One text after another, no padding, every logit, log_softmax, one token after another."""
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        log_pi = torch.log_softmax(logits / temperature, dim=-1)
        rows.append(torch.stack([log_pi[len(prompt) + t - 1, a] for t, a in enumerate(answer)]))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def gradients(model, scores):
    """The gradient of a weighted sum of the scores, one tensor per parameter."""
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view_as(scores)
    return torch.autograd.grad((weights * scores).sum(), list(model.parameters()))


class OnlyForward(nn.Module):
    """A model that shows nothing of its inside, and scales its logits after the head."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.config = type("Config", (), {"model_type": "unheard-of"})()
        self.kept = None

    def forward(self, input_ids, logits_to_keep=0, **inputs):
        output = self.inner(input_ids=input_ids, logits_to_keep=logits_to_keep, **inputs)
        self.kept = output.logits.shape[1]
        output.logits = output.logits * 0.5
        return output


@pytest.fixture(params=[*ARCHITECTURES, "lora", "own forward"])
def model(request):
    """Every way a model comes, in float64."""
    if request.param == "own forward":
        return OnlyForward(tiny_gpt2()).double()
    if request.param != "lora":
        return ARCHITECTURES[request.param]().double()
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    with warnings.catch_warnings():  # PEFT uses an old name of transformers'
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.get_peft_model(tiny_gpt2(), config).double()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(True)
        if "lora_B" in name:  # begins at 0, which would make the adapter invisible
            parameter.data.normal_(0, 0.3, generator=generator)
    return wrapped.eval()


# --- equal to the naive loop -----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_a_naive_loop_in_values_and_gradients(model, temperature):
    scores = response_logprobs(model, batch(), temperature=temperature)
    expected = naive(model, temperature=temperature)
    torch.testing.assert_close(scores, expected, **EXACT)
    for ours, theirs in zip(gradients(model, scores), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    assert (scores[batch().response_mask] < -1e-3).all()
    assert (scores[~batch().response_mask] == 0).all()


def test_by_hand_the_last_prompt_token_predicts_the_first_response_token():
    """A chain on {0, 1, 2 = EOS}: 0 → 1 with ¾; 1 → 0 with ½, → EOS with ⅛."""
    P = torch.tensor([[1 / 8, 3 / 4, 1 / 8], [1 / 2, 3 / 8, 1 / 8], [1 / 3, 1 / 3, 1 / 3]])
    chain = Chain(P.double())
    responses = batch([[1, 0], [1]], [[1, 2], [0, 1, 2]], pad=2)
    probability = [[3 / 4, 1 / 8, 1.0], [1 / 2, 3 / 4, 1 / 8]]  # the masked cell: log 1 = 0
    expected = torch.tensor(probability, dtype=torch.float64).log()
    torch.testing.assert_close(response_logprobs(chain, responses), expected, **EXACT)
    # at temperature ½ probabilities are squared and normalised: 0 → 1 with 9/16 ÷ (1+36+1)/64
    sharp = response_logprobs(chain, responses, temperature=0.5)
    assert sharp[0, 0].exp().item() == pytest.approx(36 / 38, abs=1e-9)


@pytest.mark.parametrize("make", [TabularLM.fixed_length, TabularLM.with_eos])
def test_equals_the_exact_probabilities_of_a_table(make):
    """Two prompts of different lengths, every response to each; 1 = Σ_y π(y|x)."""
    table = make(torch.Generator().manual_seed(0), prompts=[[0], [1, 0]])
    responses = enumerate_responses(table)
    scores = response_logprobs(table, responses)
    torch.testing.assert_close(scores, enumerated_logprobs(table), **EXACT)
    probabilities = scores.sum(dim=1).exp().view(2, -1).sum(dim=1)
    torch.testing.assert_close(probabilities, torch.ones(2).double(), **EXACT)
    ours = torch.autograd.grad(scores.square().sum(), table.table)[0]
    theirs = torch.autograd.grad(enumerated_logprobs(table).square().sum(), table.table)[0]
    torch.testing.assert_close(ours, theirs, **EXACT)


class Chain(nn.Module):
    """A Markov chain as a language model: the next token depends on this one alone."""

    def __init__(self, P):
        super().__init__()
        self.logits = nn.Parameter(P.log())
        self.config = type("Config", (), {"model_type": "chain"})()

    def forward(self, input_ids, logits_to_keep=0, **others):
        logits = self.logits[input_ids[:, -logits_to_keep:]]
        return type("Output", (), {"logits": logits})()


# --- padding, order --------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_amount_of_padding_and_what_stands_in_it_change_nothing(architecture):
    model = ARCHITECTURES[architecture]()
    plain = batch()
    wide = batch(extra=(7, 4))
    T = plain.response_ids.shape[1]
    junk = torch.randint(VOCAB, (2, *wide.sequence_ids.shape), generator=torch.Generator())
    for ids in junk:
        P = wide.prompt_ids.shape[1]
        other = Responses(
            torch.where(wide.prompt_mask, wide.prompt_ids, ids[:, :P]),
            wide.prompt_mask,
            torch.where(wide.response_mask, wide.response_ids, ids[:, P:]),
            wide.response_mask,
            wide.sampler_logprobs,
            wide.texts,
        )
        scores, expected = response_logprobs(model, other), response_logprobs(model, plain)
        torch.testing.assert_close(scores[:, :T], expected, **SINGLE)
        assert (scores[:, T:] == 0).all()
        ours, theirs = gradients(model, scores[:, :T]), gradients(model, expected)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # sums over many cells


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_side_of_the_padding_and_order_of_the_rows_change_nothing(architecture):
    model = ARCHITECTURES[architecture]()
    expected = response_logprobs(model, batch())
    texts = [p + a for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    for pad in (pad_left, pad_right):
        ids, mask = pad(texts, EOS)
        answers = [[0] * len(p) + [1] * len(a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
        scored = pad(answers, 0)[0].bool()
        scores = token_logprobs(model, ids, mask, position_ids(mask), scored)
        assert (scores[~scored] == 0).all()
        torch.testing.assert_close(scores[scored], expected[batch().response_mask], **SINGLE)
    order = [2, 0, 3, 1]
    turned = response_logprobs(model, batch().select(order))
    torch.testing.assert_close(turned, expected[order], **SINGLE)
    for row in range(4):  # and a row by itself, its padding cut off
        alone = response_logprobs(model, batch().select([row]))[0]
        torch.testing.assert_close(alone, expected[row, : len(ANSWERS[row])], **SINGLE)


def test_positions_count_tokens_and_not_columns():
    """The trap: with columns as positions a left-padded text is another text."""
    model = tiny_gpt2()
    responses = batch()
    ids, mask = responses.sequence_ids, responses.sequence_mask
    scored = torch.cat([responses.prompt_mask & False, responses.response_mask], dim=1)
    columns = torch.arange(ids.shape[1]).expand_as(ids).contiguous()
    wrong = token_logprobs(model, ids, mask, columns, scored)[:, 5:]
    right = response_logprobs(model, responses)
    torch.testing.assert_close(wrong[0], right[0], **SINGLE)  # the longest prompt has no padding
    assert (wrong[1] - right[1]).abs().max() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_several_texts_in_a_row_are_scored_as_if_apart(architecture):
    model = ARCHITECTURES[architecture]().double()
    texts = [[5, 6, 7, EOS], [8, 9, EOS]]
    ids = torch.tensor([texts[0] + texts[1]])
    text = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    order = torch.arange(7)
    mask = ((text[:, None] == text) & (order[:, None] >= order))[None, None]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    packed = token_logprobs(model, ids, mask, positions, positions > 0)
    expected = naive(model, [t[:1] for t in texts], [t[1:] for t in texts])
    torch.testing.assert_close(packed[0, 1:4], expected[0], **EXACT)
    torch.testing.assert_close(packed[0, 5:], expected[1, :2], **EXACT)
    with pytest.raises(ValueError, match="row 0 scores the first token of a text"):
        token_logprobs(model, ids, mask, positions, torch.ones_like(positions).bool())


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_pieces_give_the_same_values_and_gradients(model, rows, monkeypatch):
    whole = torch.stack(response_logprobs_and_entropy(model, batch()))
    expected = gradients(model, whole)
    monkeypatch.setattr(module, "PIECE", rows * VOCAB)
    pieces = torch.stack(response_logprobs_and_entropy(model, batch()))
    torch.testing.assert_close(pieces, whole, **EXACT)
    for ours, theirs in zip(gradients(model, pieces), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(response_logprobs(model, batch()), whole[0], **EXACT)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_logits_never_exist_all_at_once(monkeypatch):
    """Neither forward nor backward makes a tensor larger than a piece (or the embedding)."""
    V = 2000
    model = tiny_gpt2(vocab=V)
    monkeypatch.setattr(module, "PIECE", 40 * V)
    responses = batch([[5, 6]] * 16, [[7] * 8] * 16)
    with Largest() as ours:
        response_logprobs(model, responses).sum().backward()
    assert ours.numbers <= 40 * V
    with Largest() as theirs:
        naive(model, [[5, 6]], [[7] * 60]).sum().backward()
    assert theirs.numbers > 40 * V  # the counter counts: 62 rows of V


def test_pieces_are_computed_again_and_not_kept(monkeypatch):
    """What autograd keeps for the backward pass has no logits among it."""
    model, kept = tiny_gpt2(), []
    responses = batch([[5, 6]] * 16, [[7] * 8] * 16)

    def kept_logits():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(tuple(x.shape)) or x, lambda x: x
        ):
            response_logprobs(model, responses)
        return sum(rows for *_, rows, last in (s for s in kept if len(s) > 1) if last == VOCAB)

    assert kept_logits() >= 16 * 8  # in one piece they are kept: the counter counts
    monkeypatch.setattr(module, "PIECE", 40 * VOCAB)
    assert kept_logits() < 40  # the head's weight [32, V], transposed, at most


def test_a_model_of_its_own_is_asked_for_response_positions_only():
    model = OnlyForward(tiny_gpt2())
    response_logprobs(model, batch())
    assert model.kept == 4 + 1  # T, and the one after the last token, which is dropped


# --- entropy, logits -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_logits_and_entropy_are_those_of_the_naive_loop(model, temperature):
    responses = batch()
    logits = response_logits(model, responses, temperature=temperature)
    mask = responses.response_mask
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        every = model(input_ids=torch.tensor([prompt + answer])).logits[0] / temperature
        expected = every[len(prompt) - 1 : -1]
        torch.testing.assert_close(logits[row, : len(answer)], expected, **EXACT)
    assert (logits[~mask] == 0).all()
    categorical = torch.distributions.Categorical(logits=logits)
    logprobs, entropy = response_logprobs_and_entropy(model, responses, temperature=temperature)
    expected = categorical.log_prob(responses.response_ids)
    torch.testing.assert_close(logprobs[mask], expected[mask], **EXACT)
    torch.testing.assert_close(entropy[mask], categorical.entropy()[mask], **EXACT)
    assert (entropy[~mask] == 0).all()
    ours, theirs = gradients(model, entropy), gradients(model, categorical.entropy() * mask)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_a_token_that_is_ruled_out_has_entropy_and_gradient_0():
    chain = Chain(torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).double())
    _, entropy = response_logprobs_and_entropy(chain, batch([[0]], [[1, 0]], pad=2))
    torch.testing.assert_close(entropy.exp(), torch.full((1, 2), 2.0).double(), **EXACT)
    gradient = torch.autograd.grad(entropy.sum(), chain.logits)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e-12  # uniform: the entropy is at its highest


def test_bfloat16_models_are_scored_in_float32():
    model = tiny_gpt2()
    exact = response_logprobs(model, batch())
    rough = response_logprobs(model.bfloat16(), batch())
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.2


def test_virtual_tokens_before_the_prompt_are_refused():
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.get_peft_model(tiny_gpt2(), config)
    with pytest.raises(ValueError, match="PromptTuningConfig puts virtual tokens before"):
        response_logprobs(wrapped, batch())


def test_refusals():
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be above 0; score greedy responses"):
            response_logprobs(tiny_gpt2(), batch(), temperature=temperature)
        with pytest.raises(ValueError, match="must be above 0"):
            response_logits(tiny_gpt2(), batch(), temperature=temperature)
