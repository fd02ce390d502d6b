// Heads of sortable tables become buttons: the first click puts the largest first, what was not measured last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("thead th[scope=col]")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const named = column === 0;
      const turn = head.getAttribute("aria-sort") === (named ? "ascending" : "descending") ? -1 : 1;
      const key = (row) => named ? row.cells[0].textContent : parseFloat(row.cells[column].dataset.value);
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (named) return turn * x.localeCompare(y);
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return turn * (y - x);
      };
      body.append(...[...body.rows].sort(order));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", (turn === 1) === named ? "ascending" : "descending");
    });
  });
}
