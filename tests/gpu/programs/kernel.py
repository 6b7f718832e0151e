"""That kernels run, of the kinds that serving needs, and that they run on this device."""

import json
import time
from importlib.metadata import version

import mlx.core as mx

kinds = {
    "matrix product, bf16": lambda: (
        mx.ones((512, 512), mx.bfloat16) @ mx.ones((512, 512), mx.bfloat16)
    ),
    "compiled": lambda: mx.compile(lambda x: mx.exp(x) * 2 + 1)(mx.ones((512, 512))),
    "gather": lambda: mx.arange(4096)[mx.array([1, 5, 4095])],
    "4-bit product": lambda: mx.quantized_matmul(
        mx.ones((8, 512), mx.bfloat16),
        *mx.quantize(mx.ones((512, 512), mx.bfloat16)),
        transpose=True,
    ),
    "attention": lambda: mx.fast.scaled_dot_product_attention(
        mx.ones((1, 8, 64, 64)), mx.ones((1, 8, 64, 64)), mx.ones((1, 8, 64, 64)), scale=1.0
    ),
}
ran = {}
for name, kernel in kinds.items():
    began = time.monotonic()
    try:
        value = kernel()
        mx.eval(value)
        ran[name] = {
            "seconds": time.monotonic() - began,
            "sum": float(value.astype(mx.float32).sum()),
        }
    except (RuntimeError, ValueError) as error:
        ran[name] = {"error": str(error)}
print(
    json.dumps(
        {
            "mlx": version("mlx"),
            "device": {key: str(value) for key, value in mx.device_info().items()},
            "default": str(mx.default_device()),
            "kernels": ran,
        }
    )
)
