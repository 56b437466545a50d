(() => {
  const form = document.getElementById("threshold");
  if (!form) return;
  const input = form.querySelector("input");
  const output = form.querySelector("output");
  const edges = [...document.querySelectorAll("svg.flow path[data-s]")];
  if (!edges.length) return;
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  const apply = () => {
    const limit = input.value ** 2; // Most shares are small: the square spreads them out.
    let shown = 0;
    for (const edge of edges) {
      const kept = Number(edge.dataset.s) >= limit;
      edge.classList.toggle("off", !kept);
      shown += kept;
    }
    output.textContent = `${(100 * limit).toFixed(1)} %, ${shown} of ${edges.length} edges shown`;
  };
  input.addEventListener("input", apply);
  apply();
})();
