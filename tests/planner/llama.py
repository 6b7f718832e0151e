"""A hollow Llama for the tests: its header, its configuration."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.planner_models import lay_out
from hub.checkpoint import write_hollow


def write(directory: Path, *, layers=2, width=256, inner=512, heads=4, kv_heads=2, words=512):
    """A Llama's ``config.json`` and hollow ``model.safetensors`` in ``directory``."""
    head = width // heads
    tensors = {
        "model.embed_tokens.weight": [words, width],
        "lm_head.weight": [words, width],
        "model.norm.weight": [width],
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.self_attn.q_proj.weight": [heads * head, width],
            f"{at}.self_attn.k_proj.weight": [kv_heads * head, width],
            f"{at}.self_attn.v_proj.weight": [kv_heads * head, width],
            f"{at}.self_attn.o_proj.weight": [width, heads * head],
            f"{at}.mlp.gate_proj.weight": [inner, width],
            f"{at}.mlp.up_proj.weight": [inner, width],
            f"{at}.mlp.down_proj.weight": [width, inner],
            f"{at}.input_layernorm.weight": [width],
            f"{at}.post_attention_layernorm.weight": [width],
        }
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "vocab_size": words,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    header = lay_out((name, "BF16", shape) for name, shape in tensors.items())
    write_hollow(directory / "model.safetensors", header)
    return directory


SEVENTY = {"layers": 80, "width": 8192, "inner": 28672, "heads": 64, "kv_heads": 8, "words": 128256}
EIGHT = {"layers": 32, "width": 4096, "inner": 14336, "heads": 32, "kv_heads": 8, "words": 128256}
