"use strict";
// Sorting: a click on a heading sorts by its column, largest numbers first; another click turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const numeric = head.classList.contains("n");
      const before = head.getAttribute("aria-sort");
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const order = before === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const body = table.tBodies[0];
      const rows = [...body.rows];
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (!numeric) return sign * x.localeCompare(y);
        // What is undefined comes last in either order.
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (Number(x) - Number(y));
      });
      body.append(...rows);
    });
  });
}

// A picture opens large in a dialog, which the Escape key closes; focus returns to the picture by itself.
const dialog = document.getElementById("large");
for (const button of document.querySelectorAll("button.open")) {
  button.addEventListener("click", () => {
    const small = button.querySelector("img");
    const large = dialog.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    dialog.querySelector("p").textContent = button.dataset.caption;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// The legend of the map shows one class at a time; a second click shows all again.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const map = button.closest(".mapped");
    const pressed = button.getAttribute("aria-pressed") === "true";
    for (const each of map.querySelectorAll(".legend button")) each.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(!pressed));
    for (const path of map.querySelectorAll("svg path"))
      path.classList.toggle("off", !pressed && path.dataset.group !== button.dataset.group);
  });
}

// On a narrow screen the contents start closed.
if (matchMedia("(max-width: 68rem)").matches) document.querySelector("nav details").open = false;
