// The trees of a forest: a list with search and filters, and the tree that is chosen.

import { useLayoutEffect, useMemo } from "preact/hooks";
import { read } from "./data.js";
import { List, typing, useList } from "./list.jsx";
import { shown } from "./numbers.jsx";
import { address, go } from "./route.js";
import { short } from "./text.jsx";
import { Tree } from "./tree.jsx";

const FILTERS = {
  all: ["all", () => true],
  mixed: ["mixed", (tree) => tree.outcome === "mixed"],
  right: ["all right", (tree) => tree.outcome === "all right"],
  wrong: ["all wrong", (tree) => tree.outcome === "all wrong"],
  misled: ["verifier misled", (tree) => tree.misled > 0],
  rescued: ["rescued", (tree) => tree.rescued > 0],
  spoiled: ["spoiled", (tree) => tree.spoiled > 0],
  unsure: ["unsure labels", (tree) => tree.unsure > 0],
  truncated: ["cut off", (tree) => tree.truncated > 0],
};
const SORTS = {
  "": ["id", null],
  pairs: ["most pairs", (tree) => -tree.pairs],
  turns: ["turns with pairs", (tree) => -tree.turns_with_pairs],
  hard: ["lowest value", (tree) => tree.value],
  easy: ["highest value", (tree) => -tree.value],
  misled: ["most misled", (tree) => -tree.misled],
  unsure: ["most unsure", (tree) => -tree.unsure],
};
const MARKS = { "all right": "+", "all wrong": "−", mixed: "±" };

// Return the items of the list, from the columns of the first block.
export function readIndex() {
  const { outcomes, ...columns } = read("block-0");
  const names = Object.keys(columns);
  return columns.id.map((id, place) => {
    const item = { place };
    for (const name of names) item[name] = columns[name][place];
    item.searched = `${id}\n${item.question}\n${item.gold}`.toLowerCase();
    if (outcomes) item.outcomes = Object.fromEntries(Object.entries(outcomes).map(([name, each]) => [name, each[place]]));
    return item;
  });
}

export function Trees({ facts, route }) {
  const items = useMemo(readIndex, []);
  const { query } = route;
  const [, id, ...node] = route.path;
  const list = useList({ items, filters: FILTERS, sorts: SORTS, query });
  const chosen = useMemo(() => items.find((item) => item.id === id), [items, id]);
  const href = (name) => address(["trees", name], { ...query, page: "" });
  const change = (changes) => go(route.path, { ...query, ...changes }, { replace: true });
  const at = list.kept.indexOf(chosen);
  const step = (by) => {
    const next = list.kept[at + by];
    if (next) go(["trees", next.id], { ...query, page: "" });
  };
  useLayoutEffect(() => {
    const press = (event) => {
      if (typing(event)) return;
      if (event.key === "n") step(1);
      if (event.key === "p") step(-1);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
  return (
    <div class={`explorer ${id ? "chosen" : ""}`}>
      <div class="left">
        <h2>Trees</h2>
        <Sample sample={facts.sample} />
        <List list={list} query={query} filters={FILTERS} sorts={SORTS} current={id} href={href} change={change}
          row={(tree) => (
            <>
              <span class={`mark ${tree.outcome.replace(" ", "-")}`}>{MARKS[tree.outcome]} {tree.outcome}</span>
              <span>value {shown(tree.value)}</span>
              <span>{tree.pairs} pairs</span>
              <span>gold <bdi>{short(tree.gold, 20)}</bdi></span>
            </>
          )} />
      </div>
      <div class="right">
        {!id && <p class="note wide-only">Choose a tree from the list, or press <kbd>n</kbd> for the first.</p>}
        {id && !chosen && <p role="alert">This page has no tree {id}. It may be one of those left out; see it in a terminal: <code>malt-data show {id}</code></p>}
        {chosen && (
          <Tree key={chosen.id} facts={facts} item={chosen} node={node.join("/")} query={query}
            back={address(["trees"], query)}
            previous={list.kept[at - 1] && href(list.kept[at - 1].id)}
            next={list.kept[at + 1] && href(list.kept[at + 1].id)} />
        )}
      </div>
    </div>
  );
}

function Sample({ sample }) {
  if (sample.shown === sample.trees) return null;
  const large = sample.too_large ? `, and not ${sample.too_large} that are larger than a quarter of the page` : "";
  return (
    <p class="note">
      A sample: the {sample.shown.toLocaleString("en")} of {sample.trees.toLocaleString("en")} trees with the smallest
      ids (hashes, so the sample has no bias) that fit in {Math.round(sample.budget / 1e6)} MB{large}. The overview is of
      the whole forest.
    </p>
  );
}
