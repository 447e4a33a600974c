"""How the report looks: dark text on light ground, wide tables that scroll, also on paper."""

STYLE = """
:root { --ink: #1f2430; --soft: #5b6472; --line: #d9dde3; --ground: #f7f8fa;
        --bad: #b3261e; --odd: #9a6700; --bar: #0072b2; }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; margin: 0;
       color: var(--ink); background: #fff; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 12px; } h2 { font-size: 19px; margin: 32px 0 8px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tiles div { background: var(--ground); border: 1px solid var(--line); border-radius: 8px; padding: 10px 18px; }
.tiles b { display: block; font-size: 24px; } .tiles span { color: var(--soft); }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px; margin: 6px 0; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line);
         overflow-wrap: anywhere; min-width: 60px; }
th { color: var(--soft); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: 8px; padding: 6px 12px; margin: 8px 0; }
summary { cursor: pointer; } summary b { color: var(--bad); }
code { background: var(--ground); padding: 1px 5px; border-radius: 4px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 16px; }
.charts figure { margin: 0; } .charts figcaption { font-size: 13px; color: var(--soft); }
svg { width: 100%; height: auto; } rect { fill: var(--bar); }
text { font-size: 11px; fill: var(--soft); }
.montage { display: grid; grid-template-columns: repeat(auto-fill, minmax(224px, 1fr)); gap: 10px; }
.montage figure { margin: 0; padding: 6px; background: #000; border-radius: 6px; border: 3px solid #000; }
.montage img { width: 100%; display: block; }
.montage figcaption { color: #e8eaee; font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.montage em { color: #ffd58a; font-size: 12px; font-style: normal; }
.montage .bad { border-color: var(--bad); } .montage .odd { border-color: var(--odd); }
@media print { .montage figure { break-inside: avoid; } }
"""
