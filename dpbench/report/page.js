"use strict";
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const one = (query, root = document) => root.querySelector(query);

  // tables: sorted by a click on a heading, filtered by words and by group
  const key = (cell, head) => {
    if (cell.dataset.order !== undefined) return Number(cell.dataset.order);
    const text = cell.textContent;  // of figures that read as they are sorted
    return head.classList.contains("number") && text !== "" && Number.isFinite(Number(text)) ? Number(text) : null;
  };
  const compare = (a, b) => {
    if (a.key !== null && b.key !== null) return a.key - b.key;
    return a.text.localeCompare(b.text, "en", { numeric: true });
  };
  for (const table of all("table")) {
    const heads = all("thead th", table);
    heads.forEach((head, place) => {
      one("button", head).addEventListener("click", () => {
        const rising = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", rising > 0 ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[place], head), text: row.cells[place].textContent }));
        const numeric = rows.some((one) => one.key !== null);
        const empty = (one) => (numeric && one.key === null) || one.text === "";
        // what is not there comes last, either way
        rows.sort((a, b) => empty(a) - empty(b) || rising * compare(a, b));
        body.append(...rows.map((one) => one.row));
      });
    });
    const tools = one(`.tools[data-for="${table.id}"]`);
    const [words, group, count] = ["input", "select", ".count"].map((query) => one(query, tools));
    const filter = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = wanted.length ? row.textContent.toLowerCase() : "";
        const fits = !group || group.value === "all" || row.dataset.group === group.value;
        row.hidden = !(fits && wanted.every((word) => text.includes(word)));
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
    };
    words.addEventListener("input", filter);
    if (group) group.addEventListener("change", filter);
    filter();
    const columns = one("button.columns", tools);
    if (columns) columns.addEventListener("click", () => {
      columns.setAttribute("aria-pressed", String(table.classList.toggle("all")));
    });
  }

  // folds: all at once, and all for print
  const unfold = one("#unfold");
  const folds = all("details");
  unfold.addEventListener("click", () => {
    const open = unfold.getAttribute("aria-pressed") !== "true";
    folds.forEach((fold) => { fold.open = open; });
    unfold.setAttribute("aria-pressed", String(open));
    unfold.textContent = open ? "Fold everything" : "Unfold everything";
  });

  // plots: unpacked and drawn when one comes into sight
  const plots = all(".plot");
  const given = plots.length ? JSON.parse(one("#plot-data").textContent) : [];
  let unpacked = null;
  const unpack = () => unpacked ??= (async () => {
    const packed = Uint8Array.from(atob(one("#plotly-packed").textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })();
  const tinted = (value, ink) => JSON.parse(JSON.stringify(value).replaceAll('"ink"', JSON.stringify(ink)));
  const draw = async (plot, width) => {
    const canvas = one(".canvas", plot);
    try {
      await unpack();
    } catch (error) {
      one(".fine", canvas).textContent = "This browser cannot unpack the plots; the tables hold all their figures.";
      return;
    }
    const names = getComputedStyle(document.documentElement);
    const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map((name) => names.getPropertyValue(name).trim());
    const figures = given[Number(plot.dataset.plot)];
    const select = one("select", plot);
    const figure = tinted(figures[select ? select.value : Object.keys(figures)[0]], ink);
    const space = width || canvas.clientWidth - 10;
    const narrow = space < 560;
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: soft, automargin: true, title: { standoff: 12 } };
    const layout = figure.layout;
    Object.assign(layout, {
      width: space, height: narrow ? 410 + 27 * figure.data.length : Math.max(460, 120 + 20 * figure.data.length), paper_bgcolor: card, plot_bgcolor: card,
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: ink },
      margin: { l: 60, r: 16, t: 48, b: narrow ? 70 + 27 * figure.data.length : 60 }, hovermode: "closest",
      // below on a narrow screen, one entry a line: names are long
      legend: narrow ? { x: 0, y: -80 / 330, yanchor: "top", maxheight: 27 * figure.data.length + 10 } : { x: 1.02, y: 1 },
      hoverlabel: { align: "left" },
    });
    // a long title goes on several lines
    const lines = [""];
    for (const word of layout.title.text.split(" ")) {
      if ((lines.at(-1) + word).length > space / 7) lines.push("");
      lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
    }
    layout.title.text = lines.join("<br>");
    layout.margin.t += 16 * (lines.length - 1);
    layout.title = { ...layout.title, font: { size: narrow ? 12 : 14 }, x: 0.02, xanchor: "left" };
    layout.xaxis = { ...axis, ...layout.xaxis, title: { ...axis.title, ...layout.xaxis.title } };
    layout.yaxis = { ...axis, ...layout.yaxis, title: { ...axis.title, ...layout.yaxis.title } };
    const config = { displaylogo: false, responsive: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    if (!plot.dataset.drawn) canvas.replaceChildren();
    plot.dataset.drawn = "yes";
    await Plotly.react(canvas, figure.data, layout, config);
  };
  const drawn = () => plots.filter((plot) => plot.dataset.drawn);
  const sight = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      sight.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });
  plots.forEach((plot) => {
    sight.observe(plot);
    const select = one("select", plot);
    if (select) select.addEventListener("change", () => draw(plot));
  });
  let later = 0;
  const again = () => { clearTimeout(later); later = setTimeout(() => drawn().forEach((plot) => draw(plot)), 150); };
  addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

  // print: everything is there, in the width of a page
  let before = [];
  const prepare = async () => {
    before = folds.map((fold) => fold.open);
    folds.forEach((fold) => { fold.open = true; });
    for (const plot of plots) await draw(plot, 680);
    document.documentElement.dataset.ready = "yes";
  };
  addEventListener("beforeprint", prepare);
  addEventListener("afterprint", () => { folds.forEach((fold, place) => { fold.open = before[place]; }); again(); });
  if (location.hash === "#print") addEventListener("load", prepare);
})();
