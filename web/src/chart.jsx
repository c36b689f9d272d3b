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
