"""Loading, settling and saving policies: every source, and one line for everything that fails."""

import json
import shutil
import sys
import urllib.error

import pytest
import torch
from small_models import (
    ARCHITECTURES,
    CHARACTERS,
    EOS,
    PAD,
    VOCAB,
    char_tokenizer,
    tiny_gpt2,
    tiny_llama,
)
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from rlbook.lm import loading
from rlbook.lm.policy import Policy, load_policy, shipped_models

EVERYTHING = [0, 3, 2, 1, 4]


@pytest.fixture
def folder(tmp_path):
    """A saved tiny GPT-2."""
    return Policy(tiny_gpt2(), char_tokenizer()).save(tmp_path / "saved")


@pytest.fixture
def offline(monkeypatch):
    """The hub does not answer, and nobody waits for it."""
    monkeypatch.setattr(loading, "hub_answers", lambda: False)


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([EVERYTHING])).logits


# --- loading and saving ----------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_policy_comes_back(architecture, tmp_path):
    policy = Policy(ARCHITECTURES[architecture](), char_tokenizer())
    folder = policy.save(tmp_path / "x")
    back = load_policy(folder)
    assert type(back.model) is type(policy.model)
    assert torch.equal(logits(back.model), logits(policy.model))
    assert back.encode(["3+5="]) == policy.encode(["3+5="])
    assert (back.eos_id, back.pad_id, back.context, back.vocab_size) == (EOS, PAD, 64, VOCAB)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(plain), logits(policy.model))
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert all(p.requires_grad for p in back.model.parameters())


def test_shipped_models_are_found_by_name(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RLBOOK_DATA", str(tmp_path))
    assert shipped_models() == []
    shutil.copytree(folder, tmp_path / "models" / "sums-base")
    (tmp_path / "models" / "README.md").write_text("no model")
    assert shipped_models() == ["sums-base"]
    assert load_policy("sums-base", device="cpu").decode([5, 12, EOS]) == "3+"


def test_loading_is_silent(folder, capfd):
    load_policy(folder)
    Policy(tiny_gpt2(), char_tokenizer()).save(folder)
    assert capfd.readouterr() == ("", "")


def test_dtype_is_float32_unless_asked(folder, tmp_path):
    half = Policy(tiny_gpt2().to(torch.bfloat16), char_tokenizer()).save(tmp_path / "half")
    assert load_policy(half).model.dtype == torch.float32
    assert load_policy(folder, dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert load_policy(folder, device="cpu").device == torch.device("cpu")


def test_gpt2s_own_vocabulary(real_data, tmp_path):
    """The folder holds vocab.json and merges.txt only, as OpenAI published them."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(real_data / "gpt2-tokenizer" / name, tmp_path)
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    assert policy.encode(["Hello world"]) == [[15496, 995]]
    assert policy.decode([15496, 995, 50256]) == "Hello world"
    assert policy.eos_id == policy.pad_id == 50256
    assert policy.decode(policy.encode(["a , b .\n"])[0]) == "a , b .\n"  # no spaces tidied away


# --- PEFT ------------------------------------------------------------------------------------


@pytest.fixture
def adapted(folder):
    """A policy with a LoRA adapter whose weights are random."""
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(
        target_modules=["c_attn"], lora_dropout=0.3, fan_in_fan_out=True,
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    base = load_policy(folder)
    return Policy(peft.get_peft_model(base.model, lora), base.tokenizer)


quiet_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@quiet_peft
def test_a_peft_model_is_saved_whole(adapted, folder, tmp_path):
    before = logits(adapted.model)
    assert (before - logits(load_policy(folder).model)).abs().max() > 0.01
    back = load_policy(adapted.save(tmp_path / "merged"))
    assert type(back.model) is GPT2LMHeadModel
    torch.testing.assert_close(logits(back.model), before, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(adapted.model), before)  # the policy itself is not merged
    assert not any(m.p for m in adapted.model.modules() if isinstance(m, nn.Dropout))


@quiet_peft
def test_an_adapter_folder_loads_and_stays_trainable(adapted, tmp_path):
    adapted.model.save_pretrained(tmp_path / "adapter")
    adapted.tokenizer.save_pretrained(tmp_path / "adapter")
    policy = load_policy(tmp_path / "adapter")
    torch.testing.assert_close(logits(policy.model), logits(adapted.model), rtol=1e-5, atol=1e-5)
    trained = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all("lora" in name for name in trained)
    back = load_policy(policy.save(tmp_path / "merged"))
    torch.testing.assert_close(logits(back.model), logits(adapted.model), rtol=1e-5, atol=1e-5)


def test_an_adapter_without_peft_installed(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="holds a PEFT adapter, and PEFT is missing"):
        load_policy(tmp_path)


# --- settling --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_dropout_stays_off_in_training(make):
    """Two forwards of a model in train() differ if any dropout is left."""
    model = make()
    model.train()
    assert not torch.equal(logits(model), logits(model))
    policy = Policy(model, char_tokenizer())
    assert not policy.model.training
    policy.model.train()
    assert torch.equal(logits(policy.model), logits(policy.model))
    config = policy.model.config.to_dict()
    assert not any(config[key] for key in config if "drop" in key and "summary" not in key)


def test_pad_is_eos_where_there_is_none():
    tokenizer = char_tokenizer()
    tokenizer.pad_token = None
    policy = Policy(tiny_gpt2(), tokenizer)
    assert policy.pad_id == policy.eos_id == EOS == policy.model.config.pad_token_id
    assert policy.model.generation_config.pad_token_id == EOS


def test_eos_is_taken_from_the_generation_config():
    tokenizer = char_tokenizer()
    tokenizer.eos_token = None
    model = tiny_gpt2()
    model.generation_config.eos_token_id = [EOS, 5]
    assert Policy(model, tokenizer).eos_id == EOS
    assert tokenizer.eos_token == "<eos>"


@pytest.mark.parametrize("wrong", [None, 50256])
def test_no_eos_anywhere(wrong):
    tokenizer = char_tokenizer()
    tokenizer.eos_token = None
    model = tiny_gpt2()
    model.generation_config.eos_token_id = wrong
    with pytest.raises(ValueError, match=r"the tokenizer has no EOS token .* tokenizer.eos_token"):
        Policy(model, tokenizer)


def test_the_model_learns_the_tokenizers_eos():
    """GPT2Config says 50256 whatever the vocabulary is; generate would never stop."""
    model = tiny_gpt2(eos_token_id=50256)
    Policy(model, char_tokenizer())
    assert model.config.eos_token_id == model.generation_config.eos_token_id == EOS


def test_vocabularies_that_do_not_match():
    with pytest.raises(ValueError, match="tokenizer has 31 tokens, but the model only 20"):
        Policy(tiny_gpt2(vocab=20), char_tokenizer())
    assert Policy(tiny_gpt2(vocab=40), char_tokenizer()).vocab_size == 40  # rows to spare are fine


# --- encoding --------------------------------------------------------------------------------


def test_encoding_and_decoding():
    policy = Policy(tiny_gpt2(), char_tokenizer())
    first = 2 + CHARACTERS.index("3")
    assert policy.encode(["3", [7, 8], torch.tensor([9])]) == [[first], [7, 8], [9]]
    assert policy.decode([first, EOS, PAD]) == "3"
    assert policy.decode(torch.tensor([first])) == "3"


def test_no_tokenizer():
    policy = Policy(tiny_gpt2(), None)
    assert policy.encode([[3, 4]]) == [[3, 4]]
    assert policy.decode([3, 4, EOS]) == "3 4"
    with pytest.raises(ValueError, match="prompt 1 is a string, but this policy has no tokenizer"):
        policy.encode([[3], "a"])


def test_a_prompt_gets_one_bos_and_not_two():
    tokenizer = char_tokenizer()
    tokenizer.bos_token = "a"
    tokenizer.backend_tokenizer.post_processor = _puts_first("a", tokenizer.bos_token_id)
    policy = Policy(tiny_gpt2(), tokenizer)
    bos, three = tokenizer.convert_tokens_to_ids(["a", "3"])
    assert tokenizer("a3")["input_ids"] == [bos, bos, three]
    assert policy.encode(["3", "a3"]) == [[bos, three], [bos, three]]


def _puts_first(token, number):
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])


def test_errors_of_encoding():
    policy = Policy(tiny_gpt2(), char_tokenizer())
    with pytest.raises(ValueError, match=r"write \[prompt\]"):
        policy.encode("3+5=")
    with pytest.raises(ValueError, match=r"prompt 1 holds the token id 31, but .* ids 0 to 30"):
        policy.encode(["3", [2, 31]])
    with pytest.raises(ValueError, match="prompt 0 holds the token id -1"):
        policy.encode([[-1]])


# --- what cannot be loaded -------------------------------------------------------------------


def test_a_name_that_nobody_knows(folder, tmp_path, monkeypatch, offline, capfd):
    monkeypatch.setenv("RLBOOK_DATA", str(tmp_path))
    shutil.copytree(folder, tmp_path / "models" / "sums-base")
    with pytest.raises(ValueError) as error:
        load_policy("gpt3")
    message = str(error.value)
    assert "no model 'gpt3'" in message and "offline" in message
    assert "a shipped model (sums-base), or a folder" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model: there is no config.json in it; what"):
        load_policy(tmp_path)


def test_incomplete_weights_are_refused(folder):
    """transformers would fill the third block with random numbers."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(ValueError, match=r"cannot be loaded: its weights lack \d+ tensors, such"):
        load_policy(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_gpt2().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot be loaded: .*safetensors"):
        load_policy(folder)


def test_code_of_a_model_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}, "model_type": "c"}
    (folder / "config.json").write_text(json.dumps(config | code))
    (folder / "c.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_policy(folder)


def test_a_model_without_its_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"the tokenizer is empty: are its files there"):
        load_policy(folder)


def test_a_model_that_is_not_transformers_is_not_saved(tmp_path):
    table = nn.Embedding(3, 3)
    table.config = GPT2Config(vocab_size=3)
    with pytest.raises(ValueError, match=r"Embedding is not a model of transformers"):
        Policy(table).save(tmp_path)


def test_asking_the_hub(monkeypatch):
    monkeypatch.setattr(loading.hub, "is_offline_mode", lambda: False)

    def answer(problem):
        def urlopen(*_, **__):
            raise problem

        monkeypatch.setattr(loading.urllib.request, "urlopen", urlopen)
        return loading.hub_answers()

    refusal = urllib.error.HTTPError("", 403, "no", {}, None)
    assert answer(refusal)
    refusal.close()
    assert not answer(urllib.error.URLError("no name"))
    assert not answer(TimeoutError())
    monkeypatch.setattr(loading.hub, "is_offline_mode", lambda: True)
    assert not loading.hub_answers()


def test_a_context_without_a_limit():
    """Bloom computes its positions; there is no table of them to run out of."""
    model = BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=8, n_layer=1, n_head=2))
    assert Policy(model, char_tokenizer()).context == sys.maxsize


def test_auto_tokenizer_reads_the_folder(folder):
    assert AutoTokenizer.from_pretrained(folder)("3+")["input_ids"] == [5, 12]
