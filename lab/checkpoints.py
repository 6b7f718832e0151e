"""Making a checkpoint: from a GGUF file, or of random weights.

A program of its own, `python -m lab.checkpoints`, so that MLX is loaded in no other process.
"""

import json
import sys
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs

# Where the tensors of a GGUF file of the llama family go in a Hugging Face checkpoint.
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE_THE_BLOCKS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_GROUP = 32
"""Weights that share a scale in a GGUF block of these types."""
_CONTROL = 3
"""The token type of special tokens (llama.cpp, LLAMA_TOKEN_TYPE_CONTROL)."""

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def convert(gguf: Path, place: Path) -> None:
    """Write the Hugging Face checkpoint of a GGUF file of the llama family, in float32."""
    loaded = mx.load(str(gguf), return_metadata=True)
    tensors, facts = cast("tuple[dict[str, mx.array], dict[str, Any]]", loaded)
    config = _config(facts)
    weights = {}
    for name in tensors:
        part, _, kind = name.rpartition(".")
        if kind == "weight":
            weights[_hugging_face_name(part)] = _restored(part, tensors, config)
    mx.save_safetensors(str(place / "model.safetensors"), weights, {"format": "mlx"})
    _write(place / "config.json", config)
    tokens = facts["tokenizer.ggml.tokens"]
    special = [
        number
        for number, kind in enumerate(facts["tokenizer.ggml.token_type"].tolist())
        if kind == _CONTROL
    ]
    merges = [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]]
    _write(place / "tokenizer.json", _tokenizer(tokens, merges, special))
    _write(
        place / "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "bos_token": tokens[config["bos_token_id"]],
            "eos_token": tokens[config["eos_token_id"]],
            "unk_token": tokens[int(facts["tokenizer.ggml.unknown_token_id"].item())],
            "pad_token": tokens[config["pad_token_id"]],
            "chat_template": facts["tokenizer.chat_template"],
        },
    )
    _write(
        place / "generation_config.json",
        {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]},
    )
    (place / "README.md").write_text(
        "---\nlicense: apache-2.0\nlibrary_name: mlx\n---\n"
        "SmolLM2-135M-Instruct by HuggingFaceTB, converted from its Q4_1 GGUF to float32.\n"
    )


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    def number(name: str) -> int:
        return int(facts[name].item())

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "hidden_size": number("llama.embedding_length"),
        "intermediate_size": number("llama.feed_forward_length"),
        "num_hidden_layers": number("llama.block_count"),
        "num_attention_heads": number("llama.attention.head_count"),
        "num_key_value_heads": number("llama.attention.head_count_kv"),
        "max_position_embeddings": number("llama.context_length"),
        "vocab_size": number("llama.vocab_size"),
        "rope_theta": float(facts["llama.rope.freq_base"].item()),
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon'].item():.1e}"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": number("tokenizer.ggml.bos_token_id"),
        "eos_token_id": number("tokenizer.ggml.eos_token_id"),
        "pad_token_id": number("tokenizer.ggml.padding_token_id"),
    }


def _hugging_face_name(part: str) -> str:
    if part in _OUTSIDE_THE_BLOCKS:
        return f"{_OUTSIDE_THE_BLOCKS[part]}.weight"
    _, block, layer = part.split(".")
    return f"model.layers.{block}.{_NAMES[layer]}.weight"


def _restored(part: str, tensors: dict[str, mx.array], config: dict[str, Any]) -> mx.array:
    """Dequantize a tensor, and put the rows of q and k back in Hugging Face's order."""
    weight = tensors[f"{part}.weight"]
    scales = tensors.get(f"{part}.scales")
    if scales is not None:
        # The embedding has 8 bits a weight, the rest 4: packed into 32-bit words either way.
        bits = weight.shape[-1] * 32 // (scales.shape[-1] * _GROUP)
        biases = tensors[f"{part}.biases"]
        weight = mx.dequantize(weight, scales, biases, group_size=_GROUP, bits=bits)
    weight = weight.astype(mx.float32)
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }.get(part.rpartition(".")[2])
    if heads:
        # llama.cpp interleaves the two halves that rotary embedding turns against each other.
        halves = weight.reshape(heads, -1, 2, weight.shape[-1])
        weight = halves.swapaxes(1, 2).reshape(weight.shape)
    return weight


def _tokenizer(tokens: list[str], merges: list[list[str]], special: list[int]) -> dict[str, Any]:
    """Describe a byte-level BPE that splits digits one by one, for the tokenizers library."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": tokens[number],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**_BYTE_LEVEL, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def make_tiny_llama(place: Path) -> None:
    """Write a random llama of two layers with a tokenizer of bytes; the same one each time."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_letters()]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "vocab_size": len(tokens),
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    mx.random.seed(0)
    # from_dict leaves out what belongs to the tokenizer; it has no types.
    model = Model(ModelArgs.from_dict(config))  # type: ignore[no-untyped-call]
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(place / "model.safetensors"), weights, {"format": "mlx"})
    _write(place / "config.json", config)
    _write(place / "tokenizer.json", _tokenizer(tokens, [], [0, 1, 2]))
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    _write(
        place / "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "model_max_length": 2048,
            "clean_up_tokenization_spaces": False,
            "bos_token": tokens[1],
            "eos_token": tokens[2],
            "unk_token": tokens[0],
            "chat_template": template,
        },
    )


def _byte_letters() -> list[str]:
    """Return the letter that byte-level BPE writes for each byte (GPT-2, bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["convert", gguf, place]:
            convert(Path(gguf), Path(place))
        case ["tiny-llama", place]:
            make_tiny_llama(Path(place))
        case other:
            sys.exit(f"neither `convert GGUF PLACE` nor `tiny-llama PLACE`: {other}")
