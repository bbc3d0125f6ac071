// Tables are whole without this script; with it, a press on the name of a column sorts by it.
// First press: the usual order of the column (numbers from the largest, words from A); second: the other way
// round; third: as the page was written. What has no value comes last, either way.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], written = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const status = table.parentElement.appendChild(document.createElement("p"));
  status.className = "unseen";
  status.setAttribute("role", "status");

  heads.forEach((head, column) => {
    const isNumber = head.classList.contains("number"), name = head.textContent.trim();
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const cycle = isNumber ? ["descending", "ascending", null] : ["ascending", "descending", null];

    button.addEventListener("click", () => {
      const before = cycle.indexOf(head.getAttribute("aria-sort"));
      const direction = cycle[(before + 1) % 3], sign = direction === "descending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      if (direction) head.setAttribute("aria-sort", direction);
      const key = row => {
        const cell = row.cells[column];
        return isNumber ? parseFloat(cell.dataset.value ?? "NaN") : cell.textContent.trim();
      };
      const order = (a, b) => {
        const x = key(a), y = key(b);
        if (!isNumber) return sign * x.localeCompare(y, undefined, {numeric: true});
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      };
      body.append(...(direction ? [...written].sort(order) : written));
      status.textContent = direction ? `Sorted by ${name}, ${direction}` : "In the order of the page";
    });
  });
}
