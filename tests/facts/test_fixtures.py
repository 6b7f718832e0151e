"""One test per fixture: ``facts/`` read what real programs print, one YAML file a claim."""

from pathlib import Path
from unittest.mock import patch

import freezegun

with patch("gevent.monkey.patch_all"):  # see `tests.conftest.pytest_collection_finish`
    from pyinfra_testing.facts import make_fact_tests

# The harness stops the clock with freezegun, which touches every module that is loaded: to touch
# these loads hundreds more, and one that fails leaves the clock stopped for all tests that follow.
freezegun.configure(extend_ignore_list=["transformers", "mlx_lm", "huggingface_hub", "matplotlib"])

for case in sorted(path for path in Path(__file__).parent.iterdir() if "." in path.name):
    if case.is_dir():
        globals()[case.name] = make_fact_tests("facts", case.name, case)
