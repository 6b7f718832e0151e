"""What MLX does when the GPU's memory runs out: an exception, an end, or nothing for ever."""

import json
import sys
import time

import mlx.core as mx

if not mx.cuda.is_available():
    print(json.dumps({"left out": "no CUDA: a machine's own memory is not for the taking"}))
    sys.exit(0)
GIB = 1024**3
kept, began = [], time.monotonic()
try:
    while time.monotonic() - began < 300:
        kept.append(mx.zeros((GIB // 4,), mx.float32) + len(kept))
        mx.eval(kept[-1])
        print(f"{len(kept)} GiB", flush=True)
    ended = "not within 300 s"
except (RuntimeError, MemoryError) as error:
    ended = f"{type(error).__name__}: {error}"
filled = len(kept)
kept.clear()
mx.clear_cache()
mx.eval(mx.ones((1024, 1024)) @ mx.ones((1024, 1024)))
print(json.dumps({"ended": ended, "gib": filled, "usable afterwards": True}))
