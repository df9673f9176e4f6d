"use strict";
(() => {
  const told = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const decimals = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1, useGrouping: false });
  const ROW = 28; // pixels, of a row of the table
  const CELLS = 64; // along each side of the index of polygons
  const TILE = 512;

  // ---- polygons

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  const inflate = async (text) => {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  const counts = (data, out) => {
    let place = 0;
    for (let at = 0; at < data.length; ) {
      let value = 0;
      let factor = 1;
      for (;;) {
        const byte = data[at++];
        value += (byte & 127) * factor; // no shift: it would end at 32 bits
        if (byte < 128) break;
        factor *= 128;
      }
      out[place++] = value;
    }
    return place;
  };

  /** Reads the polygons of a run; coordinates become pixels of zoom 0 of the map. */
  const readPolygons = async (run) => {
    const packed = run.polygons;
    const n = packed.count;
    const [vertices, rings, parts, labels, scores, areas] = await Promise.all(
      ["vertices", "rings", "parts", "labels", "scores", "areas"].map((name) => inflate(packed[name])),
    );
    const raw = new Float64Array(vertices.length);
    const numbers = counts(vertices, raw);
    const points = new Float64Array(numbers);
    let x = 0;
    let y = 0;
    const signed = (value) => (value % 2 ? -(value + 1) / 2 : value / 2);
    for (let at = 0; at < numbers; at += 2) {
      x += signed(raw[at]);
      y += signed(raw[at + 1]);
      points[at] = run.steps.x + run.steps.k * x;
      points[at + 1] = run.steps.y + run.steps.k * y;
    }
    const lengths = new Float64Array(rings.length);
    const ringCount = counts(rings, lengths);
    const ringStart = new Uint32Array(ringCount + 1);
    for (let at = 0; at < ringCount; at++) ringStart[at + 1] = ringStart[at] + lengths[at];
    const partCount = new Float64Array(parts.length);
    counts(parts, partCount);
    const start = new Uint32Array(n + 1);
    for (let at = 0; at < n; at++) start[at + 1] = start[at] + partCount[at];
    const label = new Float64Array(labels.length);
    counts(labels, label);
    const polygons = {
      n, points, ringStart, start, label: Uint16Array.from(label.subarray(0, n)), score: scores,
      area: new Float32Array(areas.buffer, areas.byteOffset, n), box: new Float64Array(4 * n),
    };
    for (let at = 0; at < n; at++) {
      let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
      for (let v = ringStart[start[at]]; v < ringStart[start[at] + 1]; v++) {
        left = Math.min(left, points[2 * v]);
        right = Math.max(right, points[2 * v]);
        top = Math.min(top, points[2 * v + 1]);
        bottom = Math.max(bottom, points[2 * v + 1]);
      }
      polygons.box.set([left, top, right, bottom], 4 * at);
    }
    if (told.crs === "pixels") polygons.area = Float32Array.from({ length: n }, (_, at) => pixelsOf(polygons, at));
    polygons.index = indexOf(polygons, run);
    return polygons;
  };

  /** Returns how many pixels a polygon covers, less its holes, which run the other way. */
  const pixelsOf = (polygons, at) => {
    let twice = 0;
    for (let ring = polygons.start[at]; ring < polygons.start[at + 1]; ring++) {
      const [from, to] = [polygons.ringStart[ring], polygons.ringStart[ring + 1]];
      for (let v = from, w = to - 1; v < to; w = v++) {
        twice += polygons.points[2 * w] * polygons.points[2 * v + 1] - polygons.points[2 * v] * polygons.points[2 * w + 1];
      }
    }
    return Math.abs(twice) / 2;
  };

  /** Lists, for each of CELLS x CELLS cells over a run, the polygons whose box touches it. */
  const indexOf = (polygons, run) => {
    const [left, top, right, bottom] = run.bounds;
    const width = (right - left) / CELLS || 1;
    const height = (bottom - top) / CELLS || 1;
    const cut = (value) => Math.max(0, Math.min(CELLS - 1, Math.floor(value)));
    const span = (box, at) => [
      cut((box[at] - left) / width), cut((box[at + 1] - top) / height),
      cut((box[at + 2] - left) / width), cut((box[at + 3] - top) / height),
    ];
    const first = new Uint32Array(CELLS * CELLS + 1);
    const each = (tell) => {
      for (let at = 0; at < polygons.n; at++) {
        const [a, b, c, d] = span(polygons.box, 4 * at);
        for (let row = b; row <= d; row++) for (let col = a; col <= c; col++) tell(row * CELLS + col, at);
      }
    };
    each((cell) => first[cell + 1]++);
    for (let cell = 0; cell < CELLS * CELLS; cell++) first[cell + 1] += first[cell];
    const free = first.slice();
    const listed = new Uint32Array(first[CELLS * CELLS]);
    each((cell, at) => { listed[free[cell]++] = at; });
    const seen = new Uint32Array(polygons.n);
    let turn = 0;
    return (box) => {
      const [a, b, c, d] = span(box, 0);
      const found = [];
      turn++;
      for (let row = b; row <= d; row++) {
        for (let col = a; col <= c; col++) {
          const cell = row * CELLS + col;
          for (let at = first[cell]; at < first[cell + 1]; at++) {
            if (seen[listed[at]] !== turn) {
              seen[listed[at]] = turn;
              found.push(listed[at]);
            }
          }
        }
      }
      return found.sort((one, other) => one - other); // as they are stored: large ones below
    };
  };

  const touches = (box, at, other) =>
    box[at] <= other[2] && box[at + 2] >= other[0] && box[at + 1] <= other[3] && box[at + 3] >= other[1];

  const contains = (polygons, at, x, y) => {
    let inside = false;
    for (let ring = polygons.start[at]; ring < polygons.start[at + 1]; ring++) {
      const [from, to] = [polygons.ringStart[ring], polygons.ringStart[ring + 1]];
      for (let v = from, w = to - 1; v < to; w = v++) {
        const [vx, vy] = [polygons.points[2 * v], polygons.points[2 * v + 1]];
        const [wx, wy] = [polygons.points[2 * w], polygons.points[2 * w + 1]];
        if (vy > y !== wy > y && x < ((wx - vx) * (y - vy)) / (wy - vy) + vx) inside = !inside;
      }
    }
    return inside;
  };

  // ---- state

  const state = { run: 0, wanted: 0, polygons: null, hidden: new Set(), least: 0, opacity: 0.45, sort: "area", up: false, chosen: -1 };
  const cache = [];
  const shown = (at) => {
    const { polygons } = state;
    return !state.hidden.has(polygons.label[at]) && (polygons.score[at] === 255 || polygons.score[at] >= state.least);
  };

  // ---- map

  const pixels = told.crs === "pixels";
  const crs = pixels ? L.CRS.Simple : L.CRS.EPSG3857;
  const map = L.map("map", {
    crs, zoomSnap: 0.25, minZoom: pixels ? -8 : 2, maxZoom: pixels ? 5 : 24, attributionControl: Boolean(told.basemap),
    zoomAnimation: !matchMedia("(prefers-reduced-motion: reduce)").matches, fadeAnimation: false,
  });
  const place = (x, y) => crs.pointToLatLng(L.point(x, y), 0);
  const boundsOf = ([left, top, right, bottom]) => L.latLngBounds(place(left, top), place(right, bottom));
  if (told.basemap) L.tileLayer(told.basemap.url, { attribution: told.basemap.attribution, maxZoom: 24, maxNativeZoom: 19 }).addTo(map);
  const Scale = L.Control.Scale.extend({
    // of a map without CRS: its units are pixels
    _updateMetric(room) {
      const length = this._getRoundNum(room);
      this._updateScale(this._mScale, `${number.format(length)} px`, length / room);
    },
  });
  new (pixels ? Scale : L.Control.Scale)({ imperial: false }).addTo(map);
  map.createPane("found").style.zIndex = 450; // above the picture
  map.createPane("mark").style.zIndex = 460;

  // A tile is drawn on a sheet of its own, a few milliseconds at a time, and shown when it is whole: the map moves on
  // under 100,000 polygons, and what was drawn before stays until then.
  const SLICE = 12; // milliseconds of a frame
  const RATIO = Math.min(2, devicePixelRatio || 1);
  const canvas = () => {
    const made = document.createElement("canvas");
    made.width = made.height = TILE * RATIO;
    return made;
  };
  const sheet = canvas();
  const tiles = new Map(); // those on the map, to where they lie
  const waiting = new Map(); // those to be drawn, to what the map wants to be told then
  let current = null;
  let working = false;

  const work = () => {
    const end = performance.now() + SLICE;
    do {
      if (!current) {
        const [tile] = waiting.keys();
        if (!tile) {
          working = false;
          document.documentElement.dataset.drawn = "whole";
          return;
        }
        const context = sheet.getContext("2d");
        context.setTransform(RATIO, 0, 0, RATIO, 0, 0);
        context.clearRect(0, 0, TILE, TILE);
        current = { tile, steps: draw(context, tiles.get(tile)) };
      }
      if (current.steps.next().done) {
        const { tile } = current;
        const context = tile.getContext("2d");
        context.clearRect(0, 0, tile.width, tile.height);
        context.drawImage(sheet, 0, 0);
        const tell = waiting.get(tile);
        waiting.delete(tile);
        current = null;
        if (tell) tell(null, tile);
      }
    } while (performance.now() < end);
    requestAnimationFrame(work);
  };
  const begin = () => {
    if (working || !state.polygons) return;
    working = true;
    document.documentElement.dataset.drawn = "in part";
    work();
  };

  const Drawn = L.GridLayer.extend({
    createTile(coords, tell) {
      const tile = canvas();
      tiles.set(tile, coords);
      waiting.set(tile, tell);
      setTimeout(begin); // the map knows its tile only when this has returned
      return tile;
    },
    _wrapCoords: (coords) => coords, // Leaflet's counts anew at the antimeridian, polygons count on
    repaint() {
      current = null;
      for (const tile of tiles.keys()) if (!waiting.has(tile)) waiting.set(tile, null);
      begin();
    },
  });
  const drawn = new Drawn({ tileSize: TILE, pane: "found", updateWhenZooming: false, keepBuffer: 1, maxZoom: 30, minZoom: -10 });
  drawn.on("tileunload", ({ tile }) => {
    tiles.delete(tile);
    waiting.delete(tile);
    if (current && current.tile === tile) current = null;
  });

  const draw = function* (context, coords) {
    const { polygons } = state;
    const scale = crs.scale(coords.z) / crs.scale(0);
    const [x0, y0] = [coords.x * TILE, coords.y * TILE];
    const pad = 2 / scale;
    const box = [x0 / scale - pad, y0 / scale - pad, (x0 + TILE) / scale + pad, (y0 + TILE) / scale + pad];
    const classes = told.runs[state.run].classes;
    context.lineJoin = "round";
    context.lineWidth = 1.4;
    let spent = 0; // vertices since the last pause
    for (const at of polygons.index(box)) {
      if (spent > 1500) {
        yield;
        spent = 0;
      }
      spent += 3;
      if (!shown(at) || !touches(polygons.box, 4 * at, box)) continue;
      const color = classes[polygons.label[at]].color;
      context.fillStyle = context.strokeStyle = color;
      const [left, top, right, bottom] = polygons.box.subarray(4 * at, 4 * at + 4);
      if ((right - left) * scale < 3 && (bottom - top) * scale < 3) { // a dot, whatever its outline
        context.globalAlpha = Math.min(1, state.opacity * 1.6);
        context.fillRect(left * scale - x0, top * scale - y0, Math.max(1, (right - left) * scale), Math.max(1, (bottom - top) * scale));
        continue;
      }
      spent += polygons.ringStart[polygons.start[at + 1]] - polygons.ringStart[polygons.start[at]];
      context.beginPath();
      for (let ring = polygons.start[at]; ring < polygons.start[at + 1]; ring++) {
        let [px, py] = [NaN, NaN];
        for (let v = polygons.ringStart[ring]; v < polygons.ringStart[ring + 1]; v++) {
          const x = polygons.points[2 * v] * scale - x0;
          const y = polygons.points[2 * v + 1] * scale - y0;
          if (Math.abs(x - px) + Math.abs(y - py) < 0.7) continue; // nobody sees it
          if (Number.isNaN(px)) context.moveTo(x, y);
          else context.lineTo(x, y);
          [px, py] = [x, y];
        }
        context.closePath();
      }
      context.globalAlpha = state.opacity;
      context.fill("evenodd");
      context.globalAlpha = Math.min(1, state.opacity * 2.2);
      context.stroke();
    }
  };

  const overlays = { picture: null, labels: null };
  let mark = null;

  const outline = (at) => {
    const { polygons } = state;
    const rings = [];
    for (let ring = polygons.start[at]; ring < polygons.start[at + 1]; ring++) {
      const line = [];
      for (let v = polygons.ringStart[ring]; v < polygons.ringStart[ring + 1]; v++) line.push(place(polygons.points[2 * v], polygons.points[2 * v + 1]));
      rings.push(line);
    }
    return rings;
  };

  const choose = (at, { zoom = false } = {}) => {
    state.chosen = at;
    if (mark) mark.remove();
    mark = null;
    if (at >= 0) {
      const rings = outline(at);
      const line = (color, weight) => L.polygon(rings, { color, weight, fill: false, interactive: false, pane: "mark" });
      mark = L.layerGroup([line("#000c", 6), line("#fff", 3)]).addTo(map); // seen on snow and on tarmac
      if (zoom) map.fitBounds(boundsOf(state.polygons.box.subarray(4 * at, 4 * at + 4)), { maxZoom: map.getZoom() + 4, padding: [60, 60] });
    }
    table.paint();
  };

  const areaText = (area) => {
    if (Number.isNaN(area)) return "–";
    if (pixels) return `${number.format(area)} px`;
    if (area >= 1e9) return `${number.format(area / 1e6)} km²`;
    return area >= 1e6 ? `${(area / 1e6).toFixed(2)} km²` : `${area >= 100 ? number.format(area) : area.toFixed(1)} m²`;
  };
  const scoreText = (score) => (score === 255 ? "–" : (score / 254).toFixed(2));

  // ---- what is under the pointer

  const tip = byId("tip");
  let pointer = null;
  const under = (point) => {
    const { polygons } = state;
    if (!polygons) return -1;
    const at = crs.latLngToPoint(map.containerPointToLatLng(point), 0);
    const here = polygons.index([at.x, at.y, at.x, at.y]).reverse();
    const found = here.find((one) => shown(one) && touches(polygons.box, 4 * one, [at.x, at.y, at.x, at.y]) && contains(polygons, one, at.x, at.y));
    return found === undefined ? -1 : found;
  };

  /** Returns x and y in the CRS of the source: between the points that the page was told. */
  const inSource = (latlng) => {
    const { lattice, bounds } = told.runs[state.run];
    if (!lattice) return "";
    const { x, y } = crs.latLngToPoint(latlng, 0);
    const across = ((x - bounds[0]) / (bounds[2] - bounds[0])) * (lattice.side - 1);
    const down = ((y - bounds[1]) / (bounds[3] - bounds[1])) * (lattice.side - 1);
    if (!(across >= 0 && down >= 0 && across <= lattice.side - 1 && down <= lattice.side - 1)) return "";
    const [col, row] = [across, down].map((one) => Math.min(Math.floor(one), lattice.side - 2));
    const [u, v] = [across - col, down - row];
    const at = row * lattice.side + col;
    const between = (of) => (1 - v) * ((1 - u) * of[at] + u * of[at + 1]) + v * ((1 - u) * of[at + lattice.side] + u * of[at + lattice.side + 1]);
    return ` · ${lattice.name} ${decimals.format(between(lattice.x))}, ${decimals.format(between(lattice.y))}`;
  };

  const where = (latlng) => {
    if (pixels) return `column ${Math.floor(latlng.lng)}, row ${Math.floor(-latlng.lat)}`;
    const { lat, lng } = latlng.wrap(); // a map counts on beyond the antimeridian
    return `${Math.abs(lat).toFixed(5)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lng).toFixed(5)}° ${lng < 0 ? "W" : "E"}${inSource(latlng)}`;
  };

  const look = () => {
    if (!pointer) return;
    const { containerPoint, latlng } = pointer;
    pointer = null;
    byId("where").textContent = where(latlng);
    const at = under(containerPoint);
    tip.hidden = at < 0;
    if (at < 0) return;
    tip.style.left = tip.style.top = "0"; // its size is not that of what is left of the map
    const { polygons } = state;
    tip.querySelector("b").textContent = told.runs[state.run].classes[polygons.label[at]].name;
    tip.querySelector("span").textContent = `score ${scoreText(polygons.score[at])}, ${areaText(polygons.area[at])}`;
    const size = map.getSize();
    const beside = (at, room, length) => Math.max(4, at + 14 + length > room ? at - 14 - length : at + 14);
    tip.style.left = `${beside(containerPoint.x, size.x, tip.offsetWidth)}px`;
    tip.style.top = `${beside(containerPoint.y, size.y, tip.offsetHeight)}px`;
  };
  map.on("mousemove", (event) => {
    if (!pointer) requestAnimationFrame(look);
    pointer = event;
  });
  map.on("mouseout", () => { tip.hidden = true; });
  map.on("click", (event) => {
    const at = under(event.containerPoint);
    if (at >= 0) table.reveal(at);
    choose(at);
    pointer = event; // a finger has no other way to ask
    look();
  });

  // ---- table

  const table = (() => {
    const rows = byId("rows");
    const spacer = document.createElement("div");
    rows.append(spacer);
    let order = new Uint32Array(0);
    const made = new Map();

    const row = (index) => {
      const at = order[index];
      const { polygons } = state;
      const kind = told.runs[state.run].classes[polygons.label[at]];
      const line = document.createElement("div");
      line.className = "row";
      line.setAttribute("role", "option");
      line.id = `polygon-${at}`;
      line.setAttribute("aria-posinset", index + 1);
      line.setAttribute("aria-setsize", order.length);
      line.style.top = `${index * ROW}px`;
      line.dataset.at = at;
      const what = document.createElement("span");
      what.className = "what";
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = kind.color;
      const name = document.createElement("span");
      name.textContent = kind.name;
      what.append(swatch, name);
      const score = document.createElement("span");
      score.textContent = scoreText(polygons.score[at]);
      const area = document.createElement("span");
      area.textContent = areaText(polygons.area[at]);
      line.append(what, score, area);
      return line;
    };

    const paint = () => {
      const from = Math.max(0, Math.floor(rows.scrollTop / ROW) - 8);
      const to = Math.min(order.length, Math.ceil((rows.scrollTop + rows.clientHeight) / ROW) + 8);
      for (const [index, line] of made) {
        if (index < from || index >= to) {
          line.remove();
          made.delete(index);
        }
      }
      for (let index = from; index < to; index++) {
        if (!made.has(index)) {
          made.set(index, row(index));
          rows.append(made.get(index));
        }
        made.get(index).setAttribute("aria-selected", String(order[index] === state.chosen));
      }
      if (state.chosen >= 0) rows.setAttribute("aria-activedescendant", `polygon-${state.chosen}`);
      else rows.removeAttribute("aria-activedescendant");
    };

    const fill = () => {
      for (const line of made.values()) line.remove();
      made.clear();
      const { polygons } = state;
      if (!polygons) return; // they are still being read
      const kept = [];
      for (let at = 0; at < polygons.n; at++) if (shown(at)) kept.push(at);
      const key = { class: polygons.label, score: polygons.score, area: polygons.area }[state.sort];
      const sign = state.up ? 1 : -1;
      kept.sort((one, other) => sign * ((key[one] || 0) - (key[other] || 0)) || one - other);
      order = Uint32Array.from(kept);
      spacer.style.height = `${order.length * ROW}px`;
      byId("told").textContent = `${number.format(order.length)} of ${number.format(polygons.n)} polygons`;
      paint();
    };

    /** Scrolls to a row, as far as needed. */
    const reveal = (index) => {
      const top = index * ROW;
      if (top < rows.scrollTop) rows.scrollTop = top;
      if (top + ROW > rows.scrollTop + rows.clientHeight) rows.scrollTop = top + ROW - rows.clientHeight;
    };

    const step = (by) => {
      if (!order.length) return;
      const chosen = order.indexOf(state.chosen);
      const now = chosen >= 0 ? chosen : by > 0 ? -1 : order.length; // down enters from above, up from below
      const index = Math.max(0, Math.min(order.length - 1, now + by));
      reveal(index);
      choose(order[index]);
    };

    rows.addEventListener("scroll", () => requestAnimationFrame(paint));
    rows.addEventListener("click", (event) => {
      const line = event.target.closest(".row");
      if (line) choose(Number(line.dataset.at), { zoom: true });
    });
    rows.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -order.length, End: order.length }[event.key];
      if (by !== undefined) step(by);
      else if (event.key === "Enter" && state.chosen >= 0) choose(state.chosen, { zoom: true });
      else if (event.key === "Escape") choose(-1);
      else return;
      event.preventDefault();
    });
    for (const button of document.querySelectorAll("#sorts button")) {
      button.addEventListener("click", () => {
        state.up = state.sort === button.dataset.sort ? !state.up : button.dataset.sort === "class";
        state.sort = button.dataset.sort;
        for (const other of document.querySelectorAll("#sorts button")) other.removeAttribute("aria-sort");
        button.setAttribute("aria-sort", state.up ? "ascending" : "descending");
        fill();
      });
    }
    addEventListener("resize", paint);
    return { fill, paint, reveal: (at) => reveal(order.indexOf(at)) };
  })();

  // ---- controls

  /** Returns the labels of a run as a picture, clear where classes are hidden; two of one colour only go together. */
  const labelsOf = async (run, hidden) => {
    const colors = (wanted) => new Set(run.classes.flatMap(({ color }, label) => (hidden.has(label) === wanted ? [parseInt(color.slice(1), 16)] : [])));
    const [gone, kept] = [colors(true), colors(false)];
    for (const color of kept) gone.delete(color);
    if (!gone.size) return run.labels;
    const image = new Image();
    image.src = run.labels;
    await image.decode();
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [image.naturalWidth, image.naturalHeight];
    const context = sheet.getContext("2d");
    context.drawImage(image, 0, 0);
    const found = context.getImageData(0, 0, sheet.width, sheet.height);
    for (let at = 0; at < found.data.length; at += 4) {
      if (gone.has(found.data[at] * 65536 + found.data[at + 1] * 256 + found.data[at + 2])) found.data[at + 3] = 0;
    }
    context.putImageData(found, 0, 0);
    return new Promise((resolve) => { sheet.toBlob((blob) => resolve(URL.createObjectURL(blob))); });
  };
  let asked = 0;
  const relabel = async () => {
    if (!overlays.labels || !map.hasLayer(overlays.labels)) return;
    const now = ++asked;
    const url = await labelsOf(told.runs[state.run], state.hidden);
    if (now !== asked) {
      if (url.startsWith("blob:")) URL.revokeObjectURL(url);
      return;
    }
    const before = overlays.labels._url;
    if (url !== before) overlays.labels.setUrl(url);
    if (url !== before && before.startsWith("blob:")) URL.revokeObjectURL(before);
  };

  const again = () => {
    drawn.repaint();
    relabel();
    table.fill();
    if (state.chosen >= 0 && !shown(state.chosen)) choose(-1);
  };

  const covered = (label) => state.polygons.area.reduce((sum, area, at) => (state.polygons.label[at] === label ? sum + area : sum), 0);

  const legend = () => {
    byId("legend").replaceChildren(...told.runs[state.run].classes.map((kind, label) => {
      const item = document.createElement("li");
      const line = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !state.hidden.has(label);
      box.addEventListener("change", () => {
        if (box.checked) state.hidden.delete(label);
        else state.hidden.add(label);
        again();
      });
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = kind.color;
      const name = document.createElement("span");
      name.className = "name";
      name.textContent = name.title = kind.name;
      const count = document.createElement("span");
      count.className = "count";
      count.textContent = `${number.format(kind.polygons)} · ${areaText(pixels ? covered(label) : kind.area ?? NaN)}`;
      line.append(box, swatch, name, count);
      item.append(line);
      return item;
    }));
  };

  const swipe = byId("swipe");
  const slide = (share) => {
    const at = Math.max(0, Math.min(1, share));
    swipe.style.left = `${at * 100}%`;
    swipe.setAttribute("aria-valuenow", String(Math.round(at * 100)));
    clip();
  };
  const clip = () => {
    const pane = map.getPane("found");
    if (swipe.hidden) {
      pane.style.clipPath = "";
      return;
    }
    const size = map.getSize();
    const x = (size.x * Number(swipe.getAttribute("aria-valuenow"))) / 100;
    const [from, to] = [map.containerPointToLayerPoint([x, 0]), map.containerPointToLayerPoint(size)];
    pane.style.clipPath = `polygon(${from.x}px ${from.y}px, ${to.x}px ${from.y}px, ${to.x}px ${to.y}px, ${from.x}px ${to.y}px)`;
  };
  map.on("move zoom resize viewreset", clip);
  swipe.addEventListener("pointerdown", (event) => {
    swipe.setPointerCapture(event.pointerId);
    event.preventDefault();
    swipe.focus();
  });
  swipe.addEventListener("pointermove", (event) => {
    if (!swipe.hasPointerCapture(event.pointerId)) return;
    const box = byId("stage").getBoundingClientRect();
    slide((event.clientX - box.left) / box.width);
  });
  swipe.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -5, ArrowRight: 5, Home: -100, End: 100 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    slide((Number(swipe.getAttribute("aria-valuenow")) + by) / 100);
  });
  const pressed = (id, act) => {
    byId(id).addEventListener("click", () => {
      const on = byId(id).getAttribute("aria-pressed") !== "true";
      byId(id).setAttribute("aria-pressed", String(on));
      act(on);
    });
  };
  pressed("swiping", (on) => {
    swipe.hidden = !on;
    slide(0.5);
  });
  pressed("raster", (on) => {
    if (on) {
      drawn.remove();
      overlays.labels.addTo(map);
      relabel();
    } else {
      overlays.labels.remove();
      drawn.addTo(map);
    }
  });
  byId("fit").addEventListener("click", () => map.fitBounds(boundsOf(told.runs[state.run].bounds)));
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  byId("drawer").addEventListener("click", () => {
    const closed = document.body.classList.toggle("closed");
    byId("drawer").setAttribute("aria-expanded", String(!closed));
    map.invalidateSize();
    table.paint();
  });
  byId("opacity").addEventListener("input", (event) => {
    state.opacity = Number(event.target.value) / 100;
    byId("opacity-told").textContent = `${event.target.value} %`;
    if (overlays.labels) overlays.labels.setOpacity(Math.min(1, state.opacity * 1.4));
    drawn.repaint();
  });
  let wait = 0;
  byId("score").addEventListener("input", (event) => {
    state.least = Number(event.target.value) * 2.54;
    byId("score-told").textContent = (Number(event.target.value) / 100).toFixed(2);
    cancelAnimationFrame(wait);
    wait = requestAnimationFrame(again);
  });

  // ---- runs

  const show = async (index) => {
    state.wanted = index;
    const run = told.runs[index];
    cache[index] ||= readPolygons(run);
    const polygons = await cache[index];
    if (state.wanted !== index) return; // another was asked for meanwhile
    choose(-1);
    [state.run, state.polygons] = [index, polygons]; // together: until now all is as it was before
    state.hidden = new Set(told.runs[index].classes.flatMap((kind, label) => (hiddenNames.has(kind.name) ? [label] : [])));
    for (const one of [overlays.picture, overlays.labels]) if (one) one.remove();
    const area = boundsOf(run.bounds);
    overlays.picture = run.picture ? L.imageOverlay(run.picture, area, { className: "picture", zIndex: 1 }).addTo(map) : null;
    overlays.labels = L.imageOverlay(run.labels, area, { pane: "found", className: "crisp", opacity: Math.min(1, state.opacity * 1.4) });
    if (byId("raster").getAttribute("aria-pressed") === "true") {
      overlays.labels.addTo(map);
      relabel();
    } else drawn.addTo(map);
    byId("title").textContent = run.title;
    byId("about").textContent = run.about;
    byId("note").textContent = run.note;
    byId("note").hidden = !run.note;
    byId("date").textContent = run.date;
    legend();
    drawn.repaint();
    table.fill();
    if (!map.getBounds().intersects(area)) map.fitBounds(area);
    document.documentElement.dataset.ready = String(index);
  };
  const failed = (error) => {
    byId("note").textContent = `The polygons cannot be read by this browser: ${error.message}. One of 2023 or later can.`;
    byId("note").hidden = false;
  };
  const hiddenNames = new Set();
  byId("legend").addEventListener("change", () => {
    told.runs[state.run].classes.forEach((kind, label) => {
      if (state.hidden.has(label)) hiddenNames.add(kind.name);
      else hiddenNames.delete(kind.name);
    });
  });
  const time = byId("time");
  byId("times").hidden = told.runs.length < 2;
  time.max = String(told.runs.length - 1);
  time.addEventListener("input", () => {
    time.setAttribute("aria-valuetext", told.runs[Number(time.value)].date);
    show(Number(time.value)).catch(failed);
  });
  map.fitBounds(boundsOf(told.runs[0].bounds));
  map.getContainer().setAttribute("aria-label", "Map of what was found");
  show(0).then(() => { // the panel has its size now, and on a phone the map what is left
    map.invalidateSize({ animate: false });
    map.fitBounds(boundsOf(told.runs[0].bounds), { animate: false });
  }, failed);
})();
