"use strict";
// The neuron explorer: unpacks columns that stand on the page as inert text (neuronlens/report/explorer/embedded.py says how they are packed), and
// shows them as a table and as cards. Whatever comes from data goes in as text, never as markup. Nothing else on the page needs this.
(async () => {
  const part = (name) => document.getElementById(`explorer-${name}`);
  const data = JSON.parse(part("data").textContent);
  const { sites, concepts, tau, selections } = data;
  const C = concepts.length, N = data.neurons.listed, BINS = 64, SHOWN = 25;

  // unpacking
  const inflated = async (text) => {
    const binary = atob(text), packed = new Uint8Array(binary.length);
    for (let i = 0; i < packed.length; i++) packed[i] = binary.charCodeAt(i);
    const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter();
    writer.write(packed).then(() => writer.close());
    return new Response(stream.readable).arrayBuffer();
  };
  const json = async (text) => JSON.parse(new TextDecoder().decode(await inflated(text)));
  const taker = async (text) => { // gives one column after the other; their bytes stand plane by plane
    const bytes = new Uint8Array(await inflated(text));
    let at = 0;
    return (Type, count) => {
      const found = new Type(count), raw = new Uint8Array(found.buffer), width = Type.BYTES_PER_ELEMENT;
      for (let plane = 0; plane < width; plane++) for (let i = plane; i < raw.length; i += width) raw[i] = bytes[at++];
      return found;
    };
  };
  const decimals = (take, count) => {
    const smallest = take(Int16Array, 1)[0], value = new Float64Array(65536);
    for (let place = 0; place < 72; place++) {
      const unit = (place % 2 ? -1 : 1) * 10 ** (smallest + (place >> 1));
      for (let i = 0; i < 900; i++) value[1 + place * 900 + i] = (100 + i) * unit;
    }
    value.set([-Infinity, Infinity, NaN], 65533);
    return new Float64Array(take(Uint16Array, count)).map((code) => value[code]);
  };
  const take = await taker(data.rows), column = {}; // name -> a number for each row; NaN where nothing is known
  const site = take(Uint16Array, N), number = take(Int32Array, N);
  for (const name of data.columns) column[name] = decimals(take, N * C);
  column.alike = new Float64Array(take(Uint16Array, N * C));
  column.selected = new Float64Array(take(Uint8Array, N * C));
  const neuronOf = (row) => Math.floor(row / C), derived = (of) => new Float64Array(N * C).map((_, row) => of(row));
  const bound = (widths) => derived((row) => tau === null ? NaN : column.mean[row] + widths * column.std[row]);
  Object.assign(column, { neuron: derived(neuronOf), concept: derived((row) => row % C), lower: bound(-tau), upper: bound(tau) });
  const sharing = new Uint32Array(N); // by the top sets of settings, not by what was tuned
  column.selected.forEach((bits, row) => { sharing[neuronOf(row)] += (bits & 2 ** data.settings - 1) > 0; });
  column.shared = derived((row) => sharing[neuronOf(row)]);
  const details = async () => { // of single neurons
    const H = data.neurons.histograms, ofHistogram = await taker(data.histograms);
    const E = data.neurons.examples, ofExample = await taker(data.examples);
    const drawn = ofHistogram(Int32Array, H), low = ofHistogram(Float32Array, H), high = ofHistogram(Float32Array, H);
    const counts = ofHistogram(Uint32Array, H * C * BINS), told = ofExample(Int32Array, E), deep = ofExample(Uint8Array, 1)[0];
    const text = ofExample(Int32Array, E * 2 * deep), activation = decimals(ofExample, E * 2 * deep);
    return { drawn, low, high, counts, told, deep, text, activation, texts: await json(data.texts), effects: await json(data.effects) };
  };

  // writing
  const magnitude = (value) => Number(value.toExponential(2).split("e")[1]);
  const digits = (name, row) => name !== "lower" && name !== "upper" ? 3 // a bound has no digit beyond those of what it is worked out from
    : 3 + magnitude(column[name][row]) - Math.max(magnitude(column.mean[row]), magnitude(tau * column.std[row]));
  const written = (value, digits = 3) => {
    const size = Math.abs(value), sign = value < 0 ? "−" : "";
    if (Number.isNaN(value)) return "–";
    if (size === Infinity) return `${sign}∞`;
    if (size === 0 || digits < 1) return "0";
    if (size < 1e-3 || size >= 1e6) return sign + size.toExponential(digits - 1).replace("-", "−");
    const places = Math.max(0, digits - 1 - magnitude(value));
    return sign + (places ? size.toFixed(places) : Math.round(size).toLocaleString("en"));
  };
  const letters = (bits) => selections.filter((_, i) => bits >> i & 1).map((name) => name[0].toUpperCase()).join(" ");
  const nameOf = (neuron) => `${sites[site[neuron]]}:${number[neuron]}`;
  const cell = (name, row) => {
    const value = column[name][row];
    if (name === "concept" || name === "alike") return make("bdi", {}, concepts[value] ?? "");
    if (name === "selected") return letters(value);
    if (name === "shared") return String(value);
    return name.startsWith("dose") ? written(100 * value) : written(value, digits(name, row));
  };
  const filled = (made, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children); // strings become text
    return made;
  };
  const make = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
  const shape = (tag, attributes, ...children) => filled(document.createElementNS(part("figure").namespaceURI, tag), attributes, children);
  const line = (head, cells) => make("tr", {}, make("th", { scope: "row" }, head), ...cells.map((one) => make("td", {}, one)));
  const columnsOf = (name) => [...part(name).parentNode.querySelectorAll("thead th")];

  // what is shown, and the address that says so
  const DEFAULTS = { q: "", site: "", concept: "", by: "", min: "", sort: "-d_prime", page: "1", open: "", of: "" };
  const CONTROLS = ["q", "site", "concept", "by", "min"];
  const orders = {}, headers = columnsOf("rows"), ownColumns = columnsOf("own").slice(1).map((header) => header.dataset.column);
  let state = { ...DEFAULTS }, matches, unpacked; // the last when the first card is opened
  const address = (changes) => `#explorer?${new URLSearchParams(
    Object.entries({ ...state, ...changes }).filter(([name, value]) => value !== DEFAULTS[name]))}`;
  const remember = () => { try { history.replaceState(null, "", address({})); } catch { /* a page inside another may have no address */ } };
  const sorted = (key) => { // rows by a column; ties stay as they are listed, what is missing comes last
    const values = column[key.replace("-", "")], sign = key.startsWith("-") ? -1 : 1;
    const single = new Float32Array(values.map((value) => sign * value + 0)), bits = new Int32Array(single.buffer); // as whole numbers
    const rank = (row) => Number.isNaN(single[row]) ? 2 ** 31 - 1 : bits[row] ^ (bits[row] >> 31 & 0x7fffffff);
    // numbers, a rank in front of its row, are sorted several times faster than rows that are compared
    return new Uint32Array(values.map((_, row) => (rank(row) + 2 ** 31) * 2 ** 20 + row).sort().map((key) => key % 2 ** 20));
  };
  const filtered = () => {
    const query = state.q.trim().toLowerCase(), [, before, after] = query.match(/^(.*):(\d+)$/) ?? [];
    const pair = after !== undefined && sites.some((name) => name.toLowerCase().includes(before));
    const wanted = pair ? Number(after) : /^\d+$/.test(query) ? Number(query) : -1;
    const least = state.min === "" ? null : Number(state.min), mask = Number(state.by);
    const ofSite = part("site").selectedIndex - 1, ofConcept = part("concept").selectedIndex - 1;
    const siteFits = sites.map((name) => name.toLowerCase().includes(pair ? before : query));
    const conceptFits = concepts.map((name) => name.toLowerCase().includes(query));
    return (orders[state.sort] ??= sorted(state.sort)).filter((row) => {
      const neuron = neuronOf(row), concept = row % C, at = site[neuron];
      if ((ofSite >= 0 && at !== ofSite) || (ofConcept >= 0 && concept !== ofConcept)) return false;
      if ((mask && !(column.selected[row] & mask)) || (least !== null && !(column.d_prime[row] >= least))) return false;
      return pair ? siteFits[at] && number[neuron] === wanted : siteFits[at] || conceptFits[concept] || number[neuron] === wanted;
    });
  };
  const show = () => {
    matches = filtered();
    const pages = Math.max(1, Math.ceil(matches.length / SHOWN)), page = Math.min(Math.max(1, Math.floor(Number(state.page)) || 1), pages);
    const first = (page - 1) * SHOWN, shown = [...matches.subarray(first, first + SHOWN)];
    state.page = String(page);
    part("rows").replaceChildren(...shown.map((row) => {
      const open = nameOf(neuronOf(row)), of = concepts[row % C];
      const link = make("a", { href: address({ open, of }), "aria-label": `${open}, ${of}` }, open);
      return line(link, headers.slice(1).map((header) => cell(header.dataset.column, row)));
    }));
    for (const header of headers) {
      const name = header.dataset.column;
      header.setAttribute("aria-sort", state.sort === name ? "ascending" : state.sort === `-${name}` ? "descending" : "none");
    }
    const counted = (count) => count.toLocaleString("en");
    part("count").textContent = `${counted(matches.length)} of ${counted(N * C)} rows`;
    part("place").textContent = matches.length ? `${counted(first + 1)} to ${counted(first + shown.length)}` : "none";
    part("back").disabled = page === 1;
    part("on").disabled = page === pages;
    part("csv").disabled = !matches.length;
  };

  // a neuron's card
  const histogram = (image, { low, step, bins }, row, series, foot) => { // series: class and counts of each; foot: room for an axis
    const { width, height } = image.viewBox.baseVal, floor = height - foot, end = low + bins * step;
    const shares = series.map(([, own]) => Array.from(own.slice(0, bins), (count) => count / Math.max(1, own.reduce((a, b) => a + b))));
    const most = Math.max(...shares.flat()), y = (share) => (floor - share / most * (floor - 2)).toFixed(1);
    const x = (value) => Math.min(width, Math.max(0, (value - low) / (end - low) * width)).toFixed(1);
    const left = x(column.lower[row]), wide = Math.max(1, x(column.upper[row]) - left);
    image.replaceChildren(...tau === null ? [] : [shape("rect", { class: "band", x: left, y: 0, width: wide, height: floor })]);
    shares.forEach((own, i) => image.append(shape("path", { class: series[i][0], d: `M0 ${floor}${
      own.map((share, bin) => `V${y(share)}H${x(low + (bin + 1) * step)}`).join("")}V${floor}` })));
    const rough = (end - low) / 6, unit = 10 ** Math.floor(Math.log10(rough)), tick = unit * [1, 2, 5, 10].find((n) => n * unit >= rough);
    for (let i = Math.ceil(low / tick); foot && i * tick <= end; i++) {
      image.append(shape("path", { class: "tick", d: `M${x(i * tick)} ${floor}v4` }));
      image.append(shape("text", { x: x(i * tick), y: height - 1 }, String(Number((i * tick).toPrecision(7))).replace("-", "−")));
    }
  };
  const card = async () => {
    const neuron = site.findIndex((_, i) => nameOf(i) === state.open), concept = Math.max(0, concepts.indexOf(state.of));
    const { drawn, low, high, counts, told, deep, text, activation, texts, effects } = neuron < 0 ? {} : await (unpacked ??= details());
    part("card").hidden = neuron < 0;
    if (neuron < 0) return;
    const row = neuron * C + concept, place = drawn.indexOf(neuron), first = told.indexOf(neuron);
    const bins = counts.subarray(place * C * BINS, (place + 1) * C * BINS), binsOf = (c) => bins.subarray(c * BINS, (c + 1) * BINS);
    const used = 1 + bins.reduce((last, count, i) => count ? Math.max(last, i % BINS) : last, 0);
    const scale = { low: low[place], step: (high[place] - low[place]) / BINS, bins: used };
    const given = { histogram: place >= 0, "no-histogram": place < 0, told: first >= 0, "not-told": first < 0 };
    for (const [name, there] of Object.entries(given)) part(name).hidden = !there;
    part("name").replaceChildren(`${nameOf(neuron)}, `, make("bdi", {}, concepts[concept]));
    part("command").textContent = `neuronlens neuron AUDIT ${nameOf(neuron)}`;
    if (place >= 0) {
      const others = binsOf(concept).map((_, bin) => concepts.reduce((sum, _, c) => c === concept ? sum : sum + binsOf(c)[bin], 0));
      histogram(part("figure"), scale, row, [["complement", others], ["target", binsOf(concept)]], 20);
    }
    part("own").replaceChildren(...concepts.map((name, c) => {
      const strip = filled(part("figure").cloneNode(false), { viewBox: "0 0 160 26", class: "strip", id: "" }, []);
      if (place >= 0) histogram(strip, scale, neuron * C + c, [["target", binsOf(c)]], 0);
      const link = make("a", { href: address({ of: name }), "aria-current": c === concept }, make("bdi", {}, name));
      return line(link, ownColumns.map((one) => one === "strip" ? strip : cell(one, neuron * C + c)));
    }));
    const measured = effects.filter(([at, of, by]) => at === site[neuron] && of === concept && column.selected[row] >> by & 1);
    part("measured").hidden = !measured.length;
    part("effects").replaceChildren(...measured.map(([, , by, kind, ...numbers]) => line(`${kind}, ${selections[by]}`, numbers)));
    ["highest", "lowest"].forEach((end, side) => part(end).replaceChildren(...Array.from({ length: first < 0 ? 0 : deep }, (_, i) => {
      const at = (first * 2 + side) * deep + i, [of, shown] = texts[text[at]] ?? [-1, ""];
      return line(written(activation[at]), [make("bdi", {}, concepts[of] ?? "–"), make("bdi", { class: "text" }, shown)]);
    })));
  };

  // what a reader does
  const adopt = async (asked) => {
    state = { ...DEFAULTS, ...asked };
    if (!Object.hasOwn(column, state.sort.replace("-", ""))) state.sort = DEFAULTS.sort;
    for (const name of CONTROLS) {
      part(name).value = state[name];
      if (part(name).selectedIndex < 0) part(name).selectedIndex = 0; // a name that is not there selects nothing
      state[name] = part(name).value;
    }
    show();
    await card();
  };
  const addressed = () => location.hash.startsWith("#explorer?") && Object.fromEntries(new URLSearchParams(location.hash.split("?", 2)[1]));
  const changed = (changes) => {
    for (const name of CONTROLS) state[name] = part(name).value;
    Object.assign(state, { page: "1" }, changes);
    show();
    remember();
  };
  const on = (name, event, act) => part(name).addEventListener(event, act);
  for (const name of CONTROLS) on(name, "input", () => changed({}));
  for (const header of headers) {
    header.firstElementChild.addEventListener("click", () => {
      const name = header.dataset.column, usual = ["neuron", "concept", "alike"].includes(name) ? name : `-${name}`;
      changed({ sort: state.sort !== usual ? usual : usual === name ? `-${name}` : name });
    });
  }
  on("reset", "click", () => adopt({ open: state.open, of: state.of }).then(remember));
  for (const [name, step] of [["back", -1], ["on", 1]]) on(name, "click", () => changed({ page: String(Number(state.page) + step) }));
  on("close", "click", async () => {
    const label = `${state.open}, ${state.of}`;
    await adopt({ ...state, open: "", of: "" });
    remember();
    ([...part("rows").querySelectorAll("a")].find((one) => one.getAttribute("aria-label") === label) ?? part("q")).focus();
  });
  on("csv", "click", () => {
    // a spreadsheet calculates what begins so
    const quoted = (name) => `"${name.replace(/^[=+\-@＝＋－＠]/, "'$&").replaceAll('"', '""')}"`;
    const names = [...data.columns, "lower", "upper"];
    const plain = (name, row) => Number.isNaN(column[name][row]) ? "" : column[name][row].toPrecision(Math.max(1, digits(name, row)));
    const lines = Array.from(matches, (row) => [
      quoted(sites[site[neuronOf(row)]]), number[neuronOf(row)], quoted(concepts[row % C]), ...names.map((name) => plain(name, row)),
      quoted(concepts[column.alike[row]] ?? ""), letters(column.selected[row]), column.shared[row],
    ]);
    const text = [["site", "neuron", "concept", ...names, "alike", "selected", "shared"], ...lines].map((line) => `${line.join(",")}\r\n`);
    const url = URL.createObjectURL(new Blob(text, { type: "text/csv" }));
    make("a", { href: url, download: "neurons.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  });
  addEventListener("hashchange", async () => {
    if (!addressed()) return; // a link to a section
    await adopt(addressed());
    if (state.open) part("name").focus();
  });
  await adopt(addressed() || {});
  part("static").hidden = true;
  part("app").hidden = false;
  if (addressed()) part(state.open ? "card" : "app").scrollIntoView();
  performance.mark("explorer");
})();
