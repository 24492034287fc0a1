"""How pages and small pictures of a report look."""

from __future__ import annotations

PANELS = ("Fixed", "Warped", "Difference", "Expected error")
"""Of a pair at a glance, from left to right; the last is empty where there is no map of the error."""

SIDE, GAP = 144, 2
"""Pixels of such a panel and between two."""

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f23; --soft: #5c6670; --line: #d9dee3;
  --card: #f5f7f9; --accent: #1f6fb2; --before: #98a4b0; --good: #1a7f37; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1113; --ink: #dfe5ea; --soft: #98a4b0;
  --line: #2b3238; --card: #181c20; --accent: #58a6e0; --before: #6b7680; --good: #57c271; --bad: #ff8078; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 66rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .8rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .2rem; }
p, figcaption { margin: 0 0 .5rem; color: var(--soft); }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .28rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--soft); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.verdict { margin: 0 0 1.2rem; padding: .7rem .9rem; background: var(--card); border-left: 6px solid;
  border-radius: 6px; }
.verdict p { margin: 0; color: var(--ink); }
.verdict strong { color: #fff; padding: .1rem .6rem; margin-right: .4rem; border-radius: 4px; }
.verdict details { color: var(--soft); margin-top: .4rem; }
.verdict ul { margin: .2rem 0 0; padding-left: 1.4rem; }
.facts th { width: 11rem; color: var(--soft); font-weight: 500; }
.soft { color: var(--soft); }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
figure { margin: 0 0 1.4rem; padding: .9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
.flick { background-size: 100% 100%; background-image: var(--fixed); border-radius: 6px; }
.flick:hover img, .flick:focus img { opacity: 0; }
tbody th { font-weight: 500; }
.scroll { max-height: 34rem; overflow: auto; padding: .8rem; margin-bottom: 1.4rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
.bars { columns: 2 24rem; column-gap: 2rem; }
.bars div { display: grid; grid-template-columns: minmax(6rem, 11rem) 1fr 7rem; gap: .6rem; align-items: center;
  font-size: .85rem; break-inside: avoid; }
.bars .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; }
.bars svg { width: 100%; height: .8rem; display: block; }
@media print { .scroll { max-height: none; } }
"""
"""In light and dark, on screen and on paper."""
