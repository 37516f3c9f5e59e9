// Filters of the examples. Without it all of them are shown.
const form = document.getElementById("filters");
const count = document.getElementById("shown");
const examples = Array.from(document.querySelectorAll("[data-principles]"));

function filter() {
  const principle = form.elements.principle.value;
  const category = form.elements.category.value;
  let shown = 0;
  for (const example of examples) {
    const fits =
      (principle === "" || example.dataset.principles.split(" ").includes(principle)) &&
      (category === "" || example.dataset.category === category);
    example.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${examples.length} shown`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}
