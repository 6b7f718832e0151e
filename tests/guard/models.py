"""Tiny random llamas with a byte-level tokenizer, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

PLAIN = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# mlx-lm recognizes the parser by these words (tokenizer_utils._infer_tool_parser).
WITH_TOOLS = (
    "{% if tools %}<|system|>{{ tools | tojson }}<tool_call>{# tool_call.name #}</tool_call>\n"
    "{% endif %}{% if enable_thinking is defined and not enable_thinking %}<|system|>quick\n"
    "{% endif %}" + PLAIN
)
SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the bytes' order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def make_tiny_llama(
    path: Path, *, hidden: int = 64, layers: int = 2, heads: int = 4, template: str | None = PLAIN
) -> Path:
    """Random float32 weights, 260 tokens: one a byte, and four special ones."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    path.mkdir(parents=True, exist_ok=True)
    letters = {letter: token for token, letter in enumerate(byte_letters())}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(path / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    if template is not None:
        about["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": hidden * 2,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 256 + len(SPECIAL),
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 256,
        "max_position_embeddings": 32768,
    }
    (path / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    return path
