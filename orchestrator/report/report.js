// What a chart tells under the pointer, and with the arrow keys. The charts are there without it.
"use strict";
const tip = document.getElementById("tip"), said = document.getElementById("said");

function line(text, kind) {
  const row = document.createElement("p");
  if (kind !== undefined) row.append(Object.assign(document.createElement("span"), {className: "key c" + kind}));
  row.append(text);
  return row;
}

function show(plot, at, rows) {
  tip.replaceChildren(...rows);
  tip.hidden = false;
  const box = plot.querySelector("svg").getBoundingClientRect(), view = plot.querySelector("svg").viewBox.baseVal;
  const x = box.left + at[0] / view.width * box.width, y = box.top + at[1] / view.height * box.height;
  const left = x + 14 + tip.offsetWidth > innerWidth ? x - 14 - tip.offsetWidth : x + 14;
  tip.style.left = Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = Math.max(4, Math.min(y - 12, innerHeight - tip.offsetHeight - 4)) + "px";
  plot.classList.add("on");
}

function hide(plot) {
  tip.hidden = true;
  plot.classList.remove("on");
}

// places: one for each stop of the arrow keys, {at: [x, y], rows(), words}; move: shows on the picture where it is.
function attend(plot, places, near, move) {
  let now = -1;
  const go = (place, aloud) => {
    if (place < 0) return hide(plot);
    now = place;
    move(places[place].at);
    show(plot, places[place].at, places[place].rows());
    if (aloud) said.textContent = places[place].words;
  };
  plot.addEventListener("pointermove", (event) => {
    const svg = plot.querySelector("svg"), box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    go(near((event.clientX - box.left) / box.width * view.width, (event.clientY - box.top) / box.height * view.height));
  });
  plot.addEventListener("pointerleave", () => hide(plot));
  plot.addEventListener("blur", () => hide(plot));
  plot.addEventListener("keydown", (event) => {
    const last = places.length - 1;
    const next = {ArrowRight: now + 1, ArrowLeft: now < 0 ? last : now - 1, Home: 0, End: last}[event.key];
    if (event.key === "Escape") hide(plot);
    if (next === undefined) return;
    event.preventDefault();
    go(Math.max(0, Math.min(next, last)), true);
  });
}

function nearest(places, distance) {
  let best = -1, least = Infinity;
  places.forEach((place, number) => {
    const far = distance(place.at);
    if (far < least) [best, least] = [number, far];
  });
  return [best, least];
}

for (const plot of document.querySelectorAll("[data-chart]")) {
  const chart = JSON.parse(plot.dataset.chart), stops = new Map();
  for (const one of chart.series)
    for (const [x, y, place, value] of one.points) {
      if (!stops.has(x)) stops.set(x, {at: [x, y], place, values: []});
      stops.get(x).values.push([one.name, value, one.color]);
    }
  const places = [...stops.values()].sort((a, b) => a.at[0] - b.at[0]);
  for (const stop of places) {
    const head = chart.x + " " + stop.place;
    stop.rows = () => [line(head), ...stop.values.map(([name, value, color]) => line(name ? name + ": " + value : value, color))];
    stop.words = head + ", " + stop.values.map(([name, value]) => (name + " " + value).trim()).join(", ");
  }
  const cursor = plot.querySelector(".cursor");
  attend(plot, places, (x) => nearest(places, (at) => Math.abs(at[0] - x))[0], ([x]) => {
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
  });
}

for (const plot of document.querySelectorAll("[data-points]")) {
  const places = JSON.parse(plot.dataset.points).map(([x, y, side, text, image]) => ({
    at: [x, y],
    words: side + ": " + text,
    rows: () => {
      const rows = [line(side), line(text)];
      if (image) rows.unshift(Object.assign(new Image(64, 64), {src: image, alt: ""}));
      return rows;
    },
  }));
  const ring = plot.querySelector(".ring");
  const near = (x, y) => {
    const [place, far] = nearest(places, (at) => Math.hypot(at[0] - x, at[1] - y));
    return far < 24 ? place : -1;
  };
  attend(plot, places, near, ([x, y]) => {
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
  });
}
