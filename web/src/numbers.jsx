// Numbers and tables. A number keeps its exact value in <data>, whatever is shown of it.

import { read } from "./data.js";

// Columns that are shares of one.
const SHARES = new Set([
  ..."accuracy mean_value fix_rate break_rate mean_confidence share_unsure chosen_longer".split(" "),
  ..."mean std std_teams low high behind wrong_to_right right_to_wrong voted unanswered_share".split(" "),
]);

export function percent(value) {
  if (value == null) return "–";
  const shown = (100 * value).toFixed(1);
  // Rounding must not make a rule of an exception.
  if (shown === "100.0" && value < 1) return ">99.9 %";
  if (shown === "0.0" && value > 0) return "<0.1 %";
  return `${shown.replace(/\.0$/, "")} %`;
}

export function shown(value, column = "") {
  if (value == null) return "–";
  if (typeof value !== "number") return String(value);
  if (SHARES.has(column)) return percent(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size >= 0.001 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

export function Value({ value, column, cell }) {
  if (typeof value !== "number") return <span>{shown(value, column)}</span>;
  return (
    <data value={String(value)} data-cell={cell} title={String(value)}>
      {shown(value, column)}
    </data>
  );
}

export const words = (name) => name.replaceAll("_", " ");

// A table of the facts. turned: a column for each row, which suits a few rows of many columns.
export function Table({ table, turned = false, heading }) {
  const cell = (row, column) => (
    <Value
      value={table.rows[row][column]}
      column={table.columns[column]}
      cell={`${table.id}/${row}/${table.columns[column]}`}
    />
  );
  const head = heading ?? table.columns[0];
  const first = table.columns.indexOf(head);
  const others = table.columns.map((_, index) => index).filter((index) => index !== first);
  const numeric = (column) => (typeof table.rows[0]?.[column] === "string" ? "" : "number");
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={`Table: ${table.title}`}>
      <table>
        {turned ? (
          <>
            <thead>
              <tr>
                <td />
                {table.rows.map((row) => <th scope="col" class="number">{row[first]}</th>)}
              </tr>
            </thead>
            <tbody>
              {others.map((column) => (
                <tr>
                  <th scope="row">{words(table.columns[column])}</th>
                  {table.rows.map((_, row) => <td class="number">{cell(row, column)}</td>)}
                </tr>
              ))}
            </tbody>
          </>
        ) : (
          <>
            <thead>
              <tr>
                {[first, ...others].map((column) => (
                  <th scope="col" class={numeric(column)}>{words(table.columns[column])}</th>
                ))}
              </tr>
            </thead>
            <tbody>
              {table.rows.map((row, index) => (
                <tr>
                  <th scope="row">{row[first] ?? "–"}</th>
                  {others.map((column) => <td class={numeric(column)}>{cell(index, column)}</td>)}
                </tr>
              ))}
            </tbody>
          </>
        )}
      </table>
    </div>
  );
}

export function Query({ table }) {
  if (!table.query) return null;
  return (
    <details class="query">
      <summary>SQL of “{table.title}”</summary>
      <pre tabIndex={0}>{`malt-data sql ${read("facts").kind.toUpperCase()} "${table.query.trim().replaceAll('"', '\\"')}"`}</pre>
    </details>
  );
}

export function Section({ table, children, note, turned, heading, open = true }) {
  return (
    <section id={`section-${table.id}`}>
      <h2>{table.title}</h2>
      {note && <p class="note">{note}</p>}
      {children}
      {table.rows.length === 0 ? <p class="note">Nothing to show.</p> : open ? (
        <Table table={table} turned={turned} heading={heading} />
      ) : (
        <details>
          <summary>Table of “{table.title}”</summary>
          <Table table={table} turned={turned} heading={heading} />
        </details>
      )}
      <Query table={table} />
    </section>
  );
}

export function Settings({ settings }) {
  return (
    <section>
      <h2>Settings</h2>
      <dl class="settings">
        {settings.map(([name, value]) => (
          <div>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
