"""How `report.html` looks."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6472; --line: #e3e7ee; --paper: #ffffff; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f9; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 76rem; margin: 2rem auto; padding: 2rem 2.5rem 3rem; background: var(--paper); border-radius: 12px;
  box-shadow: 0 1px 3px rgba(20, 30, 50, .12); }
header p { color: var(--soft); max-width: 60rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .7rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 2px solid var(--line);
  padding: .35rem .8rem .35rem 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: .35rem .8rem .35rem 0; vertical-align: top; }
h4 { font-size: .95rem; margin: .9rem 0 .2rem; }
td:first-child, th:first-child { padding-left: .3rem; }
figure { margin: 1.4rem 0; }
img { max-width: 100%; height: auto; display: block; border: 1px solid var(--line); border-radius: 8px; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .35rem; }
.warning { background: #fff6dd; border-left: 4px solid #e6a700; padding: .5rem .9rem; margin: .5rem 0; }
.whole { white-space: nowrap; }
.small { color: var(--soft); font-size: .85rem; margin-top: -.5rem; }
.path { overflow-wrap: anywhere; display: block; min-width: 14rem; }
.badge { display: inline-block; padding: .05rem .55rem; border-radius: 999px; white-space: nowrap; }
.gain { color: #06623b; background: #ddf3e7; font-weight: 600; }
.loss { color: #a11515; background: #fbe3e1; font-weight: 600; }
.none { color: var(--soft); background: #eef1f5; }
li { margin: .15rem 0; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 40rem) { main { margin: 0; padding: 1rem; border-radius: 0; } }
@media print { body { background: #fff; } main { box-shadow: none; margin: 0; padding: 0; } }
"""
