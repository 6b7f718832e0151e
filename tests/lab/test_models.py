"""The models that the hub serves can be loaded, and the real one knows something."""

import json
import sys

from mlx_lm import generate, load

from lab.hub import Hub
from lab.machine import run
from lab.models import smollm2, tiny_llama


def ask(place: str, question: str, tokens: int) -> str:
    """Put a question through the chat template and return what the model says."""
    model, tokenizer = load(place)[:2]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True
    )
    return generate(model, tokenizer, prompt=prompt, max_tokens=tokens)


def test_the_real_model_answers() -> None:
    """SmolLM2-135M-Instruct, converted, knows the capital of France."""
    said = ask(str(smollm2()), "What is the capital of France?", 12)
    assert said == "The capital of France is Paris."


def test_its_tokenizer_is_that_of_smollm2() -> None:
    """Digits are split one by one, special tokens are one token, and text comes back unchanged."""
    _, tokenizer = load(str(smollm2()), lazy=True)[:2]
    text = "Straße 2026: it's 1,234.5 €\n\tdef f(x): ..."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("2026")) == 4
    assert tokenizer.encode("<|im_start|>") == [1]
    assert tokenizer.eos_token_ids == {2}


def test_the_tiny_model_is_the_same_each_time(tmp_path_factory) -> None:
    """It loads, generates, and its commit follows from its contents."""
    assert ask(str(tiny_llama()), "hello", 5)
    config = json.loads((tiny_llama() / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    again = tmp_path_factory.mktemp("again")
    run(sys.executable, "-m", "lab.checkpoints", "tiny-llama", again, timeout_s=60)
    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        commit = hub.add_repo("lab/tiny-llama", tiny_llama())
        assert hub.add_repo("lab/tiny-llama", again) == commit
