"""How a report looks: one style for screens, light and dark, and for paper. It stands in the page itself."""

from __future__ import annotations

__all__ = ["STYLE"]

# Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008), lightened for a dark ground.
STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#59636e;--paper:#fff;--card:#f6f7f9;--rule:#d9dee3;
--s0:#0072b2;--s1:#c8500a;--s2:#00805f;--s3:#b3568a;--s4:#a87800;--s5:#4a6b8a;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3adb7;--paper:#14181c;--card:#1d2329;--rule:#39424b;
--s0:#62b5e8;--s1:#f09a5e;--s2:#3fc9a4;--s3:#e39ac4;--s4:#e2b93b;--s5:#9db9d3;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:78rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.3rem;margin:2.6rem 0 .4rem;padding-top:.8rem;border-top:2px solid var(--rule)}
h3{font-size:1.05rem;margin:1.8rem 0 .4rem}
p{margin:.4rem 0;max-width:70ch}.soft,figcaption,.note{color:var(--soft)}.bad{color:var(--bad)}
a{color:var(--s0)}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--paper);padding:.3rem .6rem}
dl.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem;margin:1rem 0}
dl.facts div{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.5rem .7rem}
dl.facts dt{color:var(--soft);font-size:.82rem}dl.facts dd{margin:0;font-size:1.12rem;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));gap:1rem;margin:1rem 0}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.6rem .7rem;min-width:0}
figure.wide{grid-column:1/-1}figcaption{font-size:.9rem;margin-bottom:.2rem}
svg{display:block;width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .label{font-size:12px}
svg .mid{text-anchor:middle}svg .end{text-anchor:end}
.grid{stroke:var(--rule);stroke-width:1;fill:none}.axis{stroke:var(--soft);stroke-width:1;fill:none}
.ln{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}
.dot{fill:none;stroke:currentColor;stroke-width:5;stroke-linecap:round}
.err{fill:none;stroke:currentColor;stroke-width:1;opacity:.55}
.whisker{fill:none;stroke:var(--ink);stroke-width:1.2}
.fill{fill:currentColor}.cell{fill:var(--s0)}.c0{fill:var(--bad)}.c1{opacity:.25}.c2{opacity:.45}.c3{opacity:.7}
.s0{color:var(--s0)}.s1{color:var(--s1)}.s2{color:var(--s2)}.s3{color:var(--s3)}.s4{color:var(--s4)}.s5{color:var(--s5)}
ul.keys{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem .9rem;margin:.3rem 0 0;padding:0;font-size:.85rem}
.key{display:inline-block;width:.8em;height:.8em;margin-right:.35em;background:currentColor;border-radius:2px}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:6px;margin:.6rem 0}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
caption{text-align:left;color:var(--soft);padding:.4rem .6rem}
th,td{padding:.28rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{background:var(--card);font-weight:600}th:first-child,td:first-child,.words{text-align:left}
td.words{white-space:normal;min-width:14rem}tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--s0)}
:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
pre{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.7rem;overflow-x:auto;
font-size:.85rem}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--card:#fff;--rule:#bbb;
--s0:#0072b2;--s1:#c8500a;--s2:#00805f;--s3:#b3568a;--s4:#a87800;--s5:#4a6b8a;--bad:#b3261e}
body{max-width:none;padding:0;font-size:10pt}h2{break-before:page;border:0}h2.first{break-before:auto}
figure,tr,dl.facts div{break-inside:avoid}.scroll{overflow:visible}.charts{grid-template-columns:1fr 1fr}
table{font-size:7.5pt}th,td{padding:.12rem .3rem}.skip{display:none}pre{white-space:pre-wrap}}
"""
