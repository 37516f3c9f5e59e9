// Filters of the examples. Without it all of them are shown.
const form = document.getElementById("filters");
const count = document.getElementById("shown");
const examples = Array.from(document.querySelectorAll("[data-principles]"));

function fitting(principle, category) {
  return examples.filter(
    (example) =>
      (principle === "" || example.dataset.principles.split(" ").includes(principle)) &&
      (category === "" || example.dataset.category === category)
  );
}

// Each option says how many examples it leaves beside the other filter; one that leaves none cannot be chosen.
function offer(select, left) {
  for (const option of select.options) {
    option.dataset.name ??= option.textContent;
    const examples = left(option.value).length;
    option.textContent = `${option.dataset.name} (${examples})`;
    option.disabled = examples === 0 && !option.selected;
  }
}

function filter() {
  const { principle, category } = form.elements;
  const shown = new Set(fitting(principle.value, category.value));
  for (const example of examples) {
    example.hidden = !shown.has(example);
  }
  offer(principle, (value) => fitting(value, category.value));
  offer(category, (value) => fitting(principle.value, value));
  count.textContent = `${shown.size} of ${examples.length} shown`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}

// What does not scroll needs no stop of the keyboard; folded regions are looked at when they are unfolded.
const regions = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".scroll").forEach((region) => regions.observe(region));
