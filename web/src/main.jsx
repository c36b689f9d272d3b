// The page of a forest or of results.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Compare } from "./compare.jsx";
import { notices, read } from "./data.js";
import { Overview } from "./overview.jsx";
import "./page.css";
import { Results } from "./results.jsx";
import { address, useRoute } from "./route.js";
import { Trees } from "./trees.jsx";

const VIEWS = {
  forest: [["", "Overview", Overview], ["trees", "Trees", Trees]],
  results: [["", "Overview", Results], ["compare", "Compare", Compare]],
};

function App({ facts }) {
  const route = useRoute();
  const views = VIEWS[facts.kind];
  const [path, name, View] = views.find(([path]) => path === (route.path[0] ?? "")) ?? views[0];
  useEffect(() => { document.title = path ? `${name} – ${facts.title}` : facts.title; }, [path]);
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content").focus(); }}>Skip to the content</a>
      <header class="page">
        <h1>{facts.title}</h1>
        <nav aria-label="Views">
          {views.map(([target, label]) => (
            <a href={address(target ? [target] : [])} aria-current={target === path ? "page" : undefined}>{label}</a>
          ))}
        </nav>
        <Theme />
      </header>
      <main id="content" tabIndex={-1} class={path ? "wide" : "prose"}>
        <View facts={facts} route={route} />
      </main>
      <footer>
        <p>Made by malt-data {facts.malt_data}. This page is one file and loads nothing.</p>
        <Licences />
      </footer>
    </>
  );
}

function Licences() {
  const [open, setOpen] = useState(false);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Licences of its libraries</summary>
      {open && <pre tabIndex={0}>{notices()}</pre>}
    </details>
  );
}

const THEMES = { "": "system", light: "light", dark: "dark" };

function Theme() {
  const [theme, setTheme] = useState("");
  useEffect(() => { document.documentElement.dataset.theme = theme; }, [theme]);
  return (
    <label class="theme">
      Theme
      <select value={theme} onChange={(event) => setTheme(event.currentTarget.value)}>
        {Object.entries(THEMES).map(([value, name]) => <option value={value}>{name}</option>)}
      </select>
    </label>
  );
}

const place = document.getElementById("app");
place.replaceChildren();
render(<App facts={read("facts")} />, place);
