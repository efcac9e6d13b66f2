"""How the report looks, and what its filters do; no file beside it, no network."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6470; --line: #d8dce2; --card: #ffffff; --ground: #f4f5f7;
  --bar: #6b5bd2; --wrong: #b4531f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb8; --line: #3a3f47; --card: #22252a;
  --ground: #17191c; --bar: #9a8cf5; --wrong: #f0a06a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 21px; margin: 0 0 6px; }
p { max-width: 90ch; margin: 6px 0; } .soft, small { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 18px 0; overflow-x: auto; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px 28px; margin: 6px 0; }
.tiles div { min-width: 76px; } .tiles b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
td, th { text-align: right; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
table.told td:last-child { text-align: left; }
table.sorts th { cursor: pointer; } table.sorts th::after { content: " \\2195"; color: var(--line); }
.tall { max-height: 380px; overflow-y: auto; } .tall th { position: sticky; top: 0; background: var(--card); }
.kinds { width: 100%; } .kinds td:nth-child(3) { width: 34%; } .kinds td:last-child { white-space: normal;
  text-align: left; min-width: 240px; }
.meter { height: 12px; border-radius: 3px; background: var(--bar); min-width: 1px; }
.maps { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); margin-top: 10px; }
figure { margin: 0; } figcaption { font-size: 13px; margin-top: 4px; }
.average { position: relative; line-height: 0; } .average img { width: 100%; border-radius: 4px; }
.average::after { content: ""; position: absolute; inset: 25%; border: 1.5px solid #fff; outline: 1px solid #000; }
.gallery { display: grid; gap: 18px 16px; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr));
  margin-top: 12px; }
.gallery img { max-width: 100%; max-height: 300px; display: block; border-radius: 6px; }
.gallery .photo { display: none; } .gallery figure.plain .photo { display: block; }
.gallery figure.plain .map { display: none; } .gallery figure { cursor: pointer; }
.filters { display: flex; flex-wrap: wrap; gap: 10px 18px; align-items: end; }
.filters label { font-size: 13px; color: var(--soft); display: grid; gap: 2px; }
select, input { font: inherit; font-size: 15px; padding: 3px 6px; color: inherit; background: var(--ground);
  border: 1px solid var(--line); border-radius: 6px; }
.tag { font-size: 12px; border: 1px solid var(--line); border-radius: 9px; padding: 0 8px; margin-right: 6px; }
.scale { height: 10px; width: 240px; border-radius: 5px; display: inline-block; vertical-align: middle;
  background: linear-gradient(90deg, #000004, #420a68, #932667, #dd513a, #fca50a, #fcffa4); }
[hidden] { display: none !important; } code { font-size: 13px; overflow-wrap: anywhere; }
"""

SCRIPT: Final = """
const all = (what, where = document) => [...where.querySelectorAll(what)];
const one = what => document.querySelector(what);

function filterCards() {
  const kind = one("#kind").value, category = one("#class").value;
  const least = Number(one("#score").value), words = one("#words").value.toLowerCase();
  let shown = 0;
  for (const card of all("#gallery figure")) {
    const data = card.dataset;
    const score = data.score === "" ? Infinity : Number(data.score);
    card.hidden = !((kind === "" || data.kind === kind) && (category === "" || data.category === category)
      && score >= least && card.innerText.toLowerCase().includes(words));
    shown += !card.hidden;
  }
  one("#shown").textContent = shown;
  one("#score-shown").textContent = least.toFixed(2);
}

function orderCards() {
  const by = one("#order").value, gallery = one("#gallery");
  const number = card => card.dataset[by] === "" ? -1 : Number(card.dataset[by]);
  for (const card of all("figure", gallery).sort((a, b) => number(b) - number(a))) gallery.append(card);
}

function filterAverages() {
  const category = one("#average-class").value;
  for (const average of all("#averages figure")) average.hidden = average.dataset.category !== category;
}

function sortTable(head) {
  const body = head.closest("table").tBodies[0], place = head.cellIndex;
  const down = head.dataset.down = head.dataset.down === "1" ? "0" : "1";
  const value = row => { const text = row.cells[place].textContent, n = parseFloat(text); return isNaN(n) ? text : n; };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? b - a
    : typeof a === typeof b ? a.localeCompare(b) : typeof a === "number" ? -1 : 1;
  const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)) * (down === "1" ? 1 : -1));
  body.append(...rows);
}

for (const id of ["#kind", "#class", "#score", "#words"]) one(id).addEventListener("input", filterCards);
one("#order").addEventListener("input", orderCards);
one("#average-class").addEventListener("input", filterAverages);
for (const head of all("table.sorts th")) head.addEventListener("click", () => sortTable(head));
one("#gallery").addEventListener("click", event => event.target.closest("figure")?.classList.toggle("plain"));
for (const link of all("a[data-kind]")) link.addEventListener("click", () => {
  one("#kind").value = link.dataset.kind; filterCards();
});
orderCards(); filterCards(); filterAverages();
"""
