"""One test per fixture: ``facts/`` read what real programs print, one YAML file a claim."""

from pathlib import Path

from pyinfra_testing.facts import make_fact_tests

for case in sorted(path for path in Path(__file__).parent.iterdir() if "." in path.name):
    if case.is_dir():
        globals()[case.name] = make_fact_tests("facts", case.name, case)
