const all = (what, where = document) => [...where.querySelectorAll(what)];
const one = what => document.querySelector(what);

let only = {};  // what a link asked for: a stage, or an annotated and a predicted class

function filterCards() {
  const kind = one("#kind").value, category = one("#class").value;
  const least = Number(one("#score").value), words = one("#words").value.toLowerCase();
  let shown = 0;
  for (const card of all("#gallery figure")) {
    const data = card.dataset;
    const score = data.score === "" ? Infinity : Number(data.score);
    card.hidden = !((kind === "" || data.kind === kind) && (category === "" || data.category === category)
      && Object.entries(only).every(([name, value]) => data[name] === value)
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
function showOnly(wanted, text) {
  only = wanted;
  one("#kind").value = one("#class").value = one("#words").value = ""; one("#score").value = 0;
  one("#only").hidden = !text; one("#only").textContent = text + " \u00d7";
  filterCards();
}
for (const link of all("a[data-kind]")) link.addEventListener("click", () => {
  showOnly({}, ""); one("#kind").value = link.dataset.kind; filterCards();
});
for (const link of all("a[data-stage]")) link.addEventListener("click", () =>
  showOnly({ stage: link.dataset.stage }, "lost: " + link.textContent));
for (const link of all("a[data-annotated]")) link.addEventListener("click", () => {
  const { annotated, predicted } = link.dataset;
  showOnly({ annotated, predicted }, (annotated || "nothing") + " taken for " + (predicted || "nothing"));
});
one("#only").addEventListener("click", () => showOnly({}, ""));
orderCards(); filterCards(); filterAverages();
