"""Makes tests/golden/language: tiny random models as transformers writes them, and the logits that it gives.

    uv run --no-project --with torch --with transformers --with gguf tests/golden/make_language_golden.py

Weights are drawn larger than usual, so that attention, norms and biases all matter: with the usual ones they hardly do.
"""

from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers

FOLDER = Path(__file__).parent / "language"
SPECIAL = ["<|im_end|>", "<|im_start|>"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "a"), ("e", "r"), ("o", "n"), ("1", "2")]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ["the cat in the hat", "on 12 1 2", "<|im_start|>another\nthen<|im_end|> there"]
MESSAGES = [{"role": "user", "content": "the answer"}, {"role": "assistant", "content": "in 12"}]
LENGTHS, WIDTH, NEW = (3, 9, 6), 9, 5
VOCAB = len(SPECIAL) + 26 + 10 + 2 + len(MERGES)
COMMON = dict(vocab_size=VOCAB, num_hidden_layers=2, max_position_embeddings=32, eos_token_id=0, bos_token_id=1)
SIZES = dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24)
NARROW = dict(hidden_size=24, num_attention_heads=3, num_key_value_heads=1, intermediate_size=32)
MODELS = {  # and how each is saved
    "llama": (transformers.LlamaConfig(**COMMON, **SIZES, rms_norm_eps=1e-5), dict(max_shard_size="8KB")),
    "qwen2": (transformers.Qwen2Config(**COMMON, **SIZES, rms_norm_eps=1e-6), {}),
    "smollm2": (
        transformers.LlamaConfig(**COMMON, **NARROW, rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True),
        dict(bfloat16=True),
    ),
}


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE over small letters and digits, cut as SmolLM2's is."""
    tokens = [*SPECIAL, *map(chr, range(97, 123)), *"0123456789", "Ġ", "Ċ", *("".join(pair) for pair in MERGES)]
    cuts = tokenizers.pre_tokenizers
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, MERGES))
    backend.pre_tokenizer = cuts.Sequence([cuts.Digits(individual_digits=True), cuts.ByteLevel(add_prefix_space=False)])
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[0], bos_token=SPECIAL[1])
    fast.chat_template = TEMPLATE
    return fast


def make_model(config: transformers.PretrainedConfig, bfloat16: bool) -> torch.nn.Module:
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(1, 0.3)
            elif "embed" in name:
                weight.normal_(0, 1)
            else:
                weight.normal_(0, 1.5 / weight.shape[-1] ** 0.5)
    return model.to(torch.bfloat16) if bfloat16 else model


@torch.no_grad()
def expected(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Logits `[3, WIDTH, VOCAB]` with padding at either side, and `[3, NEW, VOCAB]` of greedy text with a cache."""
    tokens = torch.randint(2, VOCAB, (len(LENGTHS), WIDTH))
    lengths = torch.tensor(LENGTHS)[:, None]
    right = torch.arange(WIDTH) < lengths
    left = right.flip(1)
    shifted = torch.zeros_like(tokens)
    shifted[left] = tokens[right]
    position_ids = (left.long().cumsum(1) - 1).clamp(min=0)
    written = model.generate(
        input_ids=shifted,
        attention_mask=left.long(),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    results = {
        "tokens": tokens * right,
        "lengths": lengths[:, 0],
        "right": model(input_ids=tokens * right, attention_mask=right.long()).logits,
        "left": model(input_ids=shifted, attention_mask=left.long(), position_ids=position_ids).logits,
        "new_tokens": written.sequences[:, WIDTH:],
        "new_logits": torch.stack(written.logits, dim=1),
    }
    return {name: value.numpy() for name, value in results.items()}


def write_gguf(path: Path, model: torch.nn.Module, fast: transformers.PreTrainedTokenizerFast | None) -> None:
    """As llama.cpp's converter does: with rotary pairs of queries and keys side by side in a Llama, not in a Qwen2."""
    config, kind = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if fast is not None:
        tokens = sorted(fast.get_vocab(), key=fast.get_vocab().get)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in MERGES])
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_chat_template(TEMPLATE)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads} if kind == "llama" else {}
    architecture = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[kind]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        module, _, part = name.rpartition(".")
        array, module = weight.numpy(), names.get_name(module)
        if (last := module.split(".")[-1]) in heads:
            array = array.reshape(heads[last], 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"{module}.{part}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    fast, arrays = make_tokenizer(), {}
    for seed, (name, (config, options)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = make_model(config, options.pop("bfloat16", False))
        model.save_pretrained(FOLDER / name, **options)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        # Read again: a model turned to bfloat16 has rounded its rotary frequencies too.
        model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)
        arrays |= {f"{name}/{key}": value for key, value in expected(model).items()}
        if name == "llama":
            fast.save_pretrained(FOLDER / name)
        if name != "smollm2":
            write_gguf(FOLDER / f"{name}.gguf", model, fast if name == "llama" else None)
    texts = {f"text {i}": np.array([text]) for i, text in enumerate(TEXTS)}
    ids = {f"ids {i}": np.array(fast(text, add_special_tokens=False).input_ids) for i, text in enumerate(TEXTS)}
    render = lambda flag: fast.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=flag)  # noqa: E731
    chats = {f"chat {flag}": np.array(render(flag)) for flag in (True, False)}
    np.savez_compressed(FOLDER / "expected.npz", **arrays, **texts, **ids, **chats)


if __name__ == "__main__":
    main()
