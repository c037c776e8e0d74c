"""GPT-2 124M (random weights): load, sample, score and one SFT step, with speed and memory.

On an accelerator in bfloat16, marked gpu:

    pytest tests/lm/test_gpu.py -s

The same on the CPU in float32 and with fewer tokens takes a minute and 4 GB, so it runs only when
asked for:

    RLBOOK_LARGE=1 pytest tests/lm/test_gpu.py -s -m slow
"""

import pytest
import torch
from large_gpt2 import measured, on_cpu_if_asked, write_gpt2_124m

from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.posttrain.sft import SFTConfig, sft

PROMPTS = ["Hello world", "The agent chooses", "A", "Once upon a time there was a policy that"]
# device, dtype, samples per prompt, tokens per response, how far sampling and scoring may differ.
# In bfloat16 a logit near 2 is known to 2^-7 only, and the two ways round differently.
DEVICES = [
    pytest.param(("cuda", torch.bfloat16, 64, 64, 0.1), id="cuda", marks=pytest.mark.gpu),
    pytest.param(("cpu", torch.float32, 2, 8, 1e-4), id="cpu", marks=on_cpu_if_asked),
]


@pytest.mark.parametrize("setting", DEVICES)
def test_gpt2_124m(setting, tmp_path, real_data, capsys):
    device, dtype, K, T, tolerance = setting
    folder = write_gpt2_124m(tmp_path, real_data)
    with capsys.disabled():
        policy = measured(
            "load", device, lambda: load_policy(folder, device=device, dtype=dtype), tokens=None
        )
        assert policy.device.type == device and policy.model.dtype == dtype
        assert policy.encode(["Hello world"]) == [[15496, 995]]

        def sample():
            return sample_responses(
                policy, PROMPTS, samples_per_prompt=K, max_new_tokens=T,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip

        first = sample()  # and a warm-up
        responses = measured("sample", device, sample, tokens=lambda r: int(r.response_mask.sum()))
        assert len(responses) == len(PROMPTS) * K and responses.device.type == device
        assert torch.equal(first.response_ids, responses.response_ids)

        def score():
            with torch.no_grad():
                return response_logprobs(policy.model, responses)

        count = int(responses.response_mask.sum())
        scored = measured("logprobs", device, score, tokens=lambda _: count)
        assert (scored - responses.sampler_logprobs).abs().max() < tolerance
        # Random weights: close to uniform over 50,257 tokens, ln of which is 10.8.
        assert 9.0 < -float(scored[responses.response_mask].mean()) < 12.5

        examples = list(zip(PROMPTS, responses.texts[::K], strict=True))
        config = SFTConfig(steps=2, batch_size=4, warmup=0, learning_rate=1e-4)
        before = policy.model.transformer.wte.weight.detach().clone()
        reports = measured(
            "sft x 2", device, lambda: list(sft(policy, examples, config)),
            tokens=lambda r: r[-1].samples,
        )  # fmt: skip
        assert reports[1]["loss"] < reports[0]["loss"] and 9.0 < reports[0]["loss"] < 12.5
        assert not torch.equal(before, policy.model.transformer.wte.weight)
