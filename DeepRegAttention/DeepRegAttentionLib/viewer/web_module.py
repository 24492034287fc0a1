"""The page's own script and style, as trame serves them."""

from __future__ import annotations

from pathlib import Path

from .. import __version__

_BASE = f"deepreg_{__version__}"

serve = {_BASE: str(Path(__file__).with_name("web").resolve())}
scripts = [f"{_BASE}/viewer.js"]
styles = [f"{_BASE}/viewer.css"]
