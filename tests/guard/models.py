"""Tiny random llamas with a byte-level tokenizer, made on the spot."""

from __future__ import annotations

import json
from itertools import pairwise
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


def _write_tokenizer(path: Path, special: tuple[str, ...], template: str | None) -> None:
    """A token a byte, and then the special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: token for token, letter in enumerate(byte_letters())}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(path / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    if template is not None:
        about["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(about))


def _llama(special: tuple[str, ...], **more: object) -> dict[str, object]:
    return {
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 256 + len(special),
        "rope_theta": 10000.0,
        "eos_token_id": 256,
        "max_position_embeddings": 32768,
        **more,
    }


def make_tiny_llama(
    path: Path, *, hidden: int = 64, layers: int = 2, heads: int = 4, template: str | None = PLAIN
) -> Path:
    """Random float32 weights, 260 tokens: one a byte, and four special ones."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    path.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(path, SPECIAL, template)
    config = _llama(
        SPECIAL, hidden_size=hidden, intermediate_size=hidden * 2, num_hidden_layers=layers,
        num_attention_heads=heads, tie_word_embeddings=True,
    )  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    return path


def make_scripted_llama(path: Path, scripts: dict[str, tuple[str, ...]]) -> Path:
    """A model that says what stands in a script: each piece a token, and then the end.

    A chat whose last message ends with a script's name gets that script.  No pieces may stand in
    two scripts, nor twice in one: the next token follows from the last alone.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    path.mkdir(parents=True, exist_ok=True)
    pieces = [piece for script in scripts.values() for piece in script]
    special = (*SPECIAL, *scripts, *pieces)
    last = "{{ messages[-1]['content'] }}"
    # The words by which mlx-lm recognizes the parser; nothing of it is rendered.
    known = "{% if false %}<tool_call>{# tool_call.name #}</tool_call>{% endif %}"
    _write_tokenizer(path, special, known + last)
    size = 1 << (256 + len(special)).bit_length()
    config = _llama(
        special, hidden_size=size, intermediate_size=8, num_hidden_layers=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    follows = mx.zeros((256 + len(special), size))
    follows[256, :] = 1.0  # whatever else: the end
    for name, script in scripts.items():
        chain = [special.index(piece) + 256 for piece in (name, *script, "<|end|>")]
        for before, after in pairwise(chain):
            follows[256, before] = 0.0
            follows[after, before] = 1.0
    model = llama.Model(llama.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = mx.zeros_like(weight)  # what comes in is what comes out
    weights["model.embed_tokens.weight"] = mx.eye(256 + len(special), size)
    weights["lm_head.weight"] = follows
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    return path
