// A click on a heading orders its table: figures the highest first, words by the alphabet; again, the other way round.
// What has no value stays below.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const words = heading.classList.contains("word");
      const before = heading.getAttribute("aria-sort");
      const order = before ? (before === "ascending" ? "descending" : "ascending") : words ? "ascending" : "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value ?? "";
      const compare = (first, second) => {
        const [a, b] = [value(first), value(second)];
        if (a === "" || b === "") return (a === "") - (b === "");
        return sign * (words ? a.localeCompare(b) : Number(a) - Number(b));
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    });
  });
}
