// The forest in numbers and charts.

import * as Plot from "@observablehq/plot";
import { useMemo } from "preact/hooks";
import { beside, Chart, count, Keys, NEGATIVE, NEUTRAL, POSITIVE } from "./chart.jsx";
import { rowsOf } from "./data.js";
import { percent, Section, Settings, Table, Value } from "./numbers.jsx";
import { address } from "./route.js";

const BINS = 20;

export function Overview({ facts }) {
  const tables = Object.fromEntries(facts.tables.map((table) => [table.id, table]));
  return (
    <>
      <Tiles facts={facts} tables={tables} />
      <Section table={tables.forest} turned heading="questions" open={false}>
        <Outcomes table={tables.forest} />
      </Section>
      <Section table={tables.roles} turned note={SIBLINGS}>
        <Labels table={tables.roles} />
      </Section>
      <Section table={tables.values} open={false}
        note={`The value of a node is the mean reward of the leaves under it; above ${facts.threshold} it is positive.`}>
        <Values table={tables.values} roles={facts.roles} threshold={facts.threshold} />
      </Section>
      {tables.verdicts.rows.length > 0 && (
        <Section table={tables.verdicts} turned
          note="What roles that judge say of the answer before them, and whether it is so.">
          <Verdicts table={tables.verdicts} />
        </Section>
      )}
      <Section table={tables.lengths} turned
        note="Characters of chosen and rejected texts. Where one side is mostly longer, a model may learn the length.">
        <Lengths table={tables.lengths} />
      </Section>
      <Section table={tables.confidence} turned
        note={`The probability that a label is right, given all leaves of its tree; unsure: below ${facts.sure}.`} />
      {facts.exports.rows.length > 0 && (
        <Section table={facts.exports} note="What each export wrote, and what it left out and why." />
      )}
      {facts.runs.length > 0 && <Runs runs={facts.runs} />}
      <Settings settings={facts.settings} />
    </>
  );
}

const SIBLINGS =
  "Usable pairs: siblings with different labels, before any export leaves one out.";

function Tiles({ facts, tables }) {
  const [forest] = rowsOf(tables.forest);
  const roles = rowsOf(tables.roles);
  const pairs = roles.reduce((sum, role) => sum + role.usable_pairs, 0);
  const last = roles.find((row) => row.role === facts.roles.at(-1));
  return (
    <dl class="tiles">
      <Tile name="trees" note={`of ${forest.questions.toLocaleString("en")} questions`}>
        <Value value={forest.trees} cell="forest/0/trees" />
      </Tile>
      <Tile name="mixed trees" note="they have something to teach" link={address(["trees"], { filter: "mixed" })}>
        <Value value={forest.mixed} cell="forest/0/mixed" />
      </Tile>
      <Tile name="usable pairs" note={roles.map((role) => `${role.role} ${role.usable_pairs.toLocaleString("en")}`).join(", ")}>
        {pairs.toLocaleString("en")}
      </Tile>
      {last && (
        <Tile name={`accuracy of the ${last.role}`} note={roles[0] === last ? "" : `${roles[0].role}: ${percent(roles[0].accuracy)}`}>
          <Value value={last.accuracy} column="accuracy" cell={`roles/${roles.indexOf(last)}/accuracy`} />
        </Tile>
      )}
      {roles.length > 1 && (
        <>
          <Tile name="fixed" note="of wrong first answers, by the last turn" link={address(["trees"], { filter: "rescued" })}>
            <Value value={forest.fix_rate} column="fix_rate" cell="forest/0/fix_rate" />
          </Tile>
          <Tile name="broken" note="of right first answers, by the last turn" link={address(["trees"], { filter: "spoiled" })}>
            <Value value={forest.break_rate} column="break_rate" cell="forest/0/break_rate" />
          </Tile>
        </>
      )}
    </dl>
  );
}

function Tile({ name, note, link, children }) {
  return (
    <div class="tile">
      <dt>{link ? <a href={link}>{name}</a> : name}</dt>
      <dd>
        <span class="big">{children}</span>
        {note && <small>{note}</small>}
      </dd>
    </div>
  );
}

function Outcomes({ table }) {
  const [forest] = rowsOf(table);
  const rows = [
    { name: "all wrong", trees: forest.all_wrong, colour: NEGATIVE },
    { name: "mixed", trees: forest.mixed, colour: NEUTRAL },
    { name: "all right", trees: forest.all_right, colour: POSITIVE },
  ];
  const options = useMemo(() => (width) => ({
    height: 84,
    marginLeft: 10,
    x: { label: "trees", tickFormat: count },
    marks: [
      Plot.barX(rows, Plot.stackX({ x: "trees", fill: "colour", order: null, inset: 1 })),
      Plot.textX(rows.filter((row) => row.trees / Math.max(1, forest.trees) > 70 / width),
        Plot.stackX({ x: "trees", text: (row) => `${row.name} ${row.trees}`, fill: "var(--on-colour)", order: null })),
    ],
  }), [table]);
  const label = rows.map((row) => `${row.name}: ${row.trees}`).join(", ");
  return (
    <>
      <Chart options={options} label={`Trees by outcome. ${label}`} />
      <Keys keys={rows.map((row) => [row.colour, `${row.name} (${row.trees.toLocaleString("en")})`])} />
    </>
  );
}

function Labels({ table }) {
  const roles = rowsOf(table);
  const rows = roles.flatMap(({ role, positives, negatives }) => [
    { role, count: positives, colour: POSITIVE },
    { role, count: -negatives, colour: NEGATIVE },
  ]);
  const names = roles.map((row) => row.role);
  const options = useMemo(() => (width) => ({
    height: 54 + 34 * roles.length,
    marginLeft: beside(names, width).margin,
    x: { label: "nodes, negatives to the left", tickFormat: count },
    y: { label: null, domain: names, tickFormat: beside(names, width).cut },
    marks: [Plot.barX(rows, { x: "count", y: "role", fill: "colour", inset: 2 }), Plot.ruleX([0])],
  }), [table]);
  const label = roles.map((row) => `${row.role}: ${row.positives} positive, ${row.negatives} negative`);
  return (
    <>
      <Chart options={options} label={`Labels by role. ${label.join("; ")}`} />
      <Keys keys={[[NEGATIVE, "− negative"], [POSITIVE, "+ positive"]]} />
    </>
  );
}

function Values({ table, roles, threshold }) {
  const rows = rowsOf(table).flatMap(({ role, bin, positives, negatives }) => [
    { role, low: bin, high: bin + 1 / BINS, count: negatives, colour: NEGATIVE },
    { role, low: bin, high: bin + 1 / BINS, count: positives, colour: POSITIVE },
  ]);
  const names = [...new Set(roles)];
  const options = useMemo(() => (width) => {
    const wide = width > 560;
    const { margin, cut } = beside(names, wide ? 2 * width / names.length : width);
    return {
      height: wide ? 190 : 120 * names.length + 40,
      marginLeft: 48,
      marginRight: wide ? 20 : margin,
      x: { label: "value", ticks: 3 },
      y: { label: "nodes", grid: true, ticks: 4 },
      [wide ? "fx" : "fy"]: { domain: names, label: null, tickFormat: cut },
      marks: [
        Plot.rectY(rows, Plot.stackY({ x1: "low", x2: "high", y: "count", fill: "colour", [wide ? "fx" : "fy"]: "role", inset: 0.5 })),
        Plot.ruleX([threshold], { strokeDasharray: "3,3" }),
        Plot.ruleY([0]),
      ],
    };
  }, [table]);
  return (
    <>
      <Chart options={options} label="Histograms of values by role; the numbers are in the table below"
        caption={`Dashed: the threshold, ${threshold}.`} />
      <Keys keys={[[NEGATIVE, "− negative"], [POSITIVE, "+ positive"]]} />
    </>
  );
}

const JUDGED = [
  ["true_acceptances", "right accepted", POSITIVE],
  ["true_rejections", "wrong rejected", "var(--positive-soft)"],
  ["unclear", "unclear", NEUTRAL],
  ["false_rejections", "right rejected", "var(--negative-soft)"],
  ["false_acceptances", "wrong accepted", NEGATIVE],
];

function Verdicts({ table }) {
  const judges = rowsOf(table).map((row) => ({ ...row, name: `${row.role}, turn ${row.depth}` }));
  const rows = judges.flatMap((judge) =>
    JUDGED.map(([column, , colour]) => ({ name: judge.name, count: judge[column], colour })),
  );
  const names = judges.map((judge) => judge.name);
  const options = useMemo(() => (width) => ({
    height: 60 + 36 * judges.length,
    marginLeft: beside(names, width).margin,
    x: { label: "judgements", tickFormat: count },
    y: { label: null, domain: names, tickFormat: beside(names, width).cut },
    marks: [Plot.barX(rows, Plot.stackX({ x: "count", y: "name", fill: "colour", order: null, inset: 1 })), Plot.ruleX([0])],
  }), [table]);
  const label = judges.map((judge) =>
    `${judge.name}: ${JUDGED.map(([column, name]) => `${name} ${judge[column]}`).join(", ")}`,
  );
  return (
    <>
      <Chart options={options} label={`Verdicts. ${label.join("; ")}`} />
      <Keys keys={JUDGED.map(([, name, colour]) => [colour, name])} />
    </>
  );
}

function Lengths({ table }) {
  const sides = rowsOf(table).flatMap((row) =>
    ["chosen", "rejected"].map((side) => ({
      name: `${row.role}, ${side}`,
      low: row[`${side}_q1`],
      median: row[`${side}_median`],
      high: row[`${side}_q3`],
      colour: side === "chosen" ? POSITIVE : NEGATIVE,
    })),
  );
  const names = sides.map((side) => side.name);
  const options = useMemo(() => (width) => ({
    height: 60 + 24 * sides.length,
    marginLeft: beside(names, width).margin,
    x: { label: "characters", zero: true, grid: true },
    y: { label: null, domain: names, tickFormat: beside(names, width).cut },
    marks: [
      Plot.barX(sides, { x1: "low", x2: "high", y: "name", fill: "colour", inset: 4 }),
      Plot.tickX(sides, { x: "median", y: "name", strokeWidth: 2 }),
    ],
  }), [table]);
  return (
    <Chart options={options} label="Lengths of chosen and rejected texts; the numbers are in the table below"
      caption="Bars: from the first to the third quartile; lines: medians." />
  );
}

const RUN = ["started", "trees", "failed", "completions", "prompt_tokens", "completion_tokens", "seconds", "tokens_per_second", "gpu"];

function Runs({ runs }) {
  const rows = runs.map((run) => RUN.map((name) => run[name]));
  return (
    <section>
      <h2>Builds</h2>
      <p class="note">The builds that grew this forest, each until it ended or was stopped.</p>
      <Table table={{ id: "runs", title: "Builds", columns: RUN, rows }} />
    </section>
  );
}
