/* The wall of a cohort: filters, sorts and shows the pairs; where the viewer serves it, marks are saved. */
(function () {
  "use strict";

  const data = JSON.parse(document.getElementById("data").textContent);
  const pairs = data.pairs.map((pair, index) => ({
    group: "", verdict: "", sentence: "", mark: "", comment: "", ...pair, index,
  }));
  const RANK = { fail: 1, review: 2, "": 3, pass: 4 };
  const PAGE = 60, BINS = 30;
  const view = { grades: new Set(), mark: "", group: "", text: "", sort: "look", ranges: new Map(), shown: PAGE };
  let live = false, found = [], toastTimer = 0, sending = Promise.resolve(), unsaved = 0;

  // Elements

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function drawn(tag, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function say(text, bad) {
    const toast = document.getElementById("toast");
    toast.textContent = text;
    toast.className = bad ? "toast wrong" : "toast";
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { toast.textContent = ""; }, bad ? 9000 : 3500);
  }

  // What is known of a pair

  const hasResult = (pair) => pair.state === "done";
  const grade = (pair) => (hasResult(pair) ? pair.verdict || "none" : "lost");
  const GRADES = { lost: { title: "No result", colour: "#8250df" }, ...data.grades, none: { title: "Not judged" } };
  const folder = (pair) => `${data.study}/pairs/${pair.name}`;
  const number = (value, measure) => (value === null ? "–" : value.toFixed(measure.decimals));
  const label = (measure) => [measure.name, measure.unit && `(${measure.unit})`, measure.better].filter(Boolean).join(" ");
  const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;
  const viewerLine = (pair) => `deepreg-attention view ${quoted(folder(pair))}`;

  function slicerLine(pair) {
    const load = `load_pair(slicer.mrmlScene, ${JSON.stringify(folder(pair))})`;
    return `import slicer; from DeepRegAttentionLib.scene.studies import load_pair; ${load}`;
  }

  // Which pairs, in which order

  function fits(pair) {
    return (!view.grades.size || view.grades.has(grade(pair))) && fitsMark(pair)
      && (!view.group || pair.group === view.group) && fitsText(pair)
      && [...view.ranges].every(([n, [low, high]]) => pair.values[n] !== null && pair.values[n] >= low && pair.values[n] <= high);
  }

  function fitsMark(pair) {
    const is = { "": true, none: !pair.mark, good: pair.mark === "good", bad: pair.mark === "bad", comment: !!pair.comment };
    return is[view.mark];
  }

  function fitsText(pair) {
    const text = [pair.name, pair.group, pair.sentence, pair.comment].join("\n").toLowerCase();
    return view.text.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  /* What nobody has marked comes first: no result, fail, review, the others; the oddest first among equals. */
  function urgency(pair) {
    return (pair.mark ? 10 : 0) + (hasResult(pair) ? RANK[pair.verdict] : 0);
  }

  function order(a, b) {
    if (view.sort === "name") return a.index - b.index;
    if (view.sort === "look") return urgency(a) - urgency(b) || b.odd - a.odd || a.index - b.index;
    const n = Math.abs(view.sort) - 1, way = Math.sign(view.sort);
    const worth = (pair) => (pair.values[n] === null ? Infinity : way * pair.values[n]);
    return worth(a) - worth(b) || a.index - b.index;
  }

  function refresh() {
    view.shown = PAGE;
    found = pairs.filter(fits).sort(order);
    const cards = document.getElementById("cards");
    cards.replaceChildren(...found.slice(0, PAGE).map(card));
    document.getElementById("count").textContent =
      found.length === pairs.length ? `${pairs.length} pairs` : `${found.length} of ${pairs.length} pairs`;
    document.getElementById("none").hidden = found.length > 0;
    showMore();
    for (const chip of document.querySelectorAll("[data-grade]"))
      chip.setAttribute("aria-pressed", view.grades.has(chip.dataset.grade));
  }

  function showMore() {
    document.getElementById("more").hidden = view.shown >= found.length;
  }

  function more() {
    document.getElementById("cards").append(...found.slice(view.shown, view.shown + PAGE).map(card));
    view.shown += PAGE;
    showMore();
  }

  // One pair

  function card(pair) {
    const about = GRADES[grade(pair)];
    const made = element("article", { class: cardClass(pair), tabindex: 0, "data-name": pair.name },
      picture(pair), hasResult(pair) ? panels() : null,
      element("div", { class: "said" },
        element("h2", {}, element("span", { class: "grade" }, about.title), ...breakable(pair.name),
          pair.group ? element("span", { class: "group" }, ` · ${pair.group}`) : null),
        element("p", {}, pair.sentence), numbers(pair)),
      actions(pair));
    if (about.colour) made.style.setProperty("--grade", about.colour);
    made.addEventListener("keydown", (event) => press(event, pair, made));
    return made;
  }

  /* A long name goes on in a new line behind an underscore. */
  const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);

  const cardClass = (pair) => (pair.mark ? `card is-${pair.mark}` : "card");

  function picture(pair) {
    const { file, width, height } = data.picture;
    if (!hasResult(pair)) return element("div", { class: "picture nothing", style: "aspect-ratio: 6" }, "no result");
    const image = element("img", {
      src: `pairs/${encodeURIComponent(pair.name)}/${file}`, width, height, loading: "lazy", decoding: "async",
      alt: `${pair.name}: ${data.picture.panels.join(", ")}`,
    });
    const title = live ? "Open in the viewer" : "Copy the line that opens it in the viewer";
    return element("button", { class: "picture", type: "button", title, onclick: () => open(pair) }, image);
  }

  function panels() {
    return element("div", { class: "panels", "aria-hidden": "true" },
      ...data.picture.panels.map((name) => element("span", {}, name)));
  }

  /* What is out of the ordinary first, and as much of the rest as fits on a line or two. */
  function numbers(pair) {
    const known = data.measures.map((measure, n) => n).filter((n) => pair.values[n] !== null);
    const out = (n) => pair.outlying.includes(n);
    const chosen = known.sort((a, b) => out(b) - out(a) || a - b).slice(0, Math.max(4, pair.outlying.length));
    return element("p", { class: "numbers" }, ...chosen.map((n) => {
      const measure = data.measures[n];
      const usual = `${measure.meaning}; usually ${number(measure.median, measure)}`;
      return element("span", { class: out(n) ? "out" : "", title: usual }, `${measure.name} `,
        element("b", {}, `${number(pair.values[n], measure)}${measure.unit ? " " + measure.unit : ""}`));
    }));
  }

  function actions(pair) {
    const made = element("div", { class: "does" });
    if (live) made.append(markButton(pair, "good", "Good"), markButton(pair, "bad", "Bad"), commentField(pair));
    else if (pair.mark || pair.comment)
      made.append(element("span", { class: "spoken" }, [pair.mark, pair.comment].filter(Boolean).join(": ")));
    if (hasResult(pair)) made.append(...openers(pair));
    return made;
  }

  function openers(pair) {
    const button = (text, title, does) => element("button", { class: "small", type: "button", title, onclick: does }, text);
    const viewer = live
      ? button("Open", "In the viewer (Enter)", () => open(pair))
      : button("Copy viewer command", viewerLine(pair), () => copy(viewerLine(pair)));
    return [viewer, button("Copy line for 3D Slicer", "For its Python console", () => copy(slicerLine(pair)))];
  }

  function markButton(pair, mark, text) {
    const pressed = String(pair.mark === mark);
    const does = () => save(pair, { mark: pair.mark === mark ? "" : mark, comment: pair.comment });
    return element("button", { class: `small mark-${mark}`, type: "button", "aria-pressed": pressed, onclick: does }, text);
  }

  function commentField(pair) {
    const field = element("input", {
      class: "comment", placeholder: "Comment", maxlength: 2000, "aria-label": `Comment on ${pair.name}`, value: pair.comment,
    });
    field.addEventListener("change", () => save(pair, { mark: pair.mark, comment: field.value.trim() }));
    return field;
  }

  function press(event, pair, shown) {
    if (event.target !== shown || event.ctrlKey || event.altKey || event.metaKey) return;
    const mark = { g: "good", b: "bad" }[event.key];
    if (event.key === "Enter") open(pair);
    else if (mark && live) save(pair, { mark: pair.mark === mark ? "" : mark, comment: pair.comment });
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") step(shown, event.key === "ArrowRight");
    else return;
    event.preventDefault();
  }

  function step(shown, forwards) {
    if (forwards && !shown.nextElementSibling && view.shown < found.length) more();
    const next = forwards ? shown.nextElementSibling : shown.previousElementSibling;
    if (next) next.focus();
  }

  function open(pair) {
    if (!hasResult(pair)) return;
    if (live) window.open(`open/${encodeURIComponent(pair.name)}`, "deepreg-pair");
    else copy(viewerLine(pair));
  }

  function copy(text) {
    const done = () => say(`Copied: ${text}`);
    const byHand = () => window.prompt("Copy this line:", text);
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand);
    else byHand();
  }

  // Marks

  /* Shown at once, sent one after the other, taken back if that fails. */
  function save(pair, said) {
    const before = { mark: pair.mark, comment: pair.comment };
    const show = (marks) => { Object.assign(pair, marks); showMark(pair); };
    unsaved += 1;
    show(said);
    sending = sending.then(() => send(pair, said)).catch((error) => {
      show(before);
      const silent = error instanceof TypeError || error instanceof SyntaxError;
      say(silent ? "Not saved: the viewer does not answer." : error.message, true);
    }).then(() => { unsaved -= 1; countMarks(); });
  }

  async function send(pair, said) {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(`marks/${encodeURIComponent(pair.name)}`, { method: "POST", headers, body: JSON.stringify(said) });
    if (!answer.ok) throw new Error((await answer.json()).error);
  }

  function showMark(pair) {
    const shown = [...document.querySelectorAll(".card")].find((one) => one.dataset.name === pair.name);
    if (shown) {
      shown.className = cardClass(pair);
      for (const mark of ["good", "bad"]) shown.querySelector(`.mark-${mark}`).setAttribute("aria-pressed", pair.mark === mark);
      const field = shown.querySelector(".comment");
      if (field !== document.activeElement) field.value = pair.comment;
    }
    countMarks();
  }

  async function takeMarks() {
    try {
      const answer = await fetch("marks");
      if (!answer.ok) return;
      const marks = await answer.json();
      for (const pair of pairs) Object.assign(pair, { mark: "", comment: "" }, marks[pair.name]);
      live = true;
    } catch { /* Some other server has the page: it can be read all the same. */ }
  }

  function countMarks() {
    const marked = pairs.filter((pair) => pair.mark).length;
    const said = [marked && `· ${marked} marked`, unsaved && "· saving …"];
    document.getElementById("marked").textContent = said.filter(Boolean).join(" ");
  }

  // Head, filters, distributions, outliers

  function head() {
    const done = pairs.length, rest = data.total - done;
    const progress = rest ? `${done} of ${data.total} pairs have ended; ${rest} are to come` : `${done} pairs`;
    return element("header", {}, element("h1", {}, data.title),
      element("p", {}, `${progress} · ${data.study} `, element("span", { id: "marked" })),
      live ? null : element("p", { class: "notice" }, "To open pairs with one click and to mark them, run ",
        element("code", {}, `deepreg-attention view ${quoted(data.study)}`), " ",
        element("button", { class: "small", type: "button", onclick: () => copy(`deepreg-attention view ${quoted(data.study)}`) }, "Copy")));
  }

  function bar() {
    const search = element("input", { type: "search", id: "text", placeholder: "Search", "aria-label": "Search" });
    search.addEventListener("input", () => { view.text = search.value.trim(); refresh(); });
    return element("div", { class: "bar" }, ...chips(), chooser("mark", "Mark", marksOffered()), groups(), search,
      chooser("sort", "Order", sorts()), element("button", { class: "small", id: "reset", type: "button", onclick: reset }, "Show all"),
      element("span", { class: "count", id: "count" }));
  }

  function chips() {
    const counts = {};
    for (const pair of pairs) counts[grade(pair)] = (counts[grade(pair)] || 0) + 1;
    return ["lost", "fail", "review", "pass", "none"].filter((key) => counts[key] || data.grades[key]).map((key) => {
      const toggle = () => { view.grades[view.grades.has(key) ? "delete" : "add"](key); refresh(); };
      const chip = element("button", { class: "chip", type: "button", "data-grade": key, disabled: !counts[key], onclick: toggle },
        element("i"), `${GRADES[key].title} `, element("b", {}, counts[key] || 0));
      if (GRADES[key].colour) chip.style.setProperty("--grade", GRADES[key].colour);
      return chip;
    });
  }

  function marksOffered() {
    return [["", "Any mark"], ["none", "Unmarked"], ["good", "Good"], ["bad", "Bad"], ["comment", "With a comment"]];
  }

  function groups() {
    const names = [...new Set(pairs.map((pair) => pair.group).filter(Boolean))].sort();
    return names.length > 1 ? chooser("group", "Group", [["", "All groups"], ...names.map((name) => [name, name])]) : null;
  }

  function sorts() {
    const worst = (measure, n) => [(measure.better === "↑" ? 1 : -1) * (n + 1), `${measure.name}, ${measure.better ? "worst" : "largest"} first`];
    return [["look", "What needs looking at first"], ["name", "As in the table"], ...data.measures.map(worst)];
  }

  function chooser(name, title, offered) {
    const made = element("select", { id: name, "aria-label": title },
      ...offered.map(([value, text]) => element("option", { value }, text)));
    made.addEventListener("change", () => { view[name] = made.value; refresh(); });
    return made;
  }

  function reset() {
    Object.assign(view, { grades: new Set(), mark: "", group: "", text: "", ranges: new Map() });
    for (const id of ["mark", "group", "text"]) if (document.getElementById(id)) document.getElementById(id).value = "";
    for (const [n, chart] of document.querySelectorAll(".chart").entries()) mark(chart, n);
    refresh();
  }

  function distributions() {
    return element("details", { open: "" }, element("summary", {}, "Distributions"),
      element("div", { class: "charts" }, ...data.measures.map(distribution)));
  }

  function distribution(measure, n) {
    const values = pairs.map((pair) => pair.values[n]).filter((value) => value !== null);
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const width = (high - low) / BINS || 1;
    const at = (value) => Math.min(BINS - 1, Math.floor((value - low) / width));
    const chart = element("div", { class: "chart" }, element("h3", { title: `${label(measure)}: ${measure.meaning}` }, label(measure)),
      histogram(n, at), element("div", { class: "range" }, element("span", {}, number(low, measure)),
        element("span", { class: "chosen" }), element("span", {}, number(high, measure))));
    brush(chart, n, low, width);
    return chart;
  }

  /* Bars by verdict, the worse below; a bar of one pair is still seen. */
  function histogram(n, at) {
    const keys = ["fail", "review", "pass", "none"], counts = keys.map(() => new Array(BINS).fill(0));
    const odd = new Set();
    for (const pair of pairs) {
      if (pair.values[n] === null) continue;
      counts[Math.max(0, keys.indexOf(grade(pair)))][at(pair.values[n])] += 1;
      if (pair.outlying.includes(n)) odd.add(at(pair.values[n]));
    }
    const tallest = Math.max(...counts[0].map((_, bin) => counts.reduce((sum, row) => sum + row[bin], 0)));
    const svg = drawn("svg", { viewBox: `0 0 ${10 * BINS} 100`, preserveAspectRatio: "none" });
    svg.append(drawn("line", { class: "axis", x1: 0, x2: 10 * BINS, y1: 92, y2: 92 }));
    for (let bin = 0; bin < BINS; bin += 1) {
      let top = 92;
      keys.forEach((key, row) => {
        const height = counts[row][bin] && Math.max(3, (88 * counts[row][bin]) / tallest);
        top -= height;
        if (height) svg.append(drawn("rect", { x: 10 * bin + 1, y: top, width: 8, height, fill: GRADES[key].colour || "#8a949e" }));
      });
      if (odd.has(bin)) svg.append(drawn("rect", { x: 10 * bin + 1, y: 94, width: 8, height: 6, fill: "#d93f35" }));
    }
    svg.append(drawn("rect", { class: "brush", x: 0, y: 0, width: 0, height: 100 }));
    return svg;
  }

  /* Drawing over bars leaves those pairs alone; a click on one bar does, too, and one on what is chosen takes it back. */
  function brush(chart, n, low, width) {
    const svg = chart.querySelector("svg");
    const bin = (event) => {
      const box = svg.getBoundingClientRect();
      return Math.max(0, Math.min(BINS - 1, Math.floor((BINS * (event.clientX - box.left)) / box.width)));
    };
    let from = null;
    const choose = (to) => {
      const [first, last] = [Math.min(from, to), Math.max(from, to)];
      const slack = width * 1e-6;
      view.ranges.set(n, [low + first * width - slack, low + (last + 1) * width + (last === BINS - 1 ? slack : -slack), first, last]);
      mark(chart, n);
    };
    svg.addEventListener("pointerdown", (event) => {
      const kept = view.ranges.get(n), here = bin(event);
      if (kept && here >= kept[2] && here <= kept[3]) { view.ranges.delete(n); mark(chart, n); refresh(); return; }
      from = here;
      svg.setPointerCapture(event.pointerId);
      choose(from);
    });
    svg.addEventListener("pointermove", (event) => { if (from !== null) choose(bin(event)); });
    svg.addEventListener("pointerup", () => { if (from !== null) { from = null; refresh(); } });
  }

  function mark(chart, n) {
    const range = view.ranges.get(n), shown = chart.querySelector(".brush");
    shown.setAttribute("x", range ? 10 * range[2] : 0);
    shown.setAttribute("width", range ? 10 * (range[3] - range[2] + 1) : 0);
    chart.classList.toggle("active", !!range);
    chart.querySelector(".chosen").textContent =
      range ? `${number(range[0], data.measures[n])} to ${number(range[1], data.measures[n])}` : "";
  }

  function outliers() {
    const odd = pairs.filter((pair) => pair.outlying.length).sort((a, b) => b.odd - a.odd);
    if (!odd.length) return null;
    const row = (pair) => element("tr", {},
      element("td", {}, element("a", { href: "#", onclick: (event) => { event.preventDefault(); lookAt(pair); } }, pair.name)),
      element("td", {}, pair.outlying.map((n) => `${data.measures[n].name} ${number(pair.values[n], data.measures[n])}` +
        ` (usually ${number(data.measures[n].median, data.measures[n])})`).join("; ")));
    return element("details", { id: "outliers" }, element("summary", {}, `${odd.length} outliers`),
      element("div", { class: "listed" }, element("table", {}, element("tbody", {}, ...odd.slice(0, 500).map(row)))));
  }

  function lookAt(pair) {
    reset();
    document.getElementById("text").value = view.text = pair.name;
    refresh();
    document.getElementById("cards").scrollIntoView();
  }

  function foot() {
    const key = (text) => element("kbd", {}, text);
    return element("footer", {}, element("p", {},
      "The pictures show the plane through the place that may be off most (in the ring), the patient’s right on the left. ",
      "Outliers lie more than 3.5 robust standard deviations on the worse side of the median. ",
      ...(live ? ["On a card that was clicked beside its picture: ", key("G"), " good, ", key("B"), " bad, ", key("Enter"), " opens, ", key("←"), " ", key("→"), " the next. "] : []),
      "A tool for research: a registration is to be checked by someone who knows the anatomy."));
  }

  async function start() {
    if (location.protocol.startsWith("http")) await takeMarks();
    const next = element("button", { class: "more small", id: "more", type: "button", onclick: more }, "Show more");
    document.getElementById("page").append(head(), bar(),
      distributions(), outliers() || "",
      element("main", { class: "cards", id: "cards" }), element("p", { id: "none", hidden: true }, "No pair fits."), next, foot(),
      element("div", { class: "toast", id: "toast", role: "status" }));
    new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting) && !next.hidden) more(); },
      { rootMargin: "800px" }).observe(next);
    refresh();
    countMarks();
  }

  // Whoever leaves before the last mark is saved is asked.
  window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  start();
})();
