"""What GitHub shows in tables, and Python's Markdown otherwise."""

from __future__ import annotations

import html
import re

_CODE_WITH_BAR = re.compile(r"`([^`\n]*\\\|[^`\n]*)`")


def with_bars(text: str) -> str:
    r"""A document whose code in tables may have bars: `a \| b` is shown as `a | b`."""

    def shown(found: re.Match[str]) -> str:
        code = html.escape(found[1].replace(r"\|", "|"), quote=False)
        return f"<code>{code.replace('|', '&#124;')}</code>"

    lines = text.splitlines(keepends=True)
    return "".join(_CODE_WITH_BAR.sub(shown, one) if one[:1] == "|" else one for one in lines)
