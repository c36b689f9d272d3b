// One tree: its turns in columns or as branches, the texts of a path side by side, sibling pairs.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { read } from "./data.js";
import { typing } from "./list.jsx";
import { percent, shown } from "./numbers.jsx";
import { address, go, jump } from "./route.js";
import { Changes, short, Text, Thinking, useChanges } from "./text.jsx";

const FIELDS = "text thinking parent depth id answer verdict value label reward extra finish prompt_tokens completion_tokens confidence judgement".split(" ");
const VERDICTS = { right: "✓ right", wrong: "✗ wrong", unanswered: "no answer", timeout: "? not graded" };
const AT_ONCE = 50; // pairs of a list
const UNFOLDED = 80; // nodes of a tree whose branches are all open

// What the grader said of an answer, after it.
export const graded = (node) => (node.verdict === "unanswered" ? "" : `, ${VERDICTS[node.verdict] ?? node.verdict}`);

const JUDGED = { accepts: "accepts the answer before", rejects: "rejects the answer before", unclear: "unclear" };

function readTree(facts, item) {
  const size = facts.trees_a_block;
  const block = read(`block-${1 + Math.floor(item.place / size)}`);
  const { nodes, pairs } = block[item.place % size];
  const found = nodes.map((node, place) => {
    const named = { place, children: [] };
    FIELDS.forEach((name, index) => (named[name] = node[index]));
    return named;
  });
  for (const node of found) if (node.parent != null) found[node.parent].children.push(node);
  return { nodes: found, roots: found.filter((node) => node.parent == null), pairs };
}

export function Tree({ facts, item, node, query, back, previous, next }) {
  const tree = useMemo(() => readTree(facts, item), [item]);
  const title = useRef(null);
  useEffect(() => { if (!node) title.current?.focus({ preventScroll: true }); }, []);
  const link = (id) => address(["trees", item.id, ...id.split("/")], query);
  const branches = query.view === "branches";
  const select = (chosen) => {
    jump(link(chosen.id), { replace: true });
    requestAnimationFrame(() => document.getElementById(`node-${chosen.place}`)?.focus());
  };
  const path = pathTo(tree, node);
  useArrows(tree, path, select);
  return (
    <article class="tree">
      <nav class="steps" aria-label="Trees">
        <a class="narrow-only" href={back}>All trees</a>
        {previous && <a href={previous}>Previous <kbd aria-hidden="true">p</kbd></a>}
        {next && <a href={next}>Next <kbd aria-hidden="true">n</kbd></a>}
        <span class="id"><code>{item.id}</code></span>
      </nav>
      <h2 tabIndex={-1} ref={title} class="question"><Text>{item.question}</Text></h2>
      {item.choices && (
        <ol class="choices" type="A">{item.choices.map((choice) => <li><Text>{choice ?? ""}</Text></li>)}</ol>
      )}
      <p class="facts">
        <span>gold <b><Text>{item.gold}</Text></b></span>
        <span class={`mark ${item.outcome.replace(" ", "-")}`}>{item.outcome}</span>
        <span>value {shown(item.value)}</span>
        <span>{item.pairs} pairs</span>
        {item.misled > 0 && <span>misled {item.misled}×</span>}
        {item.rescued > 0 && <span>rescued {item.rescued}×</span>}
        {item.spoiled > 0 && <span>spoiled {item.spoiled}×</span>}
        {item.unsure > 0 && <span>{item.unsure} unsure labels</span>}
      </p>
      <p class="switch" role="group" aria-label="Layout of the tree">
        {["columns", "branches"].map((name) => (
          <button type="button" aria-pressed={branches === (name === "branches")}
            onClick={() => go(["trees", item.id, ...node.split("/").filter(Boolean)], { ...query, view: name === "branches" ? name : "" }, { replace: true })}>
            {name}
          </button>
        ))}
        <small class="note"><kbd>↑</kbd> <kbd>↓</kbd> siblings, <kbd>←</kbd> <kbd>→</kbd> turns</small>
      </p>
      {branches
        ? <Branches tree={tree} path={path} link={link} />
        : <Columns facts={facts} tree={tree} path={path} link={link} />}
      <Transcript facts={facts} path={path} link={link} />
      <Pairs key={path.at(-1).parent} facts={facts} tree={tree} node={path.at(-1)} link={link} />
    </article>
  );
}

// Return the nodes from the first turn down to `id`; without an id, to a leaf through a mixed parent.
function pathTo(tree, id) {
  let node = tree.nodes.find((candidate) => candidate.id === id);
  if (!node) {
    const mixed = (nodes) => nodes.some((one) => one.label) && nodes.some((one) => !one.label);
    const parents = tree.nodes.filter((one) => one.children.length);
    const telling = parents.filter((one) => mixed(one.children)).at(-1);
    node = (telling?.children.find((one) => one.label)) ?? tree.nodes.at(-1);
  }
  const path = [];
  for (let at = node; at; at = tree.nodes[at.parent]) path.unshift(at);
  return path;
}

function useArrows(tree, path, select) {
  useLayoutEffect(() => {
    const press = (event) => {
      if (typing(event) || event.shiftKey) return;
      const node = path.at(-1);
      const siblings = node.parent == null ? tree.roots : tree.nodes[node.parent].children;
      const at = siblings.indexOf(node);
      const target = {
        ArrowDown: siblings[at + 1],
        ArrowUp: siblings[at - 1],
        ArrowLeft: tree.nodes[node.parent],
        ArrowRight: node.children[0],
      };
      if (!(event.key in target) || event.target.closest?.(".scroll, pre")) return;
      event.preventDefault();
      if (target[event.key]) select(target[event.key]);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
}

function Columns({ facts, tree, path, link }) {
  const columns = facts.roles.map((role, turn) => ({
    role,
    nodes: turn === 0 ? tree.roots : path[turn - 1]?.children ?? [],
  }));
  const place = useRef(null);
  useLayoutEffect(() => {
    for (const node of place.current.querySelectorAll("ul .on")) show(node, node.closest("ul"));
  }, [path.at(-1)]);
  return (
    <div class="columns" ref={place} style={{ "--turns": columns.length }}>
      {columns.map(({ role, nodes }, turn) => (
        <section aria-label={`Turn ${turn + 1}: ${role}`}>
          <h3>{turn + 1}. {role}</h3>
          <ul>
            {nodes.map((node) => (
              <li><Node node={node} link={link} on={path.includes(node)} current={path.at(-1) === node} /></li>
            ))}
          </ul>
          {nodes.length === 0 && <p class="note">Choose a node before it.</p>}
        </section>
      ))}
    </div>
  );
}

// Scroll a list, but not the page, to where it shows a node.
function show(node, list) {
  const [inside, outside] = [node.getBoundingClientRect(), list.getBoundingClientRect()];
  if (inside.top < outside.top) list.scrollTop -= outside.top - inside.top;
  if (inside.bottom > outside.bottom) list.scrollTop += inside.bottom - outside.bottom;
}

function Branches({ tree, path, link }) {
  const [toggled, setToggled] = useState(new Set());
  const unfolded = tree.nodes.length <= UNFOLDED;
  const toggle = (node) => {
    const next = new Set(toggled);
    if (!next.delete(node)) next.add(node);
    setToggled(next);
  };
  const branch = (node) => {
    const open = (unfolded || path.includes(node)) !== toggled.has(node);
    return (
      <li>
        <div class="branch">
          {node.children.length > 0 && (
            <button type="button" aria-expanded={open} aria-label={`What follows ${node.id}`} onClick={() => toggle(node)}>
              {open ? "▾" : "▸"}
            </button>
          )}
          <Node node={node} link={link} current={path.at(-1) === node} on={path.includes(node)} />
        </div>
        {open && node.children.length > 0 && <ul>{node.children.map(branch)}</ul>}
      </li>
    );
  };
  return <ul class="branches">{tree.roots.map(branch)}</ul>;
}

function Node({ node, link, on, current }) {
  return (
    <a id={`node-${node.place}`} href={link(node.id)} class={`node ${node.label ? "positive" : "negative"} ${on ? "on" : ""}`}
      aria-current={current ? "true" : undefined} onClick={(event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        jump(link(node.id), { replace: true });
      }}>
      <span class="value">{node.label ? "+" : "−"} {node.value.toFixed(2)}</span>
      <span class="name">{node.id.split("/").at(-1)}</span>
      <b class="answer"><bdi>{node.answer == null ? "no answer" : short(node.answer, 24)}</bdi></b>
      {node.verdict !== "unanswered" && <span class="verdict">{VERDICTS[node.verdict] ?? node.verdict}</span>}
      <span class="snippet"><bdi>{short(node.text, 100)}</bdi></span>
    </a>
  );
}

const AGAINST = { before: "the turn before", first: "the first turn", "": "nothing" };

function Transcript({ facts, path, link }) {
  const [against, setAgainst] = useState("before");
  const other = (turn) => ({ before: path[turn - 1], first: path[0] })[against]?.text ?? null;
  return (
    <section class="transcript">
      <h3>Transcript</h3>
      {path.length > 1 && (
        <label class="check">
          Mark what differs from
          <select value={against} onChange={(event) => setAgainst(event.currentTarget.value)}>
            {Object.entries(AGAINST).map(([value, name]) => <option value={value}>{name}</option>)}
          </select>
        </label>
      )}
      <div class="turns" style={{ "--turns": path.length }}>
        {path.map((node, turn) => (
          <Turn role={facts.roles[turn]} turn={turn} node={node} before={turn ? other(turn) : null} link={link} />
        ))}
      </div>
    </section>
  );
}

function Turn({ role, turn, node, before, link }) {
  const parts = useChanges(before, node.text);
  return (
    <article class={`turn ${node.label ? "positive" : "negative"}`} aria-label={`Turn ${turn + 1}: ${role}`}>
      <header>
        <b>{turn + 1}. {role}</b>
        <a href={link(node.id)} aria-label={`Link to ${node.id}`}><code>{node.id}</code></a>
      </header>
      <dl>
        <Fact name="value">{shown(node.value)}, {node.label ? "positive (+)" : "negative (−)"}</Fact>
        {node.reward == null && node.confidence != null && <Fact name="confidence">{percent(node.confidence)}</Fact>}
        <Fact name="answer"><bdi>{node.answer == null ? "none" : short(node.answer, 80)}</bdi>{graded(node)}</Fact>
        {node.judgement && <Fact name="judgement">{JUDGED[node.judgement]}</Fact>}
        {node.finish === "length" && <Fact name="cut off">at the token limit</Fact>}
        {node.extra && <Fact name="extra">added by the adaptive build</Fact>}
        {node.completion_tokens != null && <Fact name="tokens">{shown(node.completion_tokens)}</Fact>}
      </dl>
      <Thinking>{node.thinking}</Thinking>
      <pre class="text" tabIndex={0}>{parts ? <Changes parts={parts} /> : <Text>{node.text}</Text>}</pre>
      {before != null && !parts && node.text !== "" && <p class="note">Too little in common to mark what differs.</p>}
    </article>
  );
}

function Fact({ name, children }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

function Pairs({ facts, tree, node, link }) {
  const [most, setMost] = useState(AT_ONCE);
  const siblings = node.parent == null ? tree.roots : tree.nodes[node.parent].children;
  const places = new Set(siblings.map((sibling) => sibling.place));
  const pairs = tree.pairs.filter(([, chosen]) => places.has(chosen));
  const role = facts.roles[node.depth - 1];
  return (
    <section class="pairs">
      <h3>Sibling pairs of this {role}</h3>
      {pairs.length === 0 ? <p class="note">None: all siblings have the same label, or there is only one.</p> : (
        <ul>
          {pairs.slice(0, most).map(([name, chosen, rejected, became]) => (
            <Pair key={`${chosen}/${rejected}`} chosen={tree.nodes[chosen]} rejected={tree.nodes[rejected]} link={link}
              became={facts.reasons[became] ? `left out of ${name}_dpo: ${became} (${facts.reasons[became]})` : `in ${name}_dpo, ${became}`} />
          ))}
        </ul>
      )}
      {pairs.length > most && (
        <button type="button" onClick={() => setMost(most + AT_ONCE)}>
          {AT_ONCE} more of {pairs.length.toLocaleString("en")}
        </button>
      )}
    </section>
  );
}

function Pair({ chosen, rejected, became, link }) {
  const [open, setOpen] = useState(false);
  return (
    <li>
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          <b>+ {chosen.id.split("/").at(-1)}</b> ({shown(chosen.value)}) over <b>− {rejected.id.split("/").at(-1)}</b> ({shown(rejected.value)}): {became}
        </summary>
        {open && <Sides chosen={chosen} rejected={rejected} link={link} />}
      </details>
    </li>
  );
}

function Sides({ chosen, rejected, link }) {
  const parts = useChanges(rejected.text, chosen.text);
  return (
    <div class="turns" style={{ "--turns": 2 }}>
      <article class="turn positive">
        <header><b>chosen</b> <a href={link(chosen.id)}><code>{chosen.id}</code></a></header>
        <pre class="text" tabIndex={0}>{parts ? <Changes parts={parts} /> : <Text>{chosen.text}</Text>}</pre>
      </article>
      <article class="turn negative">
        <header><b>rejected</b> <a href={link(rejected.id)}><code>{rejected.id}</code></a></header>
        <pre class="text" tabIndex={0}><Text>{rejected.text}</Text></pre>
      </article>
    </div>
  );
}
