"""Secrets that a hand may have put where none belong, made unreadable."""

from __future__ import annotations

import re

MASK = "•••"
# Tokens by their form, and whatever stands behind a name that says so. Better one too many.
# A text may be a host's file of 64 KiB: a name is looked for once in a word, not from each letter.
_SECRET = re.compile(
    r"""
      -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | \b(?:hf|sk|ghp|gho|glpat|xox[abp]|AKIA)[_-]?[A-Za-z0-9_-]{12,}
    | \beyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]*
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)
    | (?<=[Bb]earer[ ])\S+
    | (?:(?<![A-Za-z0-9_-])|(?<=PRIVATE[ ]KEY-----))
      (?i:(?P<name>
        (?>[A-Za-z0-9_-]*?(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|credential))
        [\w-]*+["']?\s*+[:=]\s*+)
        (?!(?:\d{1,9}|true|false|null|none)\b)  # max_tokens: 256 is nobody's secret
        ["']?[^\s"',;]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_BYTE = re.compile("[\udc80-\udcff]")  # of a name that is not UTF-8, as Python has it in a text


def masked(text: str) -> str:
    """Give a text without what looks like a secret in it; a byte that is not UTF-8 is `\\xff`."""
    text = _BYTE.sub(lambda one: f"\\x{ord(one[0]) - 0xDC00:02x}", text)
    return _SECRET.sub(lambda found: f"{found['name'] or ''}{MASK}", text)
