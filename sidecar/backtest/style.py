"""How the report looks, in light and in dark. Colours by Okabe and Ito, told apart by every eye."""

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2429;--soft:#5f6b73;--edge:#e3e5e4;
--grid:#ebedec;--actual:#0072b2;--expected:#d55e00;--band:#e69f0059;--good:#00805e;--even:#8a6d00;
--bad:#b3261e;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#b8860b;--c5:#56b4e9;
--c6:#7f7f7f;--c7:#5c4b9a}
@media(prefers-color-scheme:dark){:root{--bg:#12171b;--card:#1a2127;--ink:#e6eaec;--soft:#96a3ab;
--edge:#2b343b;--grid:#262e35;--actual:#56b4e9;--expected:#f0a23c;--band:#e69f004d;--good:#3ecf9f;
--even:#d9b93b;--bad:#ff8a80;--c0:#56b4e9;--c1:#f0803c;--c2:#2fc89b;--c3:#e39cc4;--c4:#e6c229;
--c5:#9bd3f5;--c6:#a0a0a0;--c7:#a999e8}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:32px 24px 48px;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Noto Sans Mono",monospace;font-size:.92em;
overflow-wrap:anywhere}
header p{margin:0;color:var(--soft)}
.brand{letter-spacing:.14em;text-transform:uppercase;font-size:12px;font-weight:600}
h1{margin:2px 0;font-size:30px;letter-spacing:-.02em;line-height:1.2}
section{margin-top:36px}
h2{margin:0 0 6px;font-size:20px;font-weight:600}
h3{margin:30px 0 10px;font-size:16px}
.facts{margin:0;color:var(--soft);font-size:14px}
.verdict{margin:18px 0;padding:14px 18px;background:var(--card);border:1px solid var(--edge);
border-left:4px solid var(--soft);border-radius:8px}
.verdict p{margin:0}.verdict p+p{margin-top:4px;color:var(--soft)}
.good{border-left-color:var(--good)}.even{border-left-color:var(--even)}
.bad{border-left-color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:18px 0}
.tile{padding:12px 16px;background:var(--card);border:1px solid var(--edge);border-radius:8px}
.tile p,.tile small{margin:0;color:var(--soft);font-size:13px;display:block}
.tile b{font-size:26px;font-weight:600;letter-spacing:-.02em;line-height:1.25;
font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--edge);border-radius:8px}
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:8px 14px;text-align:right;white-space:nowrap}
th:first-child{text-align:left}
thead th{color:var(--soft);font-weight:500;font-size:13px;border-bottom:1px solid var(--edge)}
tbody th{font-weight:500}tbody tr+tr>*{border-top:1px solid var(--grid)}
.tag{margin-left:6px;padding:1px 7px;border:1px solid var(--edge);border-radius:9px;
color:var(--soft);font-size:11px;font-weight:500}
.tag.best{color:var(--good);border-color:currentColor}
.key{display:inline-block;width:10px;height:10px;margin-right:9px;border-radius:50%}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:14px;
margin-top:18px}h3+.charts{margin-top:0}
figure{margin:0;padding:12px 14px 8px;background:var(--card);border:1px solid var(--edge);
border-radius:8px;min-width:0}
figcaption{font-size:13px;color:var(--soft);margin-bottom:6px}
figcaption b,figcaption code{color:var(--ink)}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--grid);stroke-width:1}
.rule{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 4}
.tick{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
path{fill:none;stroke-linejoin:round;stroke-linecap:round}
.actual{stroke:var(--actual);stroke-width:1;opacity:.8}
.expected{stroke:var(--expected);stroke-width:1.6}
path.band{fill:var(--band);stroke:none}
.line{stroke-width:2}
.bar.good{fill:var(--good);opacity:.75}.bar.off{fill:var(--even);opacity:.75}
.why{margin:2px 0 4px;font-size:12.5px;color:var(--soft)}
.legend{margin:12px 0 0;font-size:13px;color:var(--soft)}
.swatch{display:inline-block;width:18px;height:3px;margin:0 7px 3px 14px;border-radius:2px}
.swatch:first-child{margin-left:0}
.swatch.actual{background:var(--actual)}.swatch.expected{background:var(--expected)}
.swatch.band{background:var(--band);height:11px;margin-bottom:-1px}
footer{margin-top:40px;padding-top:14px;border-top:1px solid var(--edge);color:var(--soft);
font-size:13px}
""" + "".join(
    f".c{n}{{stroke:var(--c{n})}}.dot.c{n}{{fill:var(--c{n});stroke:none}}"
    f".key.c{n}{{background:var(--c{n})}}"
    for n in range(8)
)
