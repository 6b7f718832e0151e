"""The first token, the following ones, and the peak while a long prompt is served."""

import json
import sys
import threading
import time

import mlx.core as mx
from mlx_lm import load, stream_generate

directory, context = sys.argv[1], int(sys.argv[2])
peak, done = [0], threading.Event()


def watch():
    """Keep the most that NVML saw in use on the first GPU."""
    try:
        import pynvml as n

        n.nvmlInit()
        handle = n.nvmlDeviceGetHandleByIndex(0)
    except (ImportError, OSError, n.NVMLError):
        return
    while not done.wait(0.05):
        peak[0] = max(peak[0], n.nvmlDeviceGetMemoryInfo(handle).used)


threading.Thread(target=watch, daemon=True).start()
began = time.monotonic()
model, tokenizer = load(directory)
mx.eval(model.parameters())
loaded = {"seconds": time.monotonic() - began, "weights": mx.get_active_memory()}
answer, first, began = "", None, time.monotonic()
question = [{"role": "user", "content": "What is the capital of France?"}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
for one in stream_generate(model, tokenizer, prompt, max_tokens=32):
    first = first or time.monotonic() - began
    answer += one.text
mx.reset_peak_memory()
long_prompt = (prompt * (context // len(prompt) + 1))[: context - 16]
for one in stream_generate(model, tokenizer, long_prompt, max_tokens=16):
    last = one
done.set()
print(
    json.dumps(
        {
            "loaded": loaded,
            "answer": answer,
            "seconds to the first token": first,
            "context": context,
            "prompt tokens a second": last.prompt_tps,
            "tokens a second": last.generation_tps,
            "peak by mlx": mx.get_peak_memory(),
            "peak by nvml": peak[0],
        }
    )
)
