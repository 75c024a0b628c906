"use strict";
// Sort, filter and tick the sites; keep the command line and the recipe up to date; copy them.
(() => {
  const find = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  async function copy(button) {
    const source = find(button.dataset.copy);
    const label = button.textContent;
    let done = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // No clipboard here: select the text, so that the keyboard can copy it.
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", () => copy(button));
  }

  const table = find("sites-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];

  function key(row, column) {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  }

  function compare(a, b) {
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  }

  function sort(head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sign = down ? -1 : 1;
    const column = head.cellIndex;
    body.append(...[...rows].sort((a, b) => sign * compare(key(a, column), key(b, column))));
  }

  for (const button of table.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }

  find("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    find("shown").textContent = `${shown} of ${rows.length} sites`;
  });

  const command = find("command");
  const original = command.textContent;
  const forms = ["recipe-text", "recipe-toml"].map(find).filter((form) => form && form.dataset.template);
  const texts = new Map(forms.map((form) => [form, form.textContent]));

  function update() {
    const ticked = rows.filter((row) => row.querySelector("input")?.checked);
    for (const row of rows) row.classList.toggle("ticked", ticked.includes(row));
    command.textContent = [original, ...ticked.map((row) => row.dataset.shell)].join(" \\\n  ");
    command.classList.toggle("changed", ticked.length > 0);
    for (const form of forms) {
      const items = ticked.map((row) => row.dataset[form.id === "recipe-toml" ? "toml" : "text"]);
      const { template, mark } = form.dataset;
      form.textContent = items.length ? template.split(mark).join(items.join(", ")) : texts.get(form);
      form.classList.toggle("changed", items.length > 0);
    }
    find("ticked").hidden = ticked.length === 0;
    const kept = ticked.length === 1 ? "1 site stays in float" : `${ticked.length} sites stay in float`;
    const none = ticked.length === rows.length ? ": convert refuses, as nothing is left to quantize" : "";
    find("ticked-text").textContent = kept + none;
  }

  body.addEventListener("change", update);
  find("untick").addEventListener("click", () => {
    for (const row of rows) row.querySelector("input").checked = false;
    update();
  });
  update();  // a browser may restore ticks when it loads a page again
})();
