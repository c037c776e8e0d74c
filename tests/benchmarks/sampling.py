"""Sampling against transformers' generate: the same model, prompts and number of tokens.

    python tests/benchmarks/sampling.py --json [--seeds 0] [--only tiny_B256] [--quick]

Keys: tiny_B256_K8_P64 is 256 rows, that is 32 prompts of 64 tokens with 8 samples of each; P is 8
where it is not named. `tiny` is GPT-2's architecture with 0.1M parameters (2 layers, 64 wide, 4
heads, 32 tokens), `qwen2` the same size as a Qwen2, `gpt2` is GPT-2 124M; all with random
weights, in float32.

Same work. Both sides draw T tokens for every row, T = 32 (16 for gpt2), at temperature 1 over the
whole vocabulary; nothing ends early, as EOS is out of reach on both sides: ours has no token to
stop at, generate gets no eos_token_id. Tokens are counted in what comes back, and both counts
must be B·T. generate is called with ready tensors and `num_return_sequences=K`; ours takes lists
of ids, and also returns log-probabilities and decoded texts, which generate does not.
Rounds alternate between the sides after a warm-up of each; medians count.

Memory. `logprobs_memory`: how much a process grows at its peak for the log-probabilities of
responses and their gradient (64 prompts of 64 tokens, 64 response tokens, GPT-2 with 2 layers and
50,257 tokens), the naive way (logits of all positions, log-softmax, gather) over
`response_logprobs`. Each is measured in a process of its own, by its peak resident size beyond
what it had before.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from rlbook.lm.batch import Responses
from rlbook.lm.gpt2 import SIZES
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses

ROUNDS = 7
SHORT, LONG = 8, 64

Sampler = Callable[[int], int]  # seed -> number of tokens drawn


# --- the models: no EOS, so that every row goes on to the limit ---

NO_EOS = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": 0}


def tiny() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=128, n_embd=64, n_layer=2, n_head=4, **NO_EOS)
    )


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=32, max_position_embeddings=128, hidden_size=64, intermediate_size=192,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            tie_word_embeddings=True, **NO_EOS,
        )
    )  # fmt: skip


def gpt2() -> PreTrainedModel:
    size = SIZES["124M"]
    return GPT2LMHeadModel(
        GPT2Config(n_embd=size.d, n_layer=size.n_layer, n_head=size.n_head, **NO_EOS)
    )


MODELS = {"tiny": tiny, "qwen2": qwen2, "gpt2": gpt2}
# (model, rows, samples per prompt, prompt tokens)
CASES = [
    *(("tiny", B, K, P) for B in (16, 64, 256, 512) for K in (1, 8) for P in (SHORT, LONG)),
    *(("qwen2", B, K, P) for B in (16, 256) for K, P in ((1, SHORT), (8, LONG))),
    *(("gpt2", 8, K, P) for K in (1, 8) for P in (SHORT, LONG)),
]


def key(model: str, B: int, K: int, P: int) -> str:
    return f"{model}_B{B}_K{K}" + ("" if P == SHORT else f"_P{P}")


# --- one sampler a side ---


def ours(model: PreTrainedModel, prompts: torch.Tensor, K: int, T: int) -> Sampler:
    policy, rows = Policy(model, None), prompts.tolist()

    def run(seed: int) -> int:
        responses = sample_responses(
            policy, rows, samples_per_prompt=K, max_new_tokens=T,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return int(responses.response_mask.sum())

    return run


def theirs(model: PreTrainedModel, prompts: torch.Tensor, K: int, T: int) -> Sampler:
    mask = torch.ones_like(prompts)

    def run(seed: int) -> int:
        torch.manual_seed(seed)
        ids = model.generate(
            prompts, attention_mask=mask, num_return_sequences=K, max_new_tokens=T,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        )  # fmt: skip
        return ids[:, prompts.shape[1] :].numel()  # nothing is padded: no row can end

    return run


def compare(model: PreTrainedModel, name: str, B: int, K: int, P: int, **how: Any) -> dict:
    """Median tokens per second of both sides, and their ratio."""
    T = 16 if name == "gpt2" else 32
    generator = torch.Generator().manual_seed(how["seed"])
    prompts = torch.randint(1, model.config.vocab_size, (B // K, P), generator=generator)
    sides = {"ours": ours(model, prompts, K, T), "generate": theirs(model, prompts, K, T)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(-1, how["rounds"]):
        for side, run in sides.items():
            start = time.perf_counter()
            tokens = run(how["seed"] + number + 1)
            spent = time.perf_counter() - start
            assert tokens == B * T, f"{side} drew {tokens} tokens instead of {B * T}"
            if number >= 0:
                seconds[side].append(spent)
    speed = {side: B * T / statistics.median(spent) for side, spent in seconds.items()}
    return speed | {"ratio": speed["ours"] / speed["generate"]}


# --- memory of scoring ---


def naive_logprobs(model: PreTrainedModel, responses: Responses) -> torch.Tensor:
    ids = responses.sequence_ids
    logits = model(ids, attention_mask=responses.sequence_mask.long()).logits
    logprobs = logits[:, :-1].log_softmax(dim=-1)
    logprobs = logprobs.gather(2, ids[:, 1:, None])[:, :, 0]
    return logprobs[:, -responses.response_ids.shape[1] :]


def growth(way: str) -> float:
    """Peak megabytes beyond those before, in this process: run it in a fresh one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=128, n_head=4, **NO_EOS)).eval()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    B, P, T = 64, 64, 64
    ids = torch.randint(50_257, (B, P + T))
    everywhere = torch.ones(B, P + T, dtype=torch.bool)
    responses = Responses(
        ids[:, :P], everywhere[:, :P], ids[:, P:], everywhere[:, P:], torch.zeros(B, T), [""] * B
    )
    score = {"naive": naive_logprobs, "ours": response_logprobs}[way]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = score(model, responses).sum()
    total.backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"megabytes": (after - before) / 1024, "total": float(total)}))
    return (after - before) / 1024


def memory() -> dict[str, float]:
    """The peaks of both ways, each in a process of its own, which must agree on the result."""
    found = {}
    for way in ("naive", "ours"):
        command = [sys.executable, __file__, "--growth", way]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[way] = json.loads(output.splitlines()[-1])
    assert abs(found["naive"]["total"] / found["ours"]["total"] - 1) < 1e-4, found
    peaks = {way: row["megabytes"] for way, row in found.items()}
    return peaks | {"ratio": peaks["naive"] / peaks["ours"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="cases whose key begins so, or `memory`")
    parser.add_argument("--quick", action="store_true", help="three rounds, fewer cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--growth", choices=["naive", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.growth:
        growth(arguments.growth)
        return
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")  # the peer's advice about other settings

    rounds = 3 if arguments.quick else arguments.rounds
    cases = [case for case in CASES if key(*case).startswith(arguments.only)]
    if arguments.quick:
        cases = [case for case in cases if case[1] in (8, 256)]
    details: dict[str, dict] = {}
    print(f"{'tokens per second':<24}{'ours':>10}{'generate':>10}{'ratio':>8}")
    for name, make in MODELS.items():
        for seed in arguments.seeds:
            torch.manual_seed(seed)
            model = make().eval()
            for case in (case for case in cases if case[0] == name):
                found = compare(model, *case, seed=seed, rounds=rounds)
                details.setdefault(key(*case), {})[seed] = found
                print(
                    f"{key(*case):<24}{found['ours']:>10.0f}{found['generate']:>10.0f}"
                    f"{found['ratio']:>8.2f}",
                    flush=True,
                )
    result: dict[str, Any] = {
        name: statistics.median(row["ratio"] for row in by_seed.values())
        for name, by_seed in details.items()
    }
    if "memory".startswith(arguments.only):
        peaks = memory()
        result |= {"logprobs_memory": peaks["ratio"], "logprobs_megabytes": peaks}
        print(
            f"{'peak MB of scoring':<24}{peaks['ours']:>10.0f}{peaks['naive']:>10.0f}"
            f"{peaks['ratio']:>8.2f}  (naive / ours)"
        )
    result |= {"seeds": arguments.seeds, "threads": arguments.threads, "details": details}
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
