"""How the page looks."""

STYLE = """
:root { --ink: #1c2430; --faint: #66707d; --line: #dde2e8; --best: #d9efe4; --tied: #eef7f2; --bad: #fbe3dc; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { margin: 0 0 4px; font-size: 26px; }
h2 { margin: 0 0 12px; font-size: 19px; }
h3 { margin: 22px 0 8px; font-size: 15px; }
p { margin: 6px 0; max-width: 85ch; }
nav { margin: 14px 0 18px; }
nav a { display: inline-block; margin: 0 14px 4px 0; color: #0062a3; text-decoration: none; }
section { margin: 0 0 18px; padding: 18px 20px; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
.lead { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 4px 0 12px; }
caption { caption-side: top; text-align: left; color: var(--faint); padding: 0 0 6px; font-size: 13px; }
th, td { padding: 5px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; }
thead th { font-weight: 600; font-size: 13px; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 500; }
td small, th small { display: block; color: var(--faint); font-size: 12px; font-weight: 400; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.best { background: var(--best); font-weight: 600; }
td.tied { background: var(--tied); }
td.bad { background: var(--bad); }
figure { margin: 8px 0 14px; }
figure img { max-width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: 13px; max-width: 85ch; }
details { margin: 6px 0; }
summary { cursor: pointer; color: #0062a3; }
table.gallery td, #gallery td, #gallery th { text-align: center; padding: 4px 5px; font-size: 12px; border: 0; }
#gallery tbody th { text-align: left; width: 150px; min-width: 130px; white-space: normal; overflow-wrap: anywhere; }
#gallery thead th { white-space: normal; max-width: 110px; }
#gallery img { display: block; width: 104px; height: auto; margin: 0 auto 2px; }
code { font-size: 13px; overflow-wrap: anywhere; }
@media print { body { background: #fff; } section { border: 0; padding: 0; } details { display: block; } }
"""
