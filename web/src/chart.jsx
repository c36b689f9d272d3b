// A chart of Observable Plot that is as wide as its place and redrawn when that changes.

import * as Plot from "@observablehq/plot";
import { useEffect, useRef, useState } from "preact/hooks";

export const POSITIVE = "var(--positive)";
export const NEGATIVE = "var(--negative)";
export const NEUTRAL = "var(--neutral)";

// options: a function of the width in pixels. label: what the chart shows, for those who hear it.
export function Chart({ options, label, caption }) {
  const place = useRef(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    observer.observe(place.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (!width) return;
    const { x, ...others } = options(width);
    const drawn = Plot.plot({ width, marginBottom: 42, x: { labelOffset: 38, ...x }, ...others });
    for (const part of drawn.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", label);
    place.current.replaceChildren(drawn);
  }, [width, options, label]);
  return (
    <figure>
      <div class="chart" ref={place} />
      {caption && <figcaption>{caption}</figcaption>}
    </figure>
  );
}

// The margin that names take beside a chart, at most two fifths of it, and how to cut them to it.
const LETTER = 7.2;
const TICK = 18;
export function beside(names, width) {
  const longest = Math.max(4, ...names.map((name) => name.length));
  const margin = Math.min(TICK + LETTER * longest, 0.4 * width);
  const most = Math.floor((margin - TICK) / LETTER);
  const tail = Math.floor((most - 1) / 2);
  const cut = (name) => (name.length > most ? `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}` : name);
  return { margin, cut };
}

// A tick of an axis of counts, which has no fractions.
export const count = (number) => (Number.isInteger(number) ? Math.abs(number).toLocaleString("en") : "");

// The keys of a chart's colours, each with a mark besides.
export function Keys({ keys }) {
  return (
    <ul class="keys">
      {keys.map(([colour, name]) => (
        <li>
          <span class="swatch" style={{ background: colour }} aria-hidden="true" /> {name}
        </li>
      ))}
    </ul>
  );
}
