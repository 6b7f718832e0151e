# ruff: noqa: PLC0415 -- the parent process of a measurement has no MLX in it
"""A small random model of every architecture that mlx-lm has, made from its own arguments.

An argument's value is chosen by its name, since architectures agree on names far more than on
anything else; where one does not, ``PARTICULAR`` says what it wants.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hub.checkpoint import BITS, write_hollow

LAYERS = 4
WIDTH = 128
HEADS = 4
KV_HEADS = 2
HEAD = 32
WORDS = 512
WINDOW = 512

# By the name of an argument; the first that is there is taken.
VALUES: dict[str, Any] = {
    "hidden_size": WIDTH, "dim": WIDTH, "d_model": WIDTH, "n_embd": WIDTH, "model_dim": WIDTH,
    "num_hidden_layers": LAYERS, "n_layers": LAYERS, "n_layer": LAYERS, "num_layers": LAYERS,
    "num_transformer_layers": LAYERS,
    "num_attention_heads": HEADS, "n_heads": HEADS, "n_head": HEADS, "num_heads": HEADS,
    "num_query_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "n_kv_heads": KV_HEADS, "num_kv_heads": KV_HEADS,
    "head_dim": HEAD, "intermediate_size": 256, "ffn_hidden_size": 256, "n_inner": 256,
    "mlp_hidden_size": 256, "hidden_dim": 256, "ffn_dim": 256, "inner_hidden_size": 256,
    "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    "shared_intermediate_size": 64, "expert_hidden_size": 64,
    "vocab_size": WORDS, "embedding_size": WORDS,
    "rms_norm_eps": 1e-5, "layer_norm_eps": 1e-5, "norm_eps": 1e-5, "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5, "norm_epsilon": 1e-5, "layer_norm_rms_epsilon": 1e-5,
    "rope_theta": 10000.0, "max_position_embeddings": 4096, "n_positions": 4096, "n_ctx": 4096,
    "max_seq_len": 4096, "max_sequence_length": 4096,
    "sliding_window": WINDOW, "sliding_window_size": WINDOW, "window_size": WINDOW,
    "attention_window_size": WINDOW, "sliding_window_pattern": 2,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_top_k": 2, "top_k": 2, "moe_topk": 2, "num_experts_per_token": 2,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "num_expert_group": 1, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "score_function": "sigmoid",
    "q_lora_rank": 64, "kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32,
    "v_head_dim": 32, "index_n_heads": 2, "index_head_dim": 32, "index_topk": 64,
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "use_bias": False,
    "bias": False, "use_qkv_bias": False, "qkv_bias": False, "use_qk_norm": True,
    "rope_traditional": False, "rope_scaling": None, "partial_rotary_factor": 0.5,
    "rotary_pct": 0.5, "rotary_dim": 16, "hidden_act": "silu", "hidden_activation": "silu",
    "attention_dropout": 0.0, "logit_scale": 1.0, "logits_scaling": 1.0,
    "embedding_multiplier": 1.0, "attention_multiplier": 0.1, "residual_multiplier": 1.0,
    "full_attention_interval": 2, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4,
    "state_size": 16, "conv_kernel": 4, "mamba_d_state": 16, "mamba_d_conv": 4,
    "mamba_expand": 2, "mamba_n_heads": 4, "mamba_d_head": 64, "mamba_n_groups": 1,
    "mamba_num_heads": 4, "mamba_head_dim": 64, "n_groups": 1, "expand": 2, "time_step_rank": 8,
    "mamba_dt_rank": 8, "ssm_state_size": 16, "mamba_d_ssm": 256, "mamba_chunk_size": 64,
    "chunk_size": 64, "intermediate_sizes": 256,
}  # fmt: skip

# What an architecture wants that its names do not tell.
SLIDING, FULL = "sliding_attention", "full_attention"
TURNS = [SLIDING, FULL] * (LAYERS // 2)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
KIMI = {
    "kda_layers": [1, 3], "full_attn_layers": [2, 4], "num_heads": HEADS, "head_dim": HEAD,
    "short_conv_kernel_size": 4, "gate_lower_bound": -5.0,
}  # fmt: skip
PARTICULAR: dict[str, dict[str, Any]] = {
    "afmoe": {"layer_types": TURNS},
    "baichuan_m1": {"sliding_window_layers": [1], "tie_word_embeddings": False},
    "dbrx": {
        "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 256, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"rope_scaling": {"type": "yarn", "factor": 1.0, "mscale_all_dim": 0}},
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"layer_types": TURNS, "is_moe_layer": [False, True, True, True]},
    "gemma3n": {
        "text_config": {
            "layer_types": TURNS, "num_kv_shared_layers": 0, "rope_local_base_freq": 10000.0,
            "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0],
            "vocab_size_per_layer_input": WORDS, "hidden_size_per_layer_input": 32,
            "altup_num_inputs": 2, "altup_active_idx": 0,
            "altup_correct_scale": True, "altup_coef_clip": 120.0, "laurel_rank": 16,
            "final_logit_softcapping": 30.0,
        }
    },
    "gemma4_text": {"layer_types": TURNS, "num_kv_shared_layers": 0},
    "glm_moe_dsa": {"rope_parameters": ROPE},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * (LAYERS // 2)},
    "hunyuan": {"moe_topk": 2, "num_shared_expert": 1, "use_mixed_mlp_moe": True, "use_cla": True,
                "cla_share_factor": 2, "rope_scaling": {"type": "dynamic", "factor": 1.0,
                                                        "alpha": 1000.0}},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_k3": {
        "text_config": {"linear_attn_config": KIMI, "hidden_act": "situ",
                        "activation_situ_beta": 1.0}
    },
    "kimi_linear": {"linear_attn_config": KIMI},
    "lfm2": {"full_attn_idxs": [1, 3], "block_dim": WIDTH, "block_ff_dim": 256,
             "block_multiple_of": 32, "conv_L_cache": 3},
    "lfm2_moe": {"full_attn_idxs": [1, 3], "conv_L_cache": 3},
    "llama4": {"text_config": {"attention_chunk_size": WINDOW, "interleave_moe_layer_step": 1,
                               "intermediate_size_mlp": 256, "num_experts_per_tok": 1}},
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0], "intermediate_size_mlp": 256},
    "longcat_flash": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True,
                      "attention_method": "MLA", "zero_expert_type": "identity"},
    "longcat_flash_ngram": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True},
    "mamba2": {"time_step_limit": [0.0, 100.0]},
    "mellum": {"layer_types": TURNS, "rope_parameters": {SLIDING: ROPE, FULL: ROPE}},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1] * (LAYERS // 2), "moe_layer_freq": [0, 1, 1, 1],
        "swa_head_dim": HEAD, "swa_v_head_dim": HEAD, "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": KV_HEADS, "n_shared_experts": None,
    },
    "minicpm": {"tie_word_embeddings": False},
    "minicpm3": {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 8,
                                  "short_factor": [1.0] * 8,
                                  "original_max_position_embeddings": 4096}},
    "ministral3": {"rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.1,
                                       "original_max_position_embeddings": 4096}},
    "mistral4": {"rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.1,
                                     "original_max_position_embeddings": 4096}},
    "minimax_m3_vl": {
        "text_config": {"moe_layer_freq": [0, 1, 1, 1], "dense_intermediate_size": 256,
                        "rotary_dim": 16}
    },
    "muse_spark": {
        "text_config": {
            "rope_parameters": ROPE, "layer_rope_theta": [10000.0, 0.0] * (LAYERS // 2),
            "layer_types": TURNS, "post_norm_eps": 1e-5, "final_logit_softcapping": 30.0,
            "output_multiplier": 1.0, "moe_hidden_size": 64, "num_shared_experts": 0,
            "mlp_layer_types": None,
        }
    },
    "nemotron-nas": {
        "block_configs": [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}}] * LAYERS
    },
    "nemotron_h": {"hybrid_override_pattern": "M*-M"},
    "openelm": {"num_query_heads": [HEADS] * LAYERS, "num_kv_heads": [KV_HEADS] * LAYERS,
                "ffn_multipliers": [2.0] * LAYERS, "ffn_dim_divisor": 64},
    "plamo": {"n_shared_head": 1},
    "qwen": {"kv_channels": HEAD, "num_attention_heads": HEADS},
    "qwen3_vl_moe": {"text_config": {"tie_word_embeddings": False}},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "_block_types": None},
    "spark2_5": {"rope_parameters": {SLIDING: ROPE, FULL: ROPE}, "layer_types": TURNS,
                  "hidden_act": "gelu"},
}  # fmt: skip
# Around the language model of another.
AROUND = {
    "gemma3": "gemma3_text", "gemma4": "gemma4_text", "lfm2-vl": "lfm2", "mistral3": "llama",
    "pixtral": "llama",
    "qwen2_vl": "qwen2", "qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe",
}  # fmt: skip
# What safetensors calls MLX's types.
TYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32", "uint32": "U32",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def names() -> tuple[str, ...]:
    """Every architecture module of the installed mlx-lm: those with a model in them."""
    import mlx_lm.models

    found = []
    for module in pkgutil.iter_modules(mlx_lm.models.__path__):
        try:
            loaded = importlib.import_module(f"mlx_lm.models.{module.name}")
        except SystemExit:  # `olmo` ends the process where a package of its own is not installed
            found.append(module.name)
            continue
        if hasattr(loaded, "Model") and hasattr(loaded, "ModelArgs"):
            found.append(module.name)
    return tuple(found)


def config(name: str) -> dict[str, Any]:
    """A small configuration of the architecture ``name``."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    made = _arguments(module.ModelArgs)
    made["model_type"] = name
    for inner in ("TextConfig", "TextArgs", "TextModelArgs"):
        if "text_config" in made and hasattr(module, inner):
            made["text_config"] = {**_arguments(getattr(module, inner)), "model_type": name}
    if name in AROUND:
        made["text_config"] = config(AROUND[name])
    own = dict(PARTICULAR.get(name, {}))
    if isinstance(made.get("text_config"), dict):
        made["text_config"] |= own.pop("text_config", {})
    return {**made, **own}


def _arguments(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    made: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        hint = hints.get(field.name)
        if dataclasses.is_dataclass(hint):
            made[field.name] = _arguments(hint)
        elif field.name in VALUES:
            made[field.name] = VALUES[field.name]
        elif field.name in {"text_config", "llm_config", "language_config"}:
            made[field.name] = {}
        elif required:
            made[field.name] = _plain(hint)
    return made


def _plain(hint: Any) -> Any:
    for kind, value in ((bool, False), (int, 2), (float, 1.0), (str, "silu")):
        if hint is kind or kind in typing.get_args(hint):
            return value
    origin = typing.get_origin(hint) or hint
    if origin in {list, tuple}:
        return []
    return {} if origin is dict else None


def model(name: str, values: dict[str, Any] | None = None) -> Any:
    """The model itself, with random weights that are not evaluated yet."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    arguments = module.ModelArgs.from_dict(values or config(name))
    made = module.Model(arguments)
    made.eval()
    return made


def header(name: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """That of a checkpoint of the model's."""
    return lay_out(tensors(model(name, values)))


def write(directory: Path, name: str, values: dict[str, Any] | None = None) -> None:
    """A hollow checkpoint of the model's."""
    (directory / "config.json").write_text(json.dumps(values or config(name)))
    write_hollow(directory / "model.safetensors", header(name, values))


def tensors(made: Any) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of each weight, as safetensors has them; nothing is evaluated."""
    from mlx.utils import tree_flatten

    flat: Any = tree_flatten(made.parameters())
    for name, array in flat:
        yield name, TYPES[str(array.dtype).rpartition(".")[2]], array.shape


def lay_out(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> dict[str, Any]:
    """The header of tensors that lie one after the other: of each its name, type and shape."""
    header: dict[str, Any] = {}
    at = 0
    for name, dtype, shape in tensors:
        end = at + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header
