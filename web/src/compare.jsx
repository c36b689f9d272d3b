// Questions on which two settings differ, with the transcripts of both.

import { useMemo, useState } from "preact/hooks";
import { read } from "./data.js";
import { List, useList } from "./list.jsx";
import { address, go } from "./route.js";
import { short, Text, Thinking } from "./text.jsx";
import { graded } from "./tree.jsx";
import { readIndex } from "./trees.jsx";

const FIELDS = "role adapter text thinking answer verdict finish".split(" ");
const SORTS = { "": ["id", null] };

// The share of seeds in which a setting was right.
const share = (item, setting) => item.outcomes[setting][0] / item.outcomes[setting][1];

export function Compare({ facts, route }) {
  const items = useMemo(readIndex, []);
  const { query } = route;
  const [, id] = route.path;
  const known = (name, other) => (facts.played.includes(name) ? name : other);
  const one = known(query.one, facts.played[0]);
  const others = [facts.against, ...facts.played].filter((name) => name !== one);
  const two = known(query.two, others[0] ?? one);
  const filters = useMemo(() => {
    const both = (item) => item.outcomes[one] && item.outcomes[two];
    const differ = (item) => (both(item) ? Math.sign(share(item, two) - share(item, one)) : 0);
    return {
      differ: ["differ", (item) => differ(item) !== 0],
      two: [`${two} better`, (item) => differ(item) > 0],
      one: [`${one} better`, (item) => differ(item) < 0],
      wrong: ["both wrong", (item) => both(item) && !share(item, one) && !share(item, two)],
      all: ["all", () => true],
    };
  }, [one, two]);
  const asked = { ...query, filter: query.filter ?? (one === two ? "all" : "differ") };
  const list = useList({ items, filters, sorts: SORTS, query: asked });
  const chosen = useMemo(() => items.find((item) => item.id === id), [items, id]);
  const change = (changes) => go(route.path, { ...query, ...changes }, { replace: true });
  const setting = (name, label, value) => (
    <label>
      {label}
      <select value={value} onChange={(event) => change({ [name]: event.currentTarget.value, page: "" })}>
        {facts.played.map((played) => <option value={played}>{played}</option>)}
      </select>
    </label>
  );
  const row = (item) => [one, two].map((name) => <span>{name} {right(item.outcomes[name])}</span>);
  return (
    <div class={`explorer ${id ? "chosen" : ""}`}>
      <div class="left">
        <h2>Questions</h2>
        <List list={list} query={asked} filters={filters} sorts={SORTS} current={id} row={row} change={(changes) =>
          change("filter" in changes ? { ...changes, filter: changes.filter || "all" } : changes)}
          href={(name) => address(["compare", name], { ...query, page: "" })}>
          {setting("one", "Compare", one)}
          {setting("two", "with", two)}
        </List>
      </div>
      <div class="right">
        {!id && <p class="note wide-only">Choose a question from the list.</p>}
        {id && !chosen && <p role="alert">There is no question {id} in these results.</p>}
        {chosen && <Question key={id} facts={facts} item={chosen} settings={[one, two]} back={address(["compare"], query)} />}
      </div>
    </div>
  );
}

function right(outcome) {
  if (!outcome) return "–";
  const [count, seeds, answer] = outcome;
  if (seeds === 1) return `${count ? "✓" : "✗"} ${answer == null ? "no answer" : short(answer, 20)}`;
  return `${count} of ${seeds} right`;
}

function Question({ facts, item, settings, back }) {
  const missing = item.place >= facts.sample.shown;
  const size = facts.questions_a_block;
  const played = missing ? null : read(`block-${1 + Math.floor(item.place / size)}`)[item.place % size];
  return (
    <article class="tree">
      <nav class="steps" aria-label="Questions"><a class="narrow-only" href={back}>All questions</a><span class="id"><code>{item.id}</code></span></nav>
      <h2 class="question"><Text>{item.question}</Text></h2>
      <p class="facts"><span>gold <b><Text>{item.gold}</Text></b></span></p>
      {missing && <p role="alert">Its transcripts are not in this page, which has those of {facts.sample.shown} of {facts.sample.questions} questions.</p>}
      <div class="sides">
        {played && [...new Set(settings)].map((name) => <Setting key={name} name={name} seeds={played[name] ?? {}} outcome={item.outcomes[name]} />)}
      </div>
    </article>
  );
}

function Setting({ name, seeds, outcome }) {
  const names = Object.keys(seeds).sort((a, b) => a - b);
  const [seed, setSeed] = useState(names[0]);
  const passes = Object.entries(seeds[seed] ?? {});
  return (
    <section aria-label={`Setting ${name}`}>
      <h3>{name}: {right(outcome)}</h3>
      {names.length > 1 && (
        <label class="check">
          Seed
          <select value={seed} onChange={(event) => setSeed(event.currentTarget.value)}>
            {names.map((each) => <option value={each}>{each}</option>)}
          </select>
        </label>
      )}
      {passes.length === 0 && <p class="note">It has no completions here.</p>}
      {passes.map(([number, turns]) => (
        <section>
          {passes.length > 1 && <h4>Pass {Number(number) + 1}</h4>}
          {turns.map((values, turn) => <Said turn={turn} said={Object.fromEntries(FIELDS.map((field, index) => [field, values[index]]))} />)}
        </section>
      ))}
    </section>
  );
}

function Said({ turn, said }) {
  return (
    <article class={`turn ${said.verdict === "right" ? "positive" : "negative"}`}>
      <header><b>{turn + 1}. {said.role}</b>{said.adapter && <small>with its adapter</small>}</header>
      <dl>
        <div><dt>answer</dt><dd><bdi>{said.answer == null ? "none" : short(said.answer, 80)}</bdi>{graded(said)}</dd></div>
        {said.finish === "length" && <div><dt>cut off</dt><dd>at the token limit</dd></div>}
      </dl>
      <Thinking>{said.thinking}</Thinking>
      <pre class="text" tabIndex={0}><Text>{said.text}</Text></pre>
    </article>
  );
}
