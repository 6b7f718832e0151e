"""A model hub that speaks the real protocol to the unmodified `huggingface_hub`.

What it answers follows what huggingface_hub 2.4 reads (`file_download.py`, `hf_api.py`,
`utils/_http.py`) and the public hub's documented behaviour.
"""

from lab.hub.client import Hub
from lab.hub.faults import Fault

__all__ = ["Fault", "Hub"]
