// An evaluation in numbers and charts: the paper's tables and figures.

import * as Plot from "@observablehq/plot";
import { useMemo } from "preact/hooks";
import { beside, Chart, Keys, NEGATIVE, POSITIVE } from "./chart.jsx";
import { rowsOf } from "./data.js";
import { Section, Settings } from "./numbers.jsx";

const PERCENT = (share) => `${Math.round(100 * share)}`;

export function Results({ facts }) {
  const tables = Object.fromEntries(facts.tables.map((table) => [table.id, table]));
  return (
    <>
      <Section table={tables.accuracy} note={`Share of right answers with a 95 % interval. behind: how far a setting is behind ${facts.against}, with a paired test over questions, corrected by Holm.`}>
        <Accuracy table={tables.accuracy} />
      </Section>
      <Section table={tables.turns} heading="setting" open={false} note="Of single passes; dashed: of the vote over all passes.">
        <Turns table={tables.turns} />
      </Section>
      <Section table={tables.flips} open={false} note="Within a pass, from its first turn to its last; the table also has changes against the other settings.">
        <Flips table={tables.flips} />
      </Section>
      <Section table={tables.votes} open={false} note="With 1, 3, 5, … passes out of the same samples.">
        <Votes table={tables.votes} />
      </Section>
      {tables.verdicts.rows.length > 0 && <Section table={tables.verdicts} note="What roles that judge say of the answer before them, and whether it is so." />}
      <Section table={tables.cost} note="Of a question, training not included; ratios are to the baseline's.">
        <Cost table={tables.cost} />
      </Section>
      <Settings settings={facts.settings} />
    </>
  );
}

function Accuracy({ table }) {
  const rows = rowsOf(table);
  const names = rows.map((row) => row.setting);
  const options = useMemo(() => (width) => ({
    height: 60 + 24 * rows.length,
    marginLeft: beside(names, width).margin,
    x: { label: "accuracy, %", grid: true, zero: true, tickFormat: PERCENT },
    y: { label: null, domain: names, tickFormat: beside(names, width).cut },
    marks: [
      Plot.ruleY(rows, { x1: "low", x2: "high", y: "setting", strokeWidth: 2 }),
      Plot.dot(rows, { x: "mean", y: "setting", fill: POSITIVE, r: 5 }),
    ],
  }), [table]);
  return <Chart options={options} label="Accuracy of each setting with its interval; the numbers are in the table below" />;
}

const HEIGHT = 300;

// Return the rows with `at`, where their names go: a line apart from those within `reach`.
function apart(rows, x, y, reach = Infinity) {
  const line = (15 / (HEIGHT - 62)) * highest(rows, y);
  const placed = [];
  for (const row of [...rows].sort((a, b) => b[y] - a[y])) {
    const near = placed.filter((other) => Math.abs(other[x] - row[x]) <= reach);
    placed.push({ ...row, at: Math.min(row[y], ...near.map((other) => other.at - line)) });
  }
  return placed;
}

const highest = (rows, ...columns) => Math.max(0.01, ...rows.flatMap((row) => columns.map((column) => row[column] ?? 0)));

// A line for each setting, named at its end.
function lines(rows, x, y, cut) {
  const last = new Map(rows.map((row) => [row.setting, row]));
  return [
    Plot.lineY(rows, { x, y, z: "setting", stroke: "setting" }),
    Plot.dot(rows, { x, y, fill: "setting", r: 3 }),
    Plot.text(apart([...last.values()], x, y), { x, y: "at", text: (row) => cut(row.setting), textAnchor: "start", dx: 7, fill: "currentColor" }),
  ];
}

// Return the rows of the settings that go beyond `least` in a column, so that there is a line to draw.
function beyond(table, column, least) {
  const rows = rowsOf(table);
  const settings = new Set(rows.filter((row) => row[column] > least).map((row) => row.setting));
  return rows.filter((row) => settings.has(row.setting));
}

const COLOUR = { scheme: "Observable10" };

function Turns({ table }) {
  const rows = beyond(table, "turn", 0);
  const roles = Object.fromEntries(rows.map((row) => [row.turn, row.role]));
  const options = useMemo(() => (width) => {
    const { margin, cut } = beside(rows.map((row) => row.setting), width);
    return {
      height: HEIGHT,
      marginRight: margin,
      color: COLOUR,
      x: { type: "point", label: null, domain: Object.keys(roles).map(Number), tickFormat: (turn) => roles[turn] },
      y: { label: "accuracy, %", grid: true, domain: [0, highest(rows, "accuracy", "voted")], nice: true, tickFormat: PERCENT },
      marks: [
        ...lines(rows, "turn", "accuracy", cut),
        Plot.lineY(rows.filter((row) => row.voted != null), { x: "turn", y: "voted", z: "setting", stroke: "setting", strokeDasharray: "4,3" }),
      ],
    };
  }, [table]);
  return rows.length ? <Chart options={options} label="Accuracy after each turn; the numbers are in the table" /> : null;
}

function Flips({ table }) {
  const inside = rowsOf(table).filter((row) => row.base == null);
  const rows = inside.flatMap((row) => [
    { setting: row.setting, share: row.wrong_to_right, colour: POSITIVE },
    { setting: row.setting, share: -row.right_to_wrong, colour: NEGATIVE },
  ]);
  const names = inside.map((row) => row.setting);
  const options = useMemo(() => (width) => ({
    height: 60 + 26 * inside.length,
    marginLeft: beside(names, width).margin,
    x: { label: "of all answers, %", grid: true, tickFormat: (share) => PERCENT(Math.abs(share)) },
    y: { label: null, domain: names, tickFormat: beside(names, width).cut },
    marks: [Plot.barX(rows, { x: "share", y: "setting", fill: "colour", inset: 2 }), Plot.ruleX([0])],
  }), [table]);
  if (!inside.length) return null;
  return (
    <>
      <Chart options={options} label="Answers that change within a pass; the numbers are in the table" />
      <Keys keys={[[NEGATIVE, "right to wrong (left)"], [POSITIVE, "wrong to right (right)"]]} />
    </>
  );
}

function Votes({ table }) {
  const rows = beyond(table, "votes", 1);
  const options = useMemo(() => (width) => {
    const { margin, cut } = beside(rows.map((row) => row.setting), width);
    return {
      height: HEIGHT,
      marginRight: margin,
      color: COLOUR,
      x: { type: "point", label: "votes" },
      y: { label: "accuracy, %", grid: true, domain: [0, highest(rows, "accuracy")], nice: true, tickFormat: PERCENT },
      marks: lines(rows, "votes", "accuracy", cut),
    };
  }, [table]);
  return rows.length ? <Chart options={options} label="Accuracy by number of votes; the numbers are in the table" /> : null;
}

function Cost({ table }) {
  const rows = rowsOf(table).filter((row) => row.tokens != null);
  const options = useMemo(() => (width) => {
    const { margin, cut } = beside(rows.map((row) => row.setting), width);
    const reach = (margin / (width - margin - 40)) * highest(rows, "tokens");
    return {
      height: HEIGHT,
      marginRight: margin,
      x: { label: "tokens a question", grid: true, zero: true },
      y: { label: "accuracy, %", grid: true, domain: [0, highest(rows, "accuracy")], nice: true, tickFormat: PERCENT },
      marks: [
        Plot.dot(rows, { x: "tokens", y: "accuracy", fill: POSITIVE, r: 4 }),
        Plot.text(apart(rows, "tokens", "accuracy", reach), { x: "tokens", y: "at", text: (row) => cut(row.setting), textAnchor: "start", dx: 8, fill: "currentColor" }),
      ],
    };
  }, [table]);
  return rows.length ? <Chart options={options} label="Accuracy against tokens; the numbers are in the table" /> : null;
}
