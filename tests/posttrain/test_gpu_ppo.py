"""One PPO step of GPT-2 124M: random weights, GPT-2's tokenizer, a copy as the value network.

On an accelerator in bfloat16, marked gpu, with its memory in the output:

    pytest tests/posttrain/test_gpu_ppo.py -s

On the CPU in float32, with fewer tokens, it takes a minute or two and 8 GB:

    RLBOOK_LARGE=1 pytest tests/posttrain/test_gpu_ppo.py -s -m slow
"""

import pytest
import torch
from large_gpt2 import measured, on_cpu_if_asked, write_gpt2_124m

from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.task import Task
from rlbook.posttrain.ppo import PPOConfig, ppo

PROMPTS = ["Hello world", "The agent chooses", "A", "Once upon a time there was a policy that"]
# device, bf16, prompts and responses per update, tokens, micro-batch, recompute
SETTINGS = [
    pytest.param(("cuda", True, 32, 8, 128, 16_384, False), id="cuda", marks=pytest.mark.gpu),
    pytest.param(("cuda", True, 32, 8, 128, 16_384, True), id="recompute", marks=pytest.mark.gpu),
    pytest.param(("cpu", False, 2, 2, 6, 32, True), id="cpu", marks=on_cpu_if_asked),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_step_of_gpt2_124m(setting, tmp_path, real_data, capsys):
    device, bf16, N, K, T, micro_tokens, recompute = setting
    folder = write_gpt2_124m(tmp_path, real_data)
    policy, ref = (load_policy(folder, device=device, dtype=torch.float32) for _ in range(2))
    task = Task.from_functions(
        PROMPTS, lambda prompts, texts: [float(len(text)) for text in texts], max_new_tokens=T
    )
    config = PPOConfig(
        updates=2, train_batch_size=N, rollouts_per_prompt=K, mini_batch_size=N, epochs=1,
        micro_tokens=micro_tokens, learning_rate=1e-5, value_learning_rate=1e-5, beta=0.05,
        bf16=bf16, recompute=recompute,
    )  # fmt: skip
    before = policy.model.transformer.wte.weight.detach().clone()
    loop = ppo(policy, task, config, ref=ref)
    with capsys.disabled():
        tokens = []
        for name in ("first PPO update", "second PPO update"):
            report = measured(
                name, device, lambda: next(loop),
                tokens=lambda r: r.samples - sum(tokens),
            )  # fmt: skip
            tokens.append(report.samples - sum(tokens))
            if name.startswith("first"):
                # Scored twice in the same precision; bfloat16 and other micro-batches round.
                assert report["ratio"] == pytest.approx(1.0, abs=0.05 if bf16 else 1e-4)
                assert report["kl_ref"] == pytest.approx(0.0, abs=0.5 if bf16 else 1e-3)
    assert not torch.equal(before, policy.model.transformer.wte.weight)
    assert report["grad_norm"] > 0
