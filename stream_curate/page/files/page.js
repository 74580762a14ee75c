"use strict";
// Draws the picture of a curated table: the one inside a report, or the server's, asked for again and again.
// Text only ever becomes text nodes: what the crawl brought can be no markup, link or image here.

const REFRESH_MS = 2500;
const LIVE_S = 60;
const TYPING_MS = 250;
const N_DECISIONS = 9;

const SVG = "http://www.w3.org/2000/svg";
const plain = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const short3 = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 4 });
const one = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

const byId = (id) => document.getElementById(id);

// ---- elements -------------------------------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(
    ...children
      .filter((child) => child !== null)
      .map((child) => (typeof child === "number" ? plain.format(child) : child)),
  );
  return node;
}

function put(id, ...children) {
  byId(id).replaceChildren(...children.filter((child) => child !== null));
}

function sized(bar, share) {
  bar.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return bar;
}

function meter(share, kind = "") {
  return element("span", { class: `meter ${kind}`, "aria-hidden": "true" }, sized(element("i"), share));
}

/** The first column names the rows; each other cell is a number in words, or a cell of its own kind. */
function tableOf(titles, rows) {
  const title = (name, i) => element("th", { scope: "col", class: i ? "n" : null }, name);
  const cell = (content) => (typeof content === "string" ? element("td", { class: "n" }, content) : content);
  const row = ([name, ...cells]) =>
    element("tr", {}, element("th", { scope: "row" }, ...[name].flat()), ...cells.map(cell));
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...titles.map(title))),
    element("tbody", {}, ...rows.map(row)),
  );
}

const weak = (words) => element("td", { class: "n weak" }, words);

// ---- numbers --------------------------------------------------------------------------------------------------------

const count = (n) => (Math.abs(n) < 1e8 ? plain.format(n) : short3.format(n));
const percent = (share, digits = 1) => {
  const text = (100 * share).toFixed(digits);
  if (share > 0 && Number(text) === 0) return `<${(10 ** -digits).toFixed(digits)}%`;
  return share < 1 && Number(text) === 100 ? `>${(100 - 10 ** -digits).toFixed(digits)}%` : `${text}%`;
};
const many = (n, what, plural = `${what}s`) => `${count(n)} ${n === 1 ? what : plural}`;

function ago(seconds) {
  if (seconds < 2) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

function duration(ms) {
  const s = ms / 1000;
  if (s < 120) return `${one.format(s)} s`;
  if (s < 7200) return `${one.format(s / 60)} min`;
  return s < 172800 ? `${one.format(s / 3600)} h` : `${one.format(s / 86400)} days`;
}

const moment = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 16) + " UTC";

// ---- charts ---------------------------------------------------------------------------------------------------------

const charts = new Map();
const observer = new ResizeObserver((entries) => {
  for (const { target } of entries) if (charts.has(target)) draw(target);
});

/* A chart: {label, height, x, y, series, mark}
   x, y: {title, kind: "linear" | "log" | "time", format, ticks}    series: [{name, kind, points: [[x, y], ...], dashed, step, area}] */
function chart(id, spec) {
  const figure = byId(id);
  const isNew = !charts.has(figure);
  charts.set(figure, { spec, width: 0 });
  if (isNew) observer.observe(figure);
  draw(figure, true);
}

function draw(figure, always = false) {
  const state = charts.get(figure);
  const width = Math.floor(figure.clientWidth);
  if (!width || (!always && width === state.width)) return;
  state.width = width;
  const { spec } = state;
  const series = spec.series.filter((each) => each.points.length);
  if (!series.length) {
    figure.replaceChildren(element("p", { class: "empty" }, spec.empty || "nothing yet"));
    return;
  }
  const height = spec.height;
  const all = series.flatMap((each) => each.points);
  const y = scale(
    spec.y,
    all.map((point) => point[1]),
    Math.max(2, Math.floor(height / 55)),
  );
  const labels = y.ticks.map((tick) => y.format(tick));
  const box = {
    left: 14 + 7 * Math.max(...labels.map((label) => label.length), 2),
    right: width - 14,
    top: 22,
    bottom: height - 40,
  };
  const x = scale(
    spec.x,
    all.map((point) => point[0]),
    Math.max(2, Math.floor((box.right - box.left) / 95)),
  );
  x.to(box.left, box.right);
  y.to(box.bottom, box.top);
  const svg = drawn("svg", { role: "img", "aria-label": spec.label, width, height, viewBox: `0 0 ${width} ${height}` });
  y.ticks.forEach((tick, i) => {
    svg.append(
      drawn("line", { class: "gridline", x1: box.left, x2: box.right, y1: y.at(tick), y2: y.at(tick) }),
      drawn("text", { x: box.left - 7, y: y.at(tick) + 4, "text-anchor": "end" }, labels[i]),
    );
  });
  svg.append(drawn("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  x.ticks.forEach((tick) => {
    const label = x.format(tick);
    const at = x.at(tick);
    const anchor = at + 3.4 * label.length > width ? "end" : at - 3.4 * label.length < 0 ? "start" : "middle";
    svg.append(
      drawn("line", { class: "axis", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4 }),
      drawn("text", { x: anchor === "end" ? box.right + 8 : at, y: box.bottom + 17, "text-anchor": anchor }, label),
    );
  });
  svg.append(
    drawn("text", { class: "title", x: 0, y: 11 }, spec.y.title),
    drawn(
      "text",
      { class: "title", x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" },
      spec.x.title,
    ),
  );
  if (spec.mark && spec.mark.x !== null) {
    const at = x.at(spec.mark.x);
    const isRight = at > (box.left + box.right) / 2;
    svg.append(
      drawn("line", { class: "mark", x1: at, x2: at, y1: box.top, y2: box.bottom }),
      drawn(
        "text",
        { class: "markwords", x: at + (isRight ? -7 : 7), y: box.top + 12, "text-anchor": isRight ? "end" : "start" },
        spec.mark.words,
      ),
    );
  }
  for (const each of series) {
    const path = pathOf(each, x, y);
    const group = drawn("g", { class: `s-${each.kind}` });
    if (each.area) {
      const last = each.points[each.points.length - 1];
      const down = `L${x.at(last[0])},${box.bottom}L${x.at(each.points[0][0])},${box.bottom}Z`;
      group.append(drawn("path", { class: "area", d: path + down }));
    }
    group.append(drawn("path", { class: each.dashed ? "line dashed" : "line", d: path }));
    if (each.points.length === 1)
      group.append(drawn("circle", { cx: x.at(each.points[0][0]), cy: y.at(each.points[0][1]), r: 4.5 }));
    svg.append(group);
  }
  const legend = element("div", { class: "legend" });
  const pointer = drawn("g", {});
  svg.append(pointer);
  const show = (position) => {
    legend.replaceChildren();
    pointer.replaceChildren();
    let shownX = null;
    for (const each of series) {
      const point = position === null ? each.points[each.points.length - 1] : nearest(each, x, position);
      const value = position === null && spec.hideLast ? null : element("b", {}, ` ${spec.y.read(point[1])}`);
      legend.append(
        element(
          "span",
          {},
          element("span", { class: `key s-${each.kind} ${each.dashed ? "dashed" : ""}` }),
          each.name,
          value ?? "",
        ),
      );
      if (position !== null) {
        pointer.append(
          drawn("g", { class: `s-${each.kind}` }, drawn("circle", { cx: x.at(point[0]), cy: y.at(point[1]), r: 4.5 })),
        );
        shownX = shownX === null ? point[0] : shownX;
      }
    }
    if (shownX !== null) {
      pointer.prepend(
        drawn("line", { class: "cursor", x1: x.at(shownX), x2: x.at(shownX), y1: box.top, y2: box.bottom }),
      );
      legend.append(element("span", { class: "at" }, spec.x.read(shownX)));
    }
  };
  show(null);
  svg.addEventListener("pointermove", (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    show(Math.min(box.right, Math.max(box.left, at)));
  });
  svg.addEventListener("pointerleave", () => show(null));
  figure.replaceChildren(legend, svg);
}

function scale(axis, values, nTicks) {
  const isLog = axis.kind === "log";
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (isLog) {
    low = axis.kind === "log" && axis.from !== undefined ? axis.from : 10 ** Math.floor(Math.log10(low));
    high = axis.tight ? high : 10 ** Math.ceil(Math.log10(high) - 1e-9);
    if (high <= low) high = low * 10;
  } else {
    low = axis.from !== undefined ? axis.from : low;
    if (high <= low) high = low + (axis.kind === "time" ? 1000 : 1);
  }
  let ticks;
  if (isLog) {
    ticks = [];
    for (let power = Math.ceil(Math.log10(low) - 1e-9); 10 ** power <= high * 1.001; power += 1)
      ticks.push(10 ** power);
    const step = Math.ceil(ticks.length / Math.max(nTicks, 2));
    ticks = ticks.filter((_, i) => i % step === 0);
  } else {
    const step = stepOf((high - low) / nTicks, axis.kind);
    if (!axis.tight && axis.kind !== "time") high = Math.ceil(high / step - 1e-9) * step;
    ticks = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) ticks.push(tick);
  }
  const put = isLog ? Math.log10 : (value) => value;
  let from = 0;
  let to = 1;
  return {
    ticks,
    format: (tick) => axis.format(tick, low),
    to(a, b) {
      from = a;
      to = b;
    },
    at: (value) =>
      from + ((to - from) * (put(isLog ? Math.max(value, low) : value) - put(low))) / (put(high) - put(low)),
  };
}

function stepOf(rough, kind) {
  if (kind === "time") {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];
    return 1000 * (steps.find((step) => step * 1000 >= rough) ?? 86400 * Math.ceil(rough / 86400000));
  }
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
  return kind === "whole" ? Math.max(1, step) : step;
}

function pathOf({ points, step }, x, y) {
  let path = "";
  let lastY = 0;
  points.forEach(([px, py], i) => {
    const at = x.at(px).toFixed(1);
    const height = y.at(py).toFixed(1);
    path += i === 0 ? `M${at},${height}` : step ? `L${at},${lastY}L${at},${height}` : `L${at},${height}`;
    lastY = height;
  });
  return path;
}

function nearest({ points }, x, position) {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x.at(points[middle][0]) <= position) low = middle;
    else high = middle;
  }
  return Math.abs(x.at(points[low][0]) - position) <= Math.abs(x.at(points[high][0]) - position)
    ? points[low]
    : points[high];
}

// ---- sections -------------------------------------------------------------------------------------------------------

let picture = null;
const drawnFrom = new Map();
const chosen = { time: "time", cumulative: "matches" };

/* Draws a section anew only if what it shows has changed. */
function section(name, values, work) {
  const key = JSON.stringify(values);
  if (drawnFrom.get(name) === key) return;
  drawnFrom.set(name, key);
  work();
}

function choice(id, key, options, redraw) {
  put(
    id,
    ...options.map(([value, words]) => {
      const button = element("button", { type: "button", "aria-pressed": String(chosen[key] === value) }, words);
      button.addEventListener("click", () => {
        chosen[key] = value;
        choice(id, key, options, redraw);
        redraw();
        byId(id).querySelector('[aria-pressed="true"]').focus();
      });
      return button;
    }),
  );
}

function showPicture() {
  const { card, numbers, history, balance, decisions } = picture;
  byId("tiles").hidden = byId("content").hidden = false;
  byId("name").textContent = card.name;
  document.title = `${card.name} · stream-curate`;
  section("tiles", [numbers, history.slice(-20)], showTiles);
  section("history", [history, numbers], showHistory);
  section("fate", numbers, showFate);
  section("balance", [balance, card.tail_count, picture.is_balance_current], showBalance);
  section("decisions", [decisions, card.tail_count], showDecisions);
  section("card", [card, report?.digest], showCard);
}

function tile(what, number, more, kind = "") {
  return element(
    "div",
    { class: `tile ${kind}` },
    element("p", { class: "what" }, what),
    element("p", { class: "number", title: plain.format(number) }, count(number)),
    element("p", { class: "rest" }, more),
  );
}

/* Whether each pair was decided on once and for good; else the table is settled now and then. */
const isFinal = () => picture.card.decisions === "final";

/* Above how many matches an entry is balanced, in words. Final decisions use up the threshold as the stream goes on. */
const limit = () => `${isFinal() ? "t·n/N" : "t"} = ${plain.format(picture.card.tail_count)}`;

function showTiles() {
  const n = picture.numbers;
  const rate = rateOf(picture.history);
  const of = (part, whole) => (whole ? percent(part / whole) : "none");
  put(
    "tiles",
    tile(
      "Records read",
      n.n_read,
      rate ? `${count(rate)} a second lately` : `${count(n.n_duplicate)} duplicates, ${count(n.n_rejected)} rejected`,
    ),
    tile("Unique pairs", n.n_unique, `${of(n.n_matched, n.n_unique)} match an entry`),
    ...(isFinal() ? finalFates(of) : fates(of)),
  );
}

function finalFates(of) {
  const { numbers: n, card } = picture;
  return [
    tile("Dropped", n.n_unique - n.n_admitted, `${of(n.n_unique - n.n_admitted, n.n_unique)} of unique, for good`),
    tile("Pool size", card.pool_size, `${of(n.n_unique, card.pool_size)} of it was read`),
    tile("Accepted", n.n_admitted, `${of(n.n_admitted, n.n_unique)} of unique, for good`, "chief"),
  ];
}

function fates(of) {
  const n = picture.numbers;
  return [
    tile("Admitted", n.n_admitted, `${of(n.n_admitted, n.n_unique)} of unique pairs`),
    tile("Evicted", n.n_evicted, "taken out at settles"),
    tile(
      "Curated",
      n.n_curated,
      n.n_curated || !n.n_pending
        ? `${of(n.n_curated, n.n_unique)} of unique${n.n_pending ? `, ${count(n.n_pending)} pending` : ""}`
        : `${count(n.n_pending)} await the first settle`,
      "chief",
    ),
  ];
}

/* Records a second over the last commits, if they are of the last minute; null for a report. */
function rateOf(history) {
  if (report || history.length < 2) return null;
  const last = history[history.length - 1];
  const recent = history.filter((point) => last.time_ms - point.time_ms < 60000);
  const first = recent[0];
  if (serverNow() - last.time_ms > 1000 * LIVE_S || last.time_ms - first.time_ms < 500) return null;
  return Math.round((1000 * (last.n_read - first.n_read)) / (last.time_ms - first.time_ms)) || null;
}

function showHistory() {
  choice(
    "time-axis",
    "time",
    [
      ["time", "by time"],
      ["records", "by records read"],
    ],
    showHistory,
  );
  const { history } = picture;
  const byTime = chosen.time === "time";
  const points = byTime
    ? history
    : history.filter((point, i) => i === history.length - 1 || point.n_read < history[i + 1].n_read);
  const at = (point) => (byTime ? point.time_ms : point.n_read);
  const start = history.length ? history[0].time_ms : 0;
  const spanMs = history.length ? history[history.length - 1].time_ms - start : 0;
  const x = byTime
    ? {
        kind: "time",
        title: `time (UTC), ${duration(spanMs)} in all`,
        format: (tick) => clock(tick, spanMs),
        read: (value) => clock(value, spanMs, true),
      }
    : {
        kind: "whole",
        from: 0,
        tight: true,
        title: "records read",
        format: (tick) => short.format(tick),
        read: (value) => `at ${count(value)} records`,
      };
  const y = { kind: "whole", from: 0, format: (tick) => short.format(tick), read: count };
  const known = (key) => points.filter((point) => point[key] !== null).map((point) => [at(point), point[key]]);
  const last = history[history.length - 1];
  chart("read-chart", {
    label: last
      ? `Records read: ${plain.format(last.n_read)}, of which ${plain.format(last.n_unique)} unique pairs`
      : "Records read",
    height: 190,
    x,
    y: { ...y, title: "records" },
    empty: "no commit has told its numbers yet",
    series: [
      { name: "read", kind: "read", points: known("n_read"), area: true },
      { name: "unique", kind: "target", points: known("n_unique"), dashed: true },
    ],
  });
  chart("kept-chart", {
    label: last
      ? `Pairs: ${plain.format(last.n_admitted ?? 0)} ${isFinal() ? "accepted" : "admitted"}, ${plain.format(last.n_evicted ?? 0)} evicted, ${plain.format(last.n_curated)} curated`
      : "Pairs kept",
    height: 230,
    x,
    y: { ...y, title: "pairs" },
    empty: "no commit has told its numbers yet",
    series: isFinal()
      ? [{ name: "accepted", kind: "curated", points: known("n_curated"), area: true }]
      : [
          { name: "admitted", kind: "admitted", points: known("n_admitted") },
          { name: "curated (settled)", kind: "curated", points: known("n_curated"), step: true, area: true },
          { name: "evicted", kind: "evicted", points: known("n_evicted"), step: true },
        ],
  });
}

function clock(ms, spanMs, full = false) {
  const text = new Date(ms).toISOString();
  if (full) return text.slice(0, 19).replace("T", " ");
  if (spanMs > 2 * 86400000) return text.slice(5, 10);
  return spanMs < 600000 ? text.slice(11, 19) : text.slice(11, 16);
}

function showFate() {
  const n = picture.numbers;
  const rows = [
    isFinal()
      ? ["curated", "Accepted", n.n_curated, "in the table, for good"]
      : ["curated", "Curated", n.n_curated, "in the settled table"],
    ["pending", "Pending", n.n_pending, "admitted, the next settle decides"],
    ["evicted", "Evicted", n.n_evicted, "admitted, then cut at a settle"],
    ["balanced", "Balanced away", n.dropped.balanced, "its entries had enough"],
    ["unmatched", "Unmatched", n.dropped.unmatched, "no entry stands in the text"],
    ["duplicate", "Duplicate", n.n_duplicate, "the pair came before"],
    ["forwarded", "Forwarded", n.n_forwarded, "read again in its own partition"],
    [
      "rejected",
      "Rejected",
      n.n_rejected,
      Object.entries(n.rejected)
        .map(([reason, k]) => `${reason} ${count(k)}`)
        .join(", ") || "no valid pair",
    ],
  ].filter(([kind, , k]) => k || !["forwarded", "pending", ...(isFinal() ? ["evicted"] : [])].includes(kind));
  const total = Math.max(1, n.n_read);
  put(
    "fate",
    element(
      "div",
      { class: "stack", "aria-hidden": "true" },
      ...rows.filter(([, , k]) => k > 0).map(([kind, , k]) => sized(element("i", { class: `f-${kind}` }), k / total)),
    ),
    tableOf(
      ["outcome", "records", "share"],
      rows.map(([kind, name, k, why]) => [
        [
          element("span", { class: `swatch f-${kind}`, "aria-hidden": "true" }),
          name,
          element("span", { class: "why" }, why),
        ],
        count(k),
        weak(percent(k / total)),
      ]),
    ),
  );
}

function showBalance() {
  const { balance, card, numbers } = picture;
  if (balance === null) {
    const words =
      card.settled_version === null ? "Shown once the table has been settled." : "The settled pairs are being read.";
    for (const id of ["cumulative-chart", "ranks-chart", "distance", "most-cut", "least-seen"])
      put(id, element("p", { class: "empty" }, words));
    for (const id of ["cumulative-words", "ranks-words", "least-words"]) put(id);
    return;
  }
  const t = plain.format(card.tail_count);
  put(
    "cumulative-words",
    `The ${many(balance.n_head, "head entry", "head entries")}, each matched more than ${limit()} times, hold ${percent(1 - balance.tail_share_before)} of all matches before balancing and ${percent(1 - balance.tail_share_after)} after.`,
  );
  put(
    "ranks-words",
    `Of ${many(balance.n_seen, "entry", "entries")} that were matched, most matched first. What is under ${isFinal() ? "t·n/N" : "t"} stays ${isFinal() ? "nearly " : ""}whole; what is above is drawn down towards it.`,
  );
  showCumulative();
  const { ranks } = balance;
  const line = (key) => ranks.rank.map((rank, i) => [rank, ranks[key][i]]).filter((point) => point[1] > 0);
  chart("ranks-chart", {
    label: `Matches of each entry by rank, on logarithmic axes: before, after, and the target of at most ${t}`,
    height: 300,
    hideLast: true,
    x: {
      kind: "log",
      tight: true,
      from: 1,
      title: "rank of the entry",
      format: (tick) => short.format(tick),
      read: (rank) => `around rank ${count(Math.round(rank))}`,
    },
    y: {
      kind: "log",
      title: "matches of the entry",
      format: (tick) => short.format(tick),
      read: (value) => one.format(value),
    },
    series: [
      { name: "before", kind: "before", points: line("before") },
      { name: "after", kind: "after", points: line("after") },
      { name: `target min(c, ${t})`, kind: "target", points: line("target"), dashed: true },
    ],
  });
  const total = Math.max(balance.matches_before, 1);
  const figures = (rows, full) =>
    element(
      "div",
      { class: "figures" },
      ...rows.flatMap(([name, kind, share, words]) => [
        element("span", {}, name),
        meter(share / full, kind),
        element("span", { class: "n" }, words),
      ]),
    );
  const group = (title, ...rest) => element("div", {}, element("h3", { class: "sub" }, title), figures(...rest));
  const { distance_before: farBefore, distance_after: farAfter } = balance;
  put(
    "distance",
    element(
      "p",
      { class: "lead" },
      "The target gives every entry min(c, t) matches: all it has in the tail, t in the head. A pair brings all its entries along, so no set of pairs meets it exactly.",
    ),
    element(
      "div",
      { class: "groups" },
      group(
        "Total variation from the target",
        [
          ["before", "before", farBefore, farBefore.toFixed(3)],
          ["after", "", farAfter, farAfter.toFixed(3)],
        ],
        Math.max(farBefore, farAfter, 1e-9),
      ),
      group(
        "Share of matches that the tail has",
        [
          ["before", "before", balance.tail_share_before, percent(balance.tail_share_before)],
          ["after", "", balance.tail_share_after, percent(balance.tail_share_after)],
          ["target", "target", balance.tail_share_target, percent(balance.tail_share_target)],
        ],
        1,
      ),
      group(
        "Matches in all",
        [
          ["before", "before", balance.matches_before, count(balance.matches_before)],
          ["after", "", balance.matches_after, count(balance.matches_after)],
          ["target", "target", balance.matches_target, count(balance.matches_target)],
        ],
        total,
      ),
    ),
  );
  put(
    "most-cut",
    balance.most_cut.length === 0
      ? element("p", { class: "empty" }, "Nothing had to be cut: no entry is above t.")
      : tableOf(
          ["entry", "matched", "curated", "kept"],
          balance.most_cut.map((row) => [
            row.entry,
            count(row.count),
            count(row.curated),
            weak(percent(row.curated / row.count)),
          ]),
        ),
  );
  put(
    "least-words",
    `${many(balance.n_never_seen, "entry", "entries")} of ${count(card.n_entries)} never matched anything. Of those that did, some that were seen least, which keep ${isFinal() ? "nearly " : ""}all their pairs:`,
  );
  put(
    "least-seen",
    tableOf(
      ["entry", "matched", "curated"],
      balance.least_seen.map((row) => [row.entry, count(row.count), count(row.curated)]),
    ),
  );
  if (!picture.is_balance_current) byId("cumulative-words").append(" (The newest settle is being read.)");
}

function showCumulative() {
  choice(
    "cumulative-axis",
    "cumulative",
    [
      ["matches", "matches"],
      ["share", "share of all"],
    ],
    showCumulative,
  );
  const { balance, card } = picture;
  const { cumulative } = balance;
  const isShare = chosen.cumulative === "share";
  const line = (key) => {
    const all = cumulative[key][cumulative[key].length - 1] || 1;
    return cumulative.n_entries.map((n, i) => [n, isShare ? cumulative[key][i] / all : cumulative[key][i]]);
  };
  const y = isShare
    ? { format: (tick) => percent(tick, 0), read: (value) => percent(value) }
    : { format: (tick) => short.format(tick), read: count };
  chart("cumulative-chart", {
    label: `Matches added up over the entries from the least to the most matched: ${plain.format(balance.matches_before)} before, ${plain.format(balance.matches_after)} after`,
    height: 300,
    mark: {
      x: balance.n_head ? balance.n_seen - balance.n_head : null,
      words: `head: c > ${plain.format(card.tail_count)} →`,
    },
    x: {
      kind: "whole",
      from: 0,
      tight: true,
      title: "entries, from the least to the most matched",
      format: (tick) => short.format(tick),
      read: (n) => `the ${count(n)} least matched entries`,
    },
    y: { kind: "linear", from: 0, title: isShare ? "share of all matches, added up" : "matches, added up", ...y },
    series: [
      { name: "before", kind: "before", points: line("before") },
      { name: "after", kind: "after", points: line("after"), area: true },
      { name: "target", kind: "target", points: line("target"), dashed: true },
    ],
  });
}

// ---- decisions ------------------------------------------------------------------------------------------------------

const REJECTED_AS = {
  null_value: "the message is empty",
  too_large: "it is too large",
  bad_arrow: "it is no readable Arrow message",
  bad_schema: "its columns are not those of pairs",
  bad_json: "it is no JSON",
  json_not_object: "its JSON is no object",
  json_nan: "its JSON holds NaN",
  json_duplicate_key: "its JSON has a key twice",
  json_surrogate: "its JSON holds half a character",
  json_number: "its JSON holds too long a number",
  json_depth: "its JSON is nested too deep",
  bad_row: "the row has a wrong number of fields",
  invalid_utf8: "it is not UTF-8",
  url_missing: "it has no url",
  url_malformed: "its url is malformed",
  url_scheme: "its url is not http or https",
  text_too_long: "its text is too long",
};

let showsAll = false;
byId("more").addEventListener("click", () => {
  showsAll = !showsAll;
  showDecisions();
});

function showDecisions() {
  const { decisions, card, numbers } = picture;
  const dropped = numbers.dropped.balanced + numbers.dropped.unmatched + numbers.dropped.duplicate;
  put(
    "decisions-words",
    `Pairs that the table holds${report || isFinal() ? "" : ", pairs that this page saw leave it,"} and records that were rejected, with why. The ${count(dropped)} pairs dropped as they came are stored nowhere, so none of them can be shown. Urls are text, not links.`,
  );
  if (!decisions.length) return put("decisions", element("li", {}, element("p", { class: "lead" }, "nothing yet")));
  const shown = showsAll ? decisions : decisions.slice(0, N_DECISIONS);
  put(
    "decisions",
    ...shown.map((each) => (each.what === "rejected" ? rejectedRow(each) : pairRow(each, card.tail_count))),
  );
  byId("more").hidden = decisions.length <= N_DECISIONS;
  byId("more").textContent = showsAll ? "Show fewer" : `Show all ${decisions.length}`;
  return undefined;
}

function rejectedRow(each) {
  return element(
    "li",
    {},
    element("span", { class: "badge b-rejected" }, "rejected"),
    element(
      "div",
      {},
      element("p", { class: "caption" }, each.preview),
      element("p", { class: "reason" }, `No valid pair: ${REJECTED_AS[each.reason] ?? each.reason} (${each.reason}).`),
      element("p", { class: "url" }, `${each.source}, row ${plain.format(each.row)}`),
    ),
  );
}

function pairRow(each, threshold) {
  const rest = each.n_matched - each.entries.length;
  return element(
    "li",
    {},
    element("span", { class: `badge b-${each.what}` }, each.what),
    element(
      "div",
      {},
      element("p", { class: "caption" }, each.text),
      element("p", { class: "reason" }, reasonOf(each, threshold)),
      element("p", { class: "url" }, each.url ?? "(its url is not shown: the pair is no longer in the table)"),
      element(
        "div",
        { class: "chips" },
        ...each.entries.map((entry) =>
          element(
            "span",
            { class: entry.count <= threshold ? "chip tail" : "chip" },
            entry.entry,
            element("span", {}, count(entry.count)),
          ),
        ),
        rest > 0 ? element("span", { class: "chip" }, `and ${many(rest, "more entry", "more entries")}`) : null,
      ),
    ),
  );
}

function reasonOf(each, threshold) {
  const t = plain.format(threshold);
  const chance = percent(each.keep_probability);
  if (isFinal())
    return `Accepted for good when it came, by the counts of that time. Such a text would be accepted now with a chance of ${chance}.`;
  const rarest = each.entries[0];
  if (each.what === "evicted")
    return `Evicted at a settle: all its entries are above t = ${t} by now, and its draws keep it no longer. Such a text stays with a chance of ${chance}.`;
  const done = each.what === "kept" ? "Kept" : "Admitted";
  if (each.is_tail)
    return `${done} whatever its draws: “${rarest.entry}” is a tail entry, matched ${many(rarest.count, "time")} and so not above t = ${t}.`;
  return `${done} by a draw: all its entries are above t = ${t}, and such a text has a chance of ${chance}.`;
}

// ---- the data card --------------------------------------------------------------------------------------------------

function showCard() {
  const { card } = picture;
  const { counter } = card;
  const counterWords =
    counter.kind === "exact"
      ? "exact, 8 bytes an entry"
      : `count-min, ${counter.num_hashes} × ${plain.format(counter.num_buckets)} cells; a count is too high by more than ${one.format(card.counter_error_bound)} with a probability below ${card.counter_error_probability.toFixed(3)}`;
  const rows = [
    ["source", card.is_from_kafka ? card.origin : many(card.n_sources, "source")],
    [
      "decisions",
      isFinal()
        ? `final: no pair is taken back; near the distribution of offline MetaCLIP, and equal to no offline run`
        : "provisional until the table is settled: then it equals offline MetaCLIP",
    ],
    [
      isFinal() ? "cut" : "settled cut",
      card.settled_version === null
        ? "never settled"
        : `${count(card.settled_n_read)} records, in version ${card.settled_version} of the Delta table`,
    ],
    ["threshold t", plain.format(card.threshold)],
    isFinal() ? ["pool size N", `${plain.format(card.pool_size)} pairs, horizon ${card.horizon}`] : null,
    ["seed, fingerprint", element("code", {}, card.seed_fingerprint)],
    ["metadata", `${plain.format(card.n_entries)} entries, SHA-256 `, element("code", {}, card.metadata_sha256)],
    ["counter", counterWords],
    ["duplicates", card.dedup === "exact" ? "a pair that came before counts nothing" : "counted each time"],
    ["program", `${card.program}, validator version ${card.validator_version}`],
    report ? ["digest", element("code", {}, report.digest)] : null,
  ].filter((row) => row !== null);
  put("card", ...rows.flatMap(([name, ...value]) => [element("dt", {}, name), element("dd", {}, ...value)]));
  put(
    "cut",
    card.cut.length === 0
      ? element("p", { class: "empty" }, "No cut yet.")
      : tableOf(
          [card.is_from_kafka ? "partition" : "source", "below the cut"],
          card.cut.map((row) => [row.source, `${plain.format(row.position)} ${row.unit}`]),
        ),
    card.n_sources > card.cut.length
      ? element(
          "p",
          { class: "note" },
          `and ${count(card.n_sources - card.cut.length)} more; stream-curate inspect --json lists all`,
        )
      : null,
  );
}

// ---- the text box ---------------------------------------------------------------------------------------------------

let asked = 0;

function askFor(text) {
  return fetch("match", { method: "POST", headers: { "Content-Type": "text/plain;charset=utf-8" }, body: text });
}

async function ask() {
  const text = byId("text").value;
  asked += 1;
  const number = asked;
  if (text === "") return put("matched");
  if (byId("matched").childElementCount === 0) put("matched", element("p", { class: "lead" }, "looking …"));
  let response = null;
  try {
    response = await askFor(text);
  } catch {
    // told below, like any other refusal
  }
  const answer = response !== null && response.ok ? await response.json() : null;
  if (number !== asked) return undefined;
  if (answer === null) {
    const words =
      response !== null && response.status === 413
        ? "A text has at most 65,536 bytes."
        : "The server does not answer just now.";
    return put("matched", element("p", { class: "lead" }, words));
  }
  return showMatched(answer);
}

function showMatched(answer) {
  if (answer.refused !== null) {
    return put(
      "matched",
      element(
        "p",
        { class: "lead" },
        `A pair with this text would be rejected: ${REJECTED_AS[answer.refused] ?? ""} (${answer.refused}).`,
      ),
    );
  }
  const t = plain.format(answer.threshold);
  const words =
    answer.n_matched === 0
      ? "no entry matches: such a pair is always dropped"
      : answer.is_tail
        ? `a tail entry ${isFinal() ? "lets nearly every such pair in" : "keeps it"}`
        : `all of its entries are above ${isFinal() ? "t·n/N" : "t"} = ${t}`;
  return put(
    "matched",
    element(
      "p",
      { class: "verdict" },
      element(
        "span",
        { class: "number" },
        `${isFinal() ? "P(accept) now" : "P(keep)"} ${answer.keep_probability >= 1 ? "100%" : percent(answer.keep_probability)}`,
      ),
      element("span", { class: "words" }, words),
    ),
    answer.n_matched === 0
      ? null
      : element(
          "div",
          { class: "matches", role: "group", tabindex: "0", "aria-label": "Matched entries" },
          tableOf(
            [many(answer.n_matched, "matched entry", "matched entries"), "count", "keeps with"],
            answer.entries.map((row) => [
              row.entry,
              count(row.count),
              weak(row.keep_probability >= 1 ? "100%" : percent(row.keep_probability)),
            ]),
          ),
        ),
    answer.n_matched > answer.entries.length
      ? element("p", { class: "note" }, `The ${answer.entries.length} rarest of ${count(answer.n_matched)} are listed.`)
      : null,
  );
}

// ---- keeping up -----------------------------------------------------------------------------------------------------

const kept = byId("kept");
const report = kept === null ? null : JSON.parse(kept.textContent);
let tag = null;
let clockOffsetMs = 0;
let awaySince = null;

const serverNow = () => Date.now() + clockOffsetMs;

function showState() {
  const last = picture?.history.length ? picture.history[picture.history.length - 1].time_ms : null;
  const seconds = last === null ? null : Math.max(0, (serverNow() - last) / 1000);
  let state = "waiting";
  let words = "waiting for the first commit";
  if (report) [state, words] = ["report", "report"];
  else if (awaySince !== null) [state, words] = ["away", "server away"];
  else if (seconds !== null) [state, words] = seconds < LIVE_S ? ["live", "live"] : ["quiet", "quiet"];
  byId("status").dataset.state = state;
  if (byId("state").textContent !== words) byId("state").textContent = words;
  byId("age").textContent = report
    ? `of ${moment(report.written_ms)}`
    : seconds === null
      ? ""
      : `last commit ${ago(seconds)}`;
}

function showTrouble(words) {
  const shown =
    awaySince === null
      ? words
      : `The server has not answered since ${moment(awaySince)}. This is the last picture it gave; the page goes on asking.`;
  if (byId("trouble").textContent !== shown) byId("trouble").textContent = shown;
  byId("trouble").hidden = shown === "";
}

let trouble = "";

async function refresh() {
  try {
    const response = await fetch("picture", {
      cache: "no-store",
      headers: tag ? { "If-None-Match": tag } : {},
      signal: AbortSignal.timeout(30000),
    });
    if (response.status !== 304 && !response.ok) throw new Error(`status ${response.status}`);
    const date = Date.parse(response.headers.get("Date"));
    if (!Number.isNaN(date) && Math.abs(date - Date.now()) > 2000) clockOffsetMs = date - Date.now();
    if (response.status !== 304) {
      const given = await response.json();
      trouble = given.trouble;
      if (given.picture !== null) picture = given.picture;
      tag = response.headers.get("ETag");
    }
    awaySince = null;
  } catch {
    awaySince ??= Date.now();
  }
  if (picture !== null) showPicture();
  showTrouble(trouble);
  showState();
}

async function keepUp() {
  if (!document.hidden) await refresh();
  setTimeout(keepUp, REFRESH_MS);
}

if (report) {
  picture = report.picture;
  byId("box").remove();
  byId("far").classList.replace("half", "full");
  showPicture();
  showState();
} else {
  let typing = null;
  // the server makes its matcher for the first text: let it begin while the user types
  byId("text").addEventListener("focus", () => askFor("").catch(() => {}), { once: true });
  byId("text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(ask, TYPING_MS);
  });
  setInterval(showState, 1000);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  keepUp();
}
